"""Questions: what can be asked about a scene, in SEED's nine types, each with its answer and three wrong ones."""

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
LETTERS = "ABCD"


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


def plural(shape: str) -> str:
    """Return the plural of a shape's name."""
    return "crosses" if shape == "cross" else f"{shape}s"


def ask(scene: Scene, qtype: int, rng: random.Random) -> Question | None:
    """Return a question of a type about a scene, or None when the scene gives no occasion for one."""
    choices = list(_ASKERS[qtype](scene))
    if not choices:
        return None
    text, answer, others, sentence = rng.choice(choices)
    return Question(qtype, text, answer, _three_of(others, answer, rng), sentence)


def ask_all(scene: Scene, rng: random.Random) -> list[Question]:
    """Return one question of each type that the scene gives occasion for."""
    questions = (ask(scene, qtype, rng) for qtype in TYPE_NAMES)
    return [question for question in questions if question is not None]


def ask_in_vain(scene: Scene, rng: random.Random) -> str:
    """Return a question that the picture does not answer, about a sign or a shape that is not there."""
    if scene.word is None:
        return "What word is on the sign?"
    absent = [shape for shape in SHAPES if shape not in scene.count("shape")]
    return f"What color is the {rng.choice(absent)}?"


Asked = tuple[str, str, Sequence[str], str]
"""Text, answer, pool that wrong answers are drawn from, full sentence."""


def _three_of(pool: Sequence[str], answer: str, rng: random.Random) -> tuple[str, str, str]:
    """Draw three wrong answers."""
    others = [text for text in dict.fromkeys(pool) if text != answer]
    first, second, third = rng.sample(others, 3)
    return first, second, third


def _unique(scene: Scene) -> Iterator[Thing]:
    """Yield the things that their shape alone tells from the others."""
    shapes = scene.count("shape")
    return (thing for thing in scene.things if shapes[thing.shape] == 1)


def _ask_ground(scene: Scene) -> Iterator[Asked]:
    yield "What is the background of the picture?", scene.ground, GROUNDS, f"the background is {scene.ground}"


def _ask_identity(scene: Scene) -> Iterator[Asked]:
    for thing in scene.things:
        place = PLACES[thing.place]
        yield f"What is in the {place}?", thing.shape, SHAPES, f"there is a {thing.shape} in the {place}"


def _ask_attribute(scene: Scene) -> Iterator[Asked]:
    looks = [f"{size} and {colour}" for size in SIZES for colour in COLOURS]
    for thing in _unique(scene):
        look = f"{thing.size} and {thing.colour}"
        yield f"What color is the {thing.shape}?", thing.colour, COLOURS, f"the {thing.shape} is {thing.colour}"
        yield f"What does the {thing.shape} look like?", look, _near(look, looks), f"the {thing.shape} is {look}"


def _near(look: str, looks: Iterable[str]) -> list[str]:
    """Return the looks that share size or colour, so that half an answer does not do."""
    words = look.split(" and ")
    return [other for other in looks if any(word in other.split(" and ") for word in words)]


def _ask_location(scene: Scene) -> Iterator[Asked]:
    for thing in scene.things:
        place = PLACES[thing.place]
        yield f"Where is the {thing.name}?", place, PLACES, f"the {thing.name} is in the {place}"


def _ask_count(scene: Scene) -> Iterator[Asked]:
    total = NUMBERS[len(scene.things)]
    yield "How many objects are there?", total, NUMBERS[1:], f"there are {total} objects"
    for shape, count in scene.count("shape").items():
        text = f"How many {plural(shape)} are there?"
        yield text, NUMBERS[count], NUMBERS, f"the number of {plural(shape)} is {NUMBERS[count]}"
    for colour, count in scene.count("colour").items():
        text = f"How many {colour} objects are there?"
        yield text, NUMBERS[count], NUMBERS, f"the number of {colour} objects is {NUMBERS[count]}"


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
        text = f"Where is the {one.name} seen from the {other.name}?"
        yield text, answer, RELATIONS, f"the {one.name} is {answer} seen from the {other.name}"


def _ask_interaction(scene: Scene) -> Iterator[Asked]:
    if scene.rope is None:
        return
    pair = [scene.things[i] for i in scene.rope]
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    for one, other in (pair, pair[::-1]):
        tempting = [thing.name for thing in scene.things if thing is not one]
        near = [name for name in names if name.split()[0] == other.colour or name.split()[1] == other.shape]
        text = f"What is the {one.name} tied to?"
        pool = [name for name in tempting + near if name != one.name]
        yield text, other.name, pool, f"the {one.name} is tied to the {other.name}"


def _ask_reasoning(scene: Scene) -> Iterator[Asked]:
    yield from _ask_majority("color", scene.count("colour"), COLOURS)
    yield from _ask_majority("shape", scene.count("shape"), SHAPES)
    for colour, count in scene.count("colour").items():
        left = NUMBERS[len(scene.things) - count]
        text = f"How many objects are left without the {colour} ones?"
        yield text, left, NUMBERS, f"without the {colour} ones the number left is {left}"


def _ask_majority(attribute: str, counts: Counter[str], values: Sequence[str]) -> Iterator[Asked]:
    (most, highest), *others = counts.most_common()
    if highest > 1 and all(count < highest for _, count in others):
        yield f"Which {attribute} is there most of?", most, values, f"there is most of {most}"


def _ask_text(scene: Scene) -> Iterator[Asked]:
    if scene.word is not None:
        yield "What word is on the sign?", scene.word, WORDS, f"the word on the sign is {scene.word}"


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
