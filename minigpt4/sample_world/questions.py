"""Questions: what can be asked about a scene, in SEED's nine types, each with its answer and three wrong ones.

The base datasets ask each question in its plain wording. The engine's data and the benchmarks use all wordings, and
ask questions that the base datasets lack.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from minigpt4.sample_world.scenes import COLOURS, GROUNDS, PLACES, SHAPES, SIZES, WORDS, Scene, Thing

TYPE_NAMES = {
    1: "Scene Understanding",
    2: "Instance Identity",
    3: "Instance Attributes",
    4: "Instance Location",
    5: "Instances Counting",
    6: "Spatial Relation",
    7: "Instance Interaction",
    8: "Visual Reasoning",
    9: "Text Understanding",
}
NUMBERS = ("zero", "one", "two", "three", "four")
RELATIONS = ("left", "right", "above", "below")
OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}
PHRASES = {
    "left": ("left of", "to the left of", "on the left side of"),
    "right": ("right of", "to the right of", "on the right side of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}
"""How each relation is said; the first phrase is the plain one."""
LETTERS = "ABCD"
UNANSWERABLE = "unanswerable"
"""The answer to a question that the picture does not answer."""
NEITHER = ("only one of them is there", "neither of them is there")
"""Wrong answers to a question for yes or no."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question about a scene; `sentence` is the answer said in full."""

    qtype: int
    text: str
    answer: str
    wrong: tuple[str, str, str]
    sentence: str

    def options(self, position: int) -> tuple[str, ...]:
        """Return the four options with the right one at `position` (0..3)."""
        return (*self.wrong[:position], self.answer, *self.wrong[position:])


@dataclass(frozen=True, slots=True)
class Asked:
    """What can be asked: wordings, the plain one first; answer; pool of wrong answers; the answer in full.

    `plain` is False for a question that the base datasets lack.
    """

    wordings: tuple[str, ...]
    answer: str
    pool: Sequence[str]
    sentence: str
    plain: bool = True


def plural(shape: str) -> str:
    """Return the plural of a shape's name."""
    return "crosses" if shape == "cross" else f"{shape}s"


def occasions(scene: Scene, qtype: int) -> Iterator[Asked]:
    """Yield everything that can be asked about a scene in one type."""
    yield from _ASKERS[qtype](scene)


def ask(scene: Scene, qtype: int, rng: random.Random, *, plain: bool = False) -> Question | None:
    """Return a question of a type about a scene, or None when the scene gives no occasion for one.

    `plain` leaves out what the base datasets lack.
    """
    choices = [asked for asked in occasions(scene, qtype) if asked.plain or not plain]
    if not choices:
        return None
    asked = rng.choice(choices)
    text = asked.wordings[0] if plain else rng.choice(asked.wordings)
    return Question(qtype, text, asked.answer, _three_of(asked.pool, asked.answer, rng), asked.sentence)


def ask_all(scene: Scene, rng: random.Random, *, plain: bool = False) -> list[Question]:
    """Return one question of each type that the scene gives occasion for."""
    questions = (ask(scene, qtype, rng, plain=plain) for qtype in TYPE_NAMES)
    return [question for question in questions if question is not None]


def ask_in_vain(scene: Scene, rng: random.Random) -> str:
    """Return a question that the picture does not answer, about a sign or a shape that is not there."""
    if scene.word is None and rng.random() < 0.5:
        return "What word is on the sign?"
    absent = [shape for shape in SHAPES if shape not in scene.count("shape")]
    return f"What color is the {rng.choice(absent)}?"


def _three_of(pool: Sequence[str], answer: str, rng: random.Random) -> tuple[str, str, str]:
    """Draw three wrong answers."""
    others = [text for text in dict.fromkeys(pool) if text != answer]
    first, second, third = rng.sample(others, 3)
    return first, second, third


def unique(scene: Scene) -> Iterator[Thing]:
    """Yield the things that their shape alone tells from the others."""
    shapes = scene.count("shape")
    return (thing for thing in scene.things if shapes[thing.shape] == 1)


