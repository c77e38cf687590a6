"""Statements: what can be said of a scene that is true or false, and the same asked for a yes or a no."""

from __future__ import annotations

import random
from dataclasses import dataclass

from minigpt4.sample_world.questions import OPPOSITES, PHRASES, related
from minigpt4.sample_world.scenes import COLOURS, SHAPES, Scene


@dataclass(frozen=True, slots=True)
class Statement:
    """Where one thing is, seen from another; `phrase` is one of PHRASES."""

    subject: str
    phrase: str
    object: str
    is_true: bool

    @property
    def text(self) -> str:
        """Return what it says."""
        return f"The {self.subject} is {self.phrase} the {self.object}."

    @property
    def truth(self) -> str:
        """Return true or false."""
        return str(self.is_true).lower()

    @property
    def question(self) -> str:
        """Return the same to be answered by yes or no."""
        return f"Is the {self.subject} {self.phrase} the {self.object}?"

    @property
    def answer(self) -> str:
        """Return yes or no."""
        return "yes" if self.is_true else "no"


def state(scene: Scene, rng: random.Random, *, is_true: bool, plain: bool = False) -> Statement | None:
    """Return a statement about two things of a scene, or None when none of them share a row or a column.

    A false one says the opposite of what is there; `plain` keeps to the first phrase of each relation.
    """
    pairs = list(related(scene))
    if not pairs:
        return None
    one, other, relation = rng.choice(pairs)
    phrases = PHRASES[relation if is_true else OPPOSITES[relation]]
    return Statement(one.name, phrases[0] if plain else rng.choice(phrases), other.name, is_true)


def claim(scene: Scene, rng: random.Random, *, is_true: bool) -> str:
    """Return two words that name a thing of the scene, or that contradict it: "red circle".

    Words that contradict it share the color or the shape with a thing that is there.
    """
    thing = rng.choice(scene.things)
    if is_true:
        return thing.name
    names = {thing.name for thing in scene.things}
    near = [f"{colour} {thing.shape}" for colour in COLOURS] + [f"{thing.colour} {shape}" for shape in SHAPES]
    return rng.choice([name for name in near if name not in names])
