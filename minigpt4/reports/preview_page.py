"""preview.html: samples of every dataset with boxes drawn over their pictures, and the lengths of texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from minigpt4.reports.page import data_uri, write_page

SIDE = r"<(-?[0-9]{1,9})>"
BOX = re.compile(r"\{" + SIDE * 4 + r"\}")
BOX_TEXT = re.compile(r"(\{" + r"<-?[0-9]{1,9}>" * 4 + r"\})")
NUM_BARS = 24


@dataclass(frozen=True, slots=True)
class Token:
    """One token as text, or `count` neighbouring image tokens."""

    text: str
    trained: bool
    count: int = 1
    is_image: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample, as the model reads it: turns (prompt, answer), pictures (3, H, W) uint8, and tokens."""

    id: str
    turns: Sequence[tuple[str, str]]
    pictures: Sequence[Tensor]
    tokens: Sequence[Token]
    num_tokens: int
    num_trained: int


@dataclass(kw_only=True)
class DatasetView:
    """The page's values of one dataset; lengths are those of the measured samples, without image tokens."""

    name: str
    num_rows: int | None  # None for a stream
    batch_size: int
    ratio: float
    share: float
    num_image_tokens: float = 0.0  # the mean of a sample
    text_lengths: list[int] = field(default_factory=list)
    num_trained: list[int] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def tokens_a_step(self) -> float:
        """The mean number of tokens of a micro-batch of this dataset."""
        return (mean(self.text_lengths) + self.num_image_tokens) * self.batch_size


def write_preview_page(path: Path, views: Sequence[DatasetView]) -> Path:
    """Write the page; return its path. Raises: NotWrittenError."""
    return write_page(
        path,
        "preview.html.j2",
        views=views,
        mean=mean,
        num_samples=sum(view.share * view.batch_size for view in views),
        num_tokens=sum(view.share * view.tokens_a_step for view in views),
        num_measured=max((len(view.text_lengths) for view in views), default=0),
        largest_share=max((view.share for view in views), default=1.0),
        bars=histogram(views),
        figures=figures,
        pieces=BOX_TEXT.split,
    )


def mean(numbers: Sequence[int]) -> float:
    """Return the mean, 0 without numbers."""
    return sum(numbers) / max(len(numbers), 1)


def histogram(views: Sequence[DatasetView]) -> list[dict[str, float]]:
    """Return bars of text lengths; the weight of a dataset is its number of samples in a training."""
    longest = max((length for view in views for length in view.text_lengths), default=1)
    width = -(-(longest + 1) // NUM_BARS)
    weights = [0.0] * NUM_BARS
    for view in views:
        for length in view.text_lengths:
            weights[length // width] += view.share * view.batch_size / len(view.text_lengths)
    total, tallest = sum(weights) or 1.0, max(weights) or 1.0
    return [
        {"first": at * width, "last": (at + 1) * width - 1, "share": weight / total, "height": 120 * weight / tallest}
        for at, weight in enumerate(weights)
    ]


def figures(sample: Sample) -> list[dict[str, Any]]:
    """Return the pictures of a sample, each with all boxes (kind, left, top, width, height)."""
    boxes = []
    for at, kind in enumerate(("asked", "answered")):
        for left, top, right, bottom in (map(int, found) for turn in sample.turns for found in BOX.findall(turn[at])):
            boxes.append((kind, left, top, max(right - left, 0), max(bottom - top, 0)))
    pictures = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in sample.pictures]
    return [{"picture": data_uri(picture, quality=88), "boxes": boxes} for picture in pictures]
