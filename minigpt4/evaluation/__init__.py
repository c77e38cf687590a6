"""Benchmarks: their questions, and how an answer is cleaned, saved and scored. Importing this registers them."""

from minigpt4.evaluation import benchmarks

__all__ = ["benchmarks"]
