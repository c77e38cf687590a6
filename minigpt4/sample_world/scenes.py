"""Scenes: one to four coloured shapes on a ground, with everything that there is to know about them.

A scene belongs to one split by what it shows (a hash of its content), so no two splits share one.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

from minigpt4.common.seeds import derive_rng

Split = Literal["train", "dev", "evaluation"]
"""Evaluation scores are printed; dev is for choosing steps and rates."""

SIDE = 112
"""Width and height of a picture in pixels."""
SIGN_TOP = 84
"""Below this row stands the sign with its word, above it the things."""

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SIZES = ("small", "large")
GROUNDS = ("grass", "sand", "snow", "night", "water")
WORDS = ("stop", "open", "exit", "taxi", "sale", "park", "milk", "fire")
PLACES = ("top left", "top right", "bottom left", "bottom right")

RADIUS = {"small": 10, "large": 17}
MAX_JITTER = 4
_SPLITS: dict[int, Split] = {0: "evaluation", 1: "dev"}


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn shape; `place` indexes PLACES, `x` and `y` are its centre in pixels."""

    shape: str
    colour: str
    size: str
    place: int
    x: int
    y: int

    @property
    def name(self) -> str:
        """Return what tells it from all others of its scene, "red circle"."""
        return f"{self.colour} {self.shape}"

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Return x, y, width and height in pixels."""
        radius = RADIUS[self.size]
        return self.x - radius, self.y - radius, 2 * radius + 1, 2 * radius + 1

    @property
    def row(self) -> int:
        """Return 0 in the upper half, 1 in the lower one."""
        return self.place // 2

    @property
    def column(self) -> int:
        """Return 0 on the left, 1 on the right."""
        return self.place % 2


@dataclass(frozen=True, slots=True)
class Scene:
    """The whole truth of one picture; `rope` holds the indices of the two things tied together."""

    number: int
    ground: str
    things: tuple[Thing, ...]
    word: str | None
    rope: tuple[int, int] | None

    @property
    def content(self) -> str:
        """Return what the picture shows, without the exact pixels: equal contents look the same to a question."""
        things = sorted(f"{t.place} {t.size} {t.name}" for t in self.things)
        tied = sorted(self.things[i].name for i in self.rope or ())
        return "|".join([self.ground, self.word or "-", *things, "rope", *tied])

    @property
    def split(self) -> Split:
        """Return which split the scene belongs to: one content in eight for evaluation, one in eight for dev."""
        digest = hashlib.blake2b(self.content.encode(), digest_size=2).digest()
        return _SPLITS.get(digest[0] % 8, "train")

    def count(self, attribute: Literal["shape", "colour", "size"]) -> Counter[str]:
        """Return how often each shape, colour or size is there."""
        return Counter(getattr(thing, attribute) for thing in self.things)


def make_scene(seed: int, split: Split, number: int) -> Scene:
    """Return scene `number` of a split; it depends on the arguments only. Raises: ValueError for an unknown split."""
    if split not in get_args(Split):
        raise ValueError(f"the sample world has no split '{split}', only {', '.join(get_args(Split))}")
    rng = derive_rng(seed, "sample_world", split, number)
    while True:
        scene = _draw_lots(rng, number)
        if scene.split == split:
            return scene


def _draw_lots(rng: random.Random, number: int) -> Scene:
    num_things = rng.choice((1, 2, 2, 3, 3, 3, 4, 4))
    things: list[Thing] = []
    for place in rng.sample(range(4), num_things):
        things.append(_new_thing(rng, place, things))
    rope = None
    if num_things > 1 and rng.random() < 0.6:
        first, second = rng.sample(range(num_things), 2)
        rope = (first, second)
    word = rng.choice(WORDS) if rng.random() < 0.75 else None
    return Scene(number=number, ground=rng.choice(GROUNDS), things=tuple(things), word=word, rope=rope)


def _new_thing(rng: random.Random, place: int, others: list[Thing]) -> Thing:
    """Return a thing whose name is new; now and then it takes a colour or a shape that is already there."""
    taken = {other.name for other in others}
    while True:
        shape, colour = rng.choice(SHAPES), rng.choice(COLOURS)
        if others and rng.random() < 0.5:
            if rng.random() < 0.5:
                shape = rng.choice(others).shape
            else:
                colour = rng.choice(others).colour
        if f"{colour} {shape}" not in taken:
            break
    x = SIDE // 4 + SIDE // 2 * (place % 2) + rng.randint(-2 * MAX_JITTER, 2 * MAX_JITTER)
    y = SIGN_TOP // 4 + SIGN_TOP // 2 * (place // 2) + rng.randint(-MAX_JITTER, MAX_JITTER)
    return Thing(shape=shape, colour=colour, size=rng.choice(SIZES), place=place, x=x, y=y)
