"""Benchmarks: their questions, and how an answer is cleaned, saved and scored. Importing this registers them."""

from minigpt4.evaluation.benchmarks import choice, refcoco, short_answer, vqa

__all__ = ["choice", "refcoco", "short_answer", "vqa"]
