"""How answers are compared with the truth: letters, boxes, the official VQA accuracy, and 95 % intervals."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from minigpt4.conversation.box_text import BOX_SCALE

BOX = re.compile(r"\{<(\d{1,3})><(\d{1,3})><(\d{1,3})><(\d{1,3})>\}")
RIGHT_FROM = 0.5
"""An answer that is right in part counts as wrong below this."""
LETTERS = ("A", "B", "C", "D")
"""The letters of the options of SEED-Bench and MMBench."""
CIRCLE = 1_000_000
"""MMBench numbers the rotations of a question `index + k * CIRCLE`."""
Z_95 = 1.959963984540054
"""The number of deviations within which the standard normal distribution has 95 % of its mass."""
NUM_RESAMPLES = 10_000

AGREEING = 3
"""The number of people who must have given an answer for it to be fully right."""
MAX_PERIODS = 32


def percent(values: Sequence[float]) -> float | None:
    """Return 100 x the mean, None without values."""
    return 100 * sum(values) / len(values) if values else None


def grouped(rights: Iterable[tuple[str, float]]) -> dict[str, list[float]]:
    """Return the values of each group of (group, how right), groups in alphabetical order."""
    groups: dict[str, list[float]] = {}
    for name, right in rights:
        groups.setdefault(name, []).append(right)
    return dict(sorted(groups.items()))


def wilson(num_right: int, num_asked: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, in percent; without questions it is 0 to 100."""
    if not num_asked:
        return 0.0, 100.0
    share, z2 = num_right / num_asked, Z_95**2
    middle = share + z2 / (2 * num_asked)
    half = Z_95 * math.sqrt(share * (1 - share) / num_asked + z2 / (4 * num_asked**2))
    scale = 100 / (1 + z2 / num_asked)
    return max(0.0, (middle - half) * scale), min(100.0, (middle + half) * scale)


def bootstrap(values: Sequence[float], *, seed: int) -> tuple[float, float]:
    """Return the 95 % percentile interval of the mean of values from 0 to 1, in percent, over resampled sets.

    The counts of the distinct values in a resampled set are drawn at once, which is the same and fast.
    """
    counts = Counter(values)
    distinct = sorted(counts)
    shares = np.array([counts[value] for value in distinct], dtype=np.float64) / len(values)
    drawn = np.random.default_rng(seed).multinomial(len(values), shares, size=NUM_RESAMPLES)
    means = drawn @ np.array(distinct) * (100 / len(values))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def circular_percent(rights: Iterable[tuple[int, float]]) -> float | None:
    """Return the percentage of MMBench questions that are right in every rotation, None where nothing is rotated."""
    circles: dict[int, list[float]] = {}
    for index, right in rights:
        circles.setdefault(index % CIRCLE, []).append(right)
    is_rotated = any(len(circle) > 1 for circle in circles.values())
    return percent([min(circle) for circle in circles.values()]) if is_rotated else None


def first_letter(answer: str) -> str:
    """Return the first character that is no blank, in upper case; empty where there is none."""
    return answer.strip()[:1].upper()


def leading_letter(answer: str) -> str | None:
    """Return the letter that an answer begins with as with a name ("B", "(b)", "b. x"), in upper case."""
    found = re.match(r"\(?([A-Za-z])\)?(?=[.:,)\n]|$)", answer.strip())
    return found[1].upper() if found else None


def read_letter(answer: str, options: Mapping[str, str]) -> str | None:
    """Return the letter of the option that an answer means, None when it means none.

    It means an option by its text, or by a leading letter ("B", "(b)", "b. x"). Or it names only one letter, as a
    single capital or in brackets ("The answer is (B)"); an article is no letter.
    """
    text = answer.strip()
    bare = text.rstrip(".").casefold()
    same = [letter for letter, option in options.items() if option.strip().rstrip(".").casefold() == bare]
    if same:
        return same[0]
    leading = leading_letter(text)
    if leading in options:
        return leading
    bracketed = {letter.upper() for letter in re.findall(r"\(([A-Za-z])\)", text)}
    alone = (bracketed or set(re.findall(r"\b[A-Z]\b(?!')", text))) & set(options)
    is_article = not bracketed and alone == {"A"} and not re.search(r"\bA\b(?! [a-z])", text)
    return alone.pop() if len(alone) == 1 and not is_article else None


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the IoU of two boxes (x1, y1, x2, y2) in pixels, both ends inside (a side is x2 - x1 + 1).

    An inverted box overlaps nothing.
    """
    if any(box[2] < box[0] or box[3] < box[1] for box in (first, second)):
        return 0.0
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (first, second)]
    return shared / (sum(areas) - shared)


def read_box(answer: str, *, width: float, height: float) -> list[float] | None:
    """Return the box (x1, y1, x2, y2) in pixels that an answer begins with, None when it holds other numbers too."""
    found = BOX.match(answer)
    if found is None or len(re.findall(r"\d+", answer)) != len(found.groups()):
        return None
    return [int(text) * size / BOX_SCALE for text, size in zip(found.groups(), (width, height) * 2, strict=True)]


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