def _ask_ground(scene: Scene) -> Iterator[Asked]:
    sentence = f"the background is {scene.ground}"
    wordings = (
        "What is the background of the picture?",
        "What is behind the objects?",
        "Which background does the picture have?",
        "What kind of ground can be seen?",
    )
    yield Asked(wordings, scene.ground, GROUNDS, sentence)
    for thing in scene.things:
        behind = (f"What is behind the {thing.name}?", f"Which background does the {thing.name} have?")
        yield Asked(behind, scene.ground, GROUNDS, sentence, plain=False)


def _ask_identity(scene: Scene) -> Iterator[Asked]:
    colours = scene.count("colour")
    for thing in scene.things:
        place = PLACES[thing.place]
        wordings = (
            f"What is in the {place}?",
            f"What can be seen in the {place}?",
            f"Which shape is in the {place} of the picture?",
        )
        yield Asked(wordings, thing.shape, SHAPES, f"there is a {thing.shape} in the {place}")
        if colours[thing.colour] == 1:
            by_colour = (f"What is the {thing.colour} object?", f"Which shape does the {thing.colour} object have?")
            yield Asked(by_colour, thing.shape, SHAPES, f"the {thing.colour} object is a {thing.shape}", plain=False)


def _ask_attribute(scene: Scene) -> Iterator[Asked]:
    looks = [f"{size} and {colour}" for size in SIZES for colour in COLOURS]
    for thing in unique(scene):
        look = f"{thing.size} and {thing.colour}"
        colour = (
            f"What color is the {thing.shape}?",
            f"Which color does the {thing.shape} have?",
            f"What is the color of the {thing.shape}?",
        )
        yield Asked(colour, thing.colour, COLOURS, f"the {thing.shape} is {thing.colour}")
        seen = (f"What does the {thing.shape} look like?", f"How does the {thing.shape} look?")
        yield Asked(seen, look, _near(look, looks), f"the {thing.shape} is {look}")
    for thing in scene.things:
        place = PLACES[thing.place]
        there = (f"What color is the object in the {place}?", f"Which color can be seen in the {place}?")
        yield Asked(there, thing.colour, COLOURS, f"the object in the {place} is {thing.colour}", plain=False)


def _near(look: str, looks: Iterable[str]) -> list[str]:
    """Return the looks that share size or colour, so that half an answer does not do."""
    words = look.split(" and ")
    return [other for other in looks if any(word in other.split(" and ") for word in words)]


def _ask_location(scene: Scene) -> Iterator[Asked]:
    for thing in scene.things:
        place = PLACES[thing.place]
        wordings = (
            f"Where is the {thing.name}?",
            f"Where can the {thing.name} be seen?",
            f"In which corner is the {thing.name}?",
            f"Which part of the picture shows the {thing.name}?",
        )
        yield Asked(wordings, place, PLACES, f"the {thing.name} is in the {place}")


def _ask_count(scene: Scene) -> Iterator[Asked]:
    total = len(scene.things)
    yield _count("objects", total, f"there are {NUMBERS[total]} objects")
    shapes, colours = scene.count("shape"), scene.count("colour")
    for kinds, counts, names in ((SHAPES, shapes, plural), (COLOURS, colours, "{} objects".format)):
        absent = next(kind for kind in kinds if kind not in counts)
        for kind in (*counts, absent):
            yield _count(names(kind), counts[kind], f"the number of {names(kind)} is {NUMBERS[counts[kind]]}")
    for thing in scene.things:
        besides = (f"How many objects are there besides the {thing.name}?",)
        others = NUMBERS[total - 1]
        yield Asked(besides, others, NUMBERS, f"besides the {thing.name} there are {others}", plain=False)


def _count(what: str, count: int, sentence: str) -> Asked:
    wordings = (f"How many {what} are there?", f"How many {what} can be seen?", f"What is the number of {what}?")
    return Asked(wordings, NUMBERS[count], NUMBERS, sentence)


