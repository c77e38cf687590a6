"""The official VQA accuracy: how far an answer agrees with ten people, each left out in turn."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

AGREEING = 3
"""The number of people who must have given an answer for it to be fully right."""
MAX_PERIODS = 32


@cache
def _tables() -> dict[str, Any]:
    file = resources.files("minigpt4.evaluation") / "vqa_normalization.json"
    tables: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return tables


def without_punctuation(text: str) -> str:
    """Return the text with marks deleted or turned into blanks, and without periods that no digit follows."""
    has_grouped_digits = re.search(r"\d,\d", text) is not None
    cleaned = text
    for mark in _tables()["punctuation"]:
        beside_blank = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_blank or has_grouped_digits else " ")
    return re.sub(r"\.(?!\d)", "", cleaned, count=MAX_PERIODS)


def plain_words(text: str) -> str:
    """Return the words in lower case, number words as digits, without articles, contractions with apostrophe."""
    tables = _tables()
    words = [tables["number_words"].get(word, word) for word in text.lower().split()]
    return " ".join(tables["contractions"].get(word, word) for word in words if word not in tables["articles"])


def normalise(text: str) -> str:
    """Return what is compared where people disagree."""
    return plain_words(without_punctuation(text))


def vqa_accuracy(answer: str, records: Sequence[Mapping[str, Any]]) -> float:
    """Return the accuracy (0 to 1) of an answer against the human answer records ({answer, answer_id, ..}).

    Each record is left out in turn. Records that are equal as a whole once their answers are normalised are left out
    together. Records with different answer_ids are never equal.
    """
    answer, people = _one_line(answer), [_one_line(record["answer"]) for record in records]
    if len(set(people)) > 1:
        answer, people = normalise(answer), [normalise(text) for text in people]
    compared = [{**record, "answer": text} for record, text in zip(records, people, strict=True)]
    scores = []
    for left_out in compared:
        others = [record["answer"] for record in compared if record != left_out]
        agreeing = sum(text.lower() == answer.lower() for text in others)
        scores.append(min(1.0, agreeing / AGREEING))
    return sum(scores) / len(scores) if scores else 0.0


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
