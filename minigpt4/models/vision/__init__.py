"""Vision towers; importing the package registers them."""

from minigpt4.models.vision import eva as eva
