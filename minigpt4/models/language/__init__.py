"""Language models; importing the package registers them."""

from minigpt4.models.language import llama as llama
