"""The published mixture with made-up samples: its 25 datasets' batch sizes and ratios, texts of stated lengths."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from minigpt4.common.registry import registry
from minigpt4.conversation.conversation import IMAGE_SPAN, Example, Turn
from minigpt4.datasets.images import read_image

NUM_ROWS = 20_000
MAX_TOKENS = 1000
PICTURE = (640, 480)


class Text(NamedTuple):
    """Tokens of a dataset's texts: the means of exponential distributions, cut at 2 and MAX_TOKENS, and the turns."""

    question: int
    answer: int
    turns: int = 1


TEXTS: Mapping[str, Text] = {
    "engine_da": Text(22, 14),
    "engine_mc": Text(75, 2),
    "engine_mcp": Text(75, 2),
    "multitask_conversation": Text(14, 26, 4),
    "llava_conversation": Text(14, 40, 4),
    "unnatural_instruction": Text(60, 30),
    "refvg": Text(14, 21),
    "llava_detail": Text(14, 120),
    "llava_reason": Text(22, 120),
    "flickr_grounded_caption": Text(12, 110),
    "flickr_CaptionToPhrase": Text(24, 100),
    "flickr_ObjectToPhrase": Text(8, 34),
    "coco_caption": Text(12, 13),
    "textcaps_caption": Text(12, 16),
    "refcoco": Text(12, 21),
    "refcocop": Text(12, 21),
    "refcocog": Text(18, 21),
    "invrefcoco": Text(30, 6),
    "invrefcocop": Text(30, 6),
    "invrefcocog": Text(30, 12),
    "coco_vqa": Text(20, 3),
    "ok_vqa": Text(22, 3),
    "aok_vqa": Text(24, 3),
    "gqa": Text(22, 3),
    "ocrvqa": Text(20, 8),
}
"""Our estimates from the formats (a box alone is some twenty tokens); the speed of real data depends on these."""


def write_pictures(folder: Path, *, count: int) -> list[Path]:
    """Write JPEG files of a camera's size and some detail; return their paths."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.jpg")
        Image.fromarray(coarse).resize(PICTURE, Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


class MadeUpDataset:
    """Rows with a dataset's kind of text and one of the pictures, read and resized as real ones are."""

    is_stream = False

    def __init__(self, name: str, pictures: Sequence[Path], *, image_size: int) -> None:
        self.name, self.text, self.pictures = name, TEXTS[name], pictures
        self.has_image = name != "unnatural_instruction"
        self.processor = registry.get_processor_class("blip2_image_train")(image_size)

    def __len__(self) -> int:
        """Return the number of rows."""
        return NUM_ROWS

    def row_lengths(self, costs: Any) -> None:
        """Return nothing: without other ranks no row is moved by its length."""

    def turns(self, rng: random.Random) -> tuple[Turn, ...]:
        """Return a row's texts."""
        question, answer, count = self.text
        turns = [Turn(_letters(question, rng), _letters(answer, rng)) for _ in range(count)]
        if self.has_image:
            turns[0] = Turn(f"{IMAGE_SPAN} {turns[0].prompt} ", turns[0].answer)
        return tuple(turns)

    def get(self, index: int, rng: random.Random) -> Example:
        """Return a row as an Example."""
        turns = self.turns(rng)
        images: tuple[Tensor, ...] = ()
        if self.has_image:
            images = (self.processor(read_image(str(self.pictures[index % len(self.pictures)]))),)
        return Example(turns=turns, images=images, id=f"{self.name}[{index}]")


def _letters(mean: int, rng: random.Random) -> str:
    """Return a text of letters, each a token of the byte tokenizer that random weights come with."""
    length = max(2, min(MAX_TOKENS, round(rng.expovariate(1 / mean))))
    return "".join(rng.choices("abcdefgh", k=length))
