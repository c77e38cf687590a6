"""Image and text processors; importing the package registers them."""

from minigpt4.processors import blip_processors as blip_processors
