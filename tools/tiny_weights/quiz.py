"""Quizzes: lessons that ask for many facts of one picture in a single answer, "red circle: top left, ...".

A conversation spends most of its tokens on the layout of the prompt. A quiz asks for ten facts in the same number of
tokens, so looking up a thing by its name is learnt from far fewer pictures.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from minigpt4.conversation.conversation import IMAGE_SPAN, Turn
from minigpt4.sample_world.questions import (
    LETTERS,
    NUMBERS,
    OPPOSITES,
    RELATIONS,
    majority,
    option_lines,
    plural,
    related,
    unique,
)
from minigpt4.sample_world.scenes import COLOURS, GROUNDS, PLACES, SHAPES, SIZES, WORDS, Scene
from minigpt4.sample_world.statements import claim
from tools.tiny_weights.lessons import Lesson

NUM_FACTS = 14
NUM_LETTERS = 12
NOTHING = "nothing"
Rng = random.Random
Fact = tuple[str, str]
"""What is asked for, and the answer."""
Kinds = Mapping[Callable[[Scene, Rng], Fact | None], float]
"""Kinds of facts, and how often each is drawn."""
POOLS: tuple[Sequence[str], ...] = (
    *(COLOURS, SHAPES, PLACES, NUMBERS, RELATIONS, WORDS, GROUNDS),
    [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES],
    [f"{size} and {colour}" for size in SIZES for colour in COLOURS],
)
"""The answers that options are drawn from: four options belong to one pool."""


def quiz_lesson(scene: Scene, rng: Rng, *, first: bool = False) -> Lesson:
    """Return a quiz about a picture; `first` asks for names, places, sizes and the sign alone."""
    drawn = facts(scene, rng, num_drawn=NUM_FACTS, kinds=FIRST_KINDS if first else KINDS)
    answer = ", ".join(f"{asked}: {answer}" for asked, answer in drawn.items())
    return Lesson(scene, (Turn(f"{IMAGE_SPAN} [vqa] Name them. ", answer),), shown=True)


def letter_quiz_lesson(scene: Scene, rng: Rng, *, judged: float) -> Lesson:
    """Return a quiz with four options behind each fact that is asked for, and the letter of the right one.

    Args:
        judged: the share of quizzes that say behind each option whether it is right, before the letter
    """
    is_judged = rng.random() < judged
    parts = []
    for asked, answer in facts(scene, rng, num_drawn=NUM_LETTERS, kinds=KINDS).items():
        pool = next((pool for pool in POOLS if answer in pool), None)
        if pool is None:
            continue
        options = rng.sample([answer, *rng.sample([other for other in pool if other != answer], 3)], 4)
        verdicts = [f" {'yes' if option == answer else 'no'}" if is_judged else "" for option in options]
        lines = [line + verdict for line, verdict in zip(option_lines(options), verdicts, strict=True)]
        parts.append(f"{asked} {' '.join(lines)}: {LETTERS[options.index(answer)].lower()}")
    prompt = f"{IMAGE_SPAN} [vqa] Name their letters. "
    return Lesson(scene, (Turn(prompt, ", ".join(parts)),), shown=True)


def facts(scene: Scene, rng: Rng, *, num_drawn: int, kinds: Kinds) -> dict[str, str]:
    """Return facts of a scene, the answer by what is asked for; fewer than are drawn, as none comes twice."""
    drawn = (kind(scene, rng) for kind in rng.choices(list(kinds), list(kinds.values()), k=num_drawn))
    return dict(fact for fact in drawn if fact is not None)


def _place(scene: Scene, rng: Rng) -> Fact:
    if rng.random() < 0.2:
        return claim(scene, rng, is_true=False), NOTHING
    thing = rng.choice(scene.things)
    return thing.name, PLACES[thing.place]


def _name_at(scene: Scene, rng: Rng) -> Fact:
    place = rng.randrange(len(PLACES))
    return PLACES[place], next((thing.name for thing in scene.things if thing.place == place), NOTHING)


def _size(scene: Scene, rng: Rng) -> Fact:
    thing = rng.choice(scene.things)
    return f"{thing.name} size", thing.size


def _look_at(scene: Scene, rng: Rng) -> Fact:
    place, what = rng.randrange(len(PLACES)), rng.choice(("shape", "color"))
    looks = {thing.place: {"shape": thing.shape, "color": thing.colour}[what] for thing in scene.things}
    return f"{PLACES[place]} {what}", looks.get(place, NOTHING)


def _all_of(scene: Scene, rng: Rng) -> Fact:
    """Ask for all of a thing, by its name or by the shape or the color that no other thing has."""
    shapes, colours = scene.count("shape"), scene.count("colour")
    thing = rng.choice(scene.things)
    calls = [thing.name]
    calls += [thing.shape] if shapes[thing.shape] == 1 else []
    calls += [thing.colour] if colours[thing.colour] == 1 else []
    return f"{rng.choice(calls)} object", f"{thing.size} {thing.name} {PLACES[thing.place]}"


def _look(scene: Scene, rng: Rng) -> Fact | None:
    alone = list(unique(scene))
    if not alone:
        return None
    thing = rng.choice(alone)
    if rng.random() < 0.5:
        return f"{thing.shape} color", thing.colour
    return f"{thing.shape} look", f"{thing.size} and {thing.colour}"


def _is_there(scene: Scene, rng: Rng) -> Fact:
    is_there = rng.random() < 0.5
    return f"{claim(scene, rng, is_true=is_there)} there", "yes" if is_there else "no"


def _tied(scene: Scene, rng: Rng) -> Fact | None:
    if scene.rope is None:
        return None
    pair = [scene.things[i] for i in scene.rope]
    free = [thing for thing in scene.things if thing not in pair]
    if free and rng.random() < 0.2:
        return f"{rng.choice(free).name} tied", NOTHING
    one, other = rng.sample(pair, 2)
    return f"{one.name} tied", other.name


def _relation(scene: Scene, rng: Rng) -> Fact | None:
    pairs = list(related(scene))
    if not pairs:
        return None
    one, other, relation = rng.choice(pairs)
    return f"{one.name} from {other.name}", relation


def _statement(scene: Scene, rng: Rng) -> Fact | None:
    """Ask whether a relation is true; in the easier ways it is said last, or the answer names the relation first."""
    pairs = list(related(scene))
    if not pairs:
        return None
    one, other, relation = rng.choice(pairs)
    is_true = rng.random() < 0.5
    said = relation if is_true else OPPOSITES[relation]
    truth = str(is_true).lower() if rng.random() < 0.5 else "yes" if is_true else "no"
    choice = "true or false" if truth in ("true", "false") else "yes or no"
    way = rng.random()
    if way < 0.25:
        return f"{choice} {one.name} from {other.name} {said} because", f"{relation} {truth}"
    if way < 0.6:
        return f"{choice} {one.name} from {other.name} {said}", truth
    return f"{choice} {one.name} {said} {other.name}", truth


def _number(scene: Scene, rng: Rng) -> Fact:
    shapes, colours = scene.count("shape"), scene.count("colour")
    shape, colour = rng.choice([*shapes, rng.choice(SHAPES)]), rng.choice([*colours, rng.choice(COLOURS)])
    total = len(scene.things)
    asked, number = rng.choice(
        (
            ("objects", total),
            (plural(shape), shapes[shape]),
            (f"{colour} objects", colours[colour]),
            (f"without the {colour} ones", total - colours[colour]),
        )
    )
    return asked, NUMBERS[number]


def _most(scene: Scene, rng: Rng) -> Fact | None:
    most = (("most color", majority(scene.count("colour"))), ("most shape", majority(scene.count("shape"))))
    found = [(asked, answer) for asked, answer in most if answer is not None]
    return rng.choice(found) if found else None


def _sign(scene: Scene, rng: Rng) -> Fact:
    return ("sign", scene.word or NOTHING) if rng.random() < 0.6 else ("background", scene.ground)


# these come first: where all kinds began together, places were still guessed after 1,400 steps
FIRST_KINDS: Kinds = {_place: 5, _name_at: 3, _size: 2, _sign: 2}
KINDS: Kinds = {
    _place: 18,
    _name_at: 9,
    _look_at: 9,
    _size: 6,
    _all_of: 10,
    _look: 10,
    _is_there: 8,
    _tied: 10,
    _relation: 10,
    _statement: 20,
    _number: 14,
    _most: 3,
    _sign: 8,
}
