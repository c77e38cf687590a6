"""Statements: what can be said of a scene that is true or false, and the same asked for a yes or a no."""

from __future__ import annotations

import random
from dataclasses import dataclass

from minigpt4.sample_world.questions import related
from minigpt4.sample_world.scenes import Scene

PHRASES = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}


@dataclass(frozen=True, slots=True)
class Statement:
    """Where one thing is, seen from another; `relation` is one of PHRASES."""

    subject: str
    relation: str
    object: str
    is_true: bool

    @property
    def text(self) -> str:
        """Return what it says."""
        return f"The {self.subject} is {PHRASES[self.relation]} the {self.object}."

    @property
    def truth(self) -> str:
        """Return true or false."""
        return str(self.is_true).lower()

    @property
    def question(self) -> str:
        """Return the same to be answered by yes or no."""
        return f"Is the {self.subject} {PHRASES[self.relation]} the {self.object}?"

    @property
    def answer(self) -> str:
        """Return yes or no."""
        return "yes" if self.is_true else "no"


def state(scene: Scene, rng: random.Random, *, is_true: bool) -> Statement | None:
    """Return a statement about two things of a scene, or None when none of them share a row or a column.

    A false one says the opposite of what is there.
    """
    pairs = list(related(scene))
    if not pairs:
        return None
    one, other, relation = rng.choice(pairs)
    return Statement(one.name, relation if is_true else OPPOSITES[relation], other.name, is_true)
