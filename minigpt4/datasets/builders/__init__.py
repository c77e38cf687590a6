"""All dataset builders: importing this package registers them."""

from minigpt4.datasets import caption, conversations, custom, engine, flickr, grounding, streams, vqa

__all__ = ["caption", "conversations", "custom", "engine", "flickr", "grounding", "streams", "vqa"]
