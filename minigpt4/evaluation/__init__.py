"""Benchmarks: what they ask, how an answer is cleaned, saved and scored. Importing this registers all of them."""

from minigpt4.evaluation import benchmarks

__all__ = ["benchmarks"]