def related(scene: Scene) -> Iterator[tuple[Thing, Thing, str]]:
    """Yield all pairs of things in one row or column, and where the first is seen from the second (RELATIONS)."""
    for one in scene.things:
        for other in scene.things:
            if one is other or (one.row != other.row and one.column != other.column):
                continue
            if one.row == other.row:
                yield one, other, "left" if one.column < other.column else "right"
            else:
                yield one, other, "above" if one.row < other.row else "below"


def _ask_relation(scene: Scene) -> Iterator[Asked]:
    for one, other, answer in related(scene):
        sentence = f"the {one.name} is {answer} seen from the {other.name}"
        wordings = (
            f"Where is the {one.name} seen from the {other.name}?",
            f"On which side of the {other.name} is the {one.name}?",
        )
        yield Asked(wordings, answer, RELATIONS, sentence)
        for phrase, opposite in zip(PHRASES[answer], PHRASES[OPPOSITES[answer]], strict=True):
            true, false = (f"Is the {one.name} {said} the {other.name}?" for said in (phrase, opposite))
            yield Asked((true,), "yes", ("no", *NEITHER), f"yes, {sentence}", plain=False)
            yield Asked((false,), "no", ("yes", *NEITHER), f"no, {sentence}", plain=False)


def _ask_interaction(scene: Scene) -> Iterator[Asked]:
    if scene.rope is None:
        return
    pair = [scene.things[i] for i in scene.rope]
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    for one, other in (pair, pair[::-1]):
        tempting = [thing.name for thing in scene.things if thing is not one]
        near = [name for name in names if name.split()[0] == other.colour or name.split()[1] == other.shape]
        wordings = (
            f"What is the {one.name} tied to?",
            f"Which object is tied to the {one.name}?",
            f"What is on the other side of the rope of the {one.name}?",
        )
        pool = [name for name in tempting + near if name != one.name]
        yield Asked(wordings, other.name, pool, f"the {one.name} is tied to the {other.name}")


def _ask_reasoning(scene: Scene) -> Iterator[Asked]:
    yield from _ask_majority("color", scene.count("colour"), COLOURS)
    yield from _ask_majority("shape", scene.count("shape"), SHAPES)
    for colour, count in scene.count("colour").items():
        yield _ask_left(scene, f"{colour} ones", count)
    for shape, count in scene.count("shape").items():
        yield _ask_left(scene, plural(shape), count, plain=False)


def _ask_left(scene: Scene, what: str, count: int, *, plain: bool = True) -> Asked:
    left = NUMBERS[len(scene.things) - count]
    wordings = (
        f"How many objects are left without the {what}?",
        f"Without the {what}, how many objects can be seen?",
    )
    return Asked(wordings, left, NUMBERS, f"without the {what} the number left is {left}", plain)


def majority(counts: Counter[str]) -> str | None:
    """Return what is there more than once and more often than all else, or None."""
    (most, highest), *others = counts.most_common()
    return most if highest > 1 and all(count < highest for _, count in others) else None


def _ask_majority(attribute: str, counts: Counter[str], values: Sequence[str]) -> Iterator[Asked]:
    most = majority(counts)
    if most is not None:
        wordings = (f"Which {attribute} is there most of?", f"Which {attribute} do most objects have?")
        yield Asked(wordings, most, values, f"there is most of {most}")


def _ask_text(scene: Scene) -> Iterator[Asked]:
    if scene.word is not None:
        wordings = (
            "What word is on the sign?",
            "Which word can be seen on the sign?",
            "What does the sign say?",
            f"What word is on the sign on the {scene.ground}?",
        )
        sentence = f"the word on the sign is {scene.word}"
        yield Asked(wordings, scene.word, WORDS, sentence)
        for thing in scene.things:
            yield Asked((f"Which word can be seen under the {thing.name}?",), scene.word, WORDS, sentence, plain=False)


_ASKERS: dict[int, Callable[[Scene], Iterator[Asked]]] = {
    1: _ask_ground,
    2: _ask_identity,
    3: _ask_attribute,
    4: _ask_location,
    5: _ask_count,
    6: _ask_relation,
    7: _ask_interaction,
    8: _ask_reasoning,
    9: _ask_text,
}


def option_lines(options: Sequence[str]) -> list[str]:
    """Return the options, each behind its letter."""
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
