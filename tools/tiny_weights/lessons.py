"""Lessons: the conversations that the tiny model is pre-trained on, over pictures or over descriptions of them.

The choice of an option by letter is asked for in other words than SEED-Bench and the engine use; those words are
met only where the answer is wanted in words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from minigpt4.conversation.conversation import IMAGE_SPAN, Turn
from minigpt4.conversation.prompt_templates import fill, load_templates
from minigpt4.sample_world.captions import full_caption, short_caption
from minigpt4.sample_world.questions import LETTERS, Question, ask_all, option_lines
from minigpt4.sample_world.scenes import Scene

REPLY_BY_LETTER = "Reply with one letter."
REPLY_IN_WORDS = "Answer with the option's text from the given choices directly."
DESCRIBE_ALL = "[caption] Describe everything."


@dataclass(frozen=True, slots=True)
class Lesson:
    """Turns about one scene; `shown` tells whether the model sees it or only reads of it."""

    scene: Scene
    turns: tuple[Turn, ...]
    shown: bool


def scene_lesson(
    scene: Scene, rng: random.Random, *, shown: bool, letters: float, told: float, num_turns: int
) -> Lesson:
    """Return a lesson of at most `num_turns` turns, a share `letters` of them answered by letter.

    A share `told` of those comes after the same question answered in words, so that only the option has to be found.
    """
    opening = f"{IMAGE_SPAN} " if shown else f"{full_caption(scene)}\n"
    turns = [turn for question in _shuffled(ask_all(scene, rng), rng) for turn in _ask(question, rng, letters, told)]
    if shown and rng.random() < 0.4:
        turns.insert(0, _caption(scene, rng))
    if rng.random() < 0.2:
        turns.insert(rng.randrange(len(turns) + 1), _check(scene, rng))
    turns = turns[:num_turns]
    turns[0] = Turn(f"{opening}{turns[0].prompt}", turns[0].answer)
    return Lesson(scene, tuple(turns), shown)


def option_lesson(scene: Scene, rng: random.Random) -> Lesson:
    """Return a lesson about four options alone: which letter stands before which, without any picture.

    Options are asked for with replacement, so that no answer follows from the ones before.
    """
    options = rng.choice(ask_all(scene, rng)).options(rng.randrange(4))
    lines = "\n".join(option_lines(options))
    if rng.random() < 0.5:
        listed = ", ".join(f"{options[i]} {LETTERS[i].lower()}" for i in rng.choices(range(4), k=16))
        return Lesson(scene, (Turn(f"{lines}\nName them. ", listed),), False)
    turns = [Turn(f"Which letter is {options[i]}? ", LETTERS[i].lower()) for i in rng.choices(range(4), k=5)]
    turns[0] = Turn(f"{lines}\n{turns[0].prompt}", turns[0].answer)
    return Lesson(scene, tuple(turns), False)


def said_lesson(scene: Scene, rng: random.Random, *, num_turns: int) -> Lesson:
    """Return a lesson in text alone where the answer is said and its letter is then found among the options.

    It leads from finding a letter to choosing one: behind a question the answer stands before the options, too, in the
    model's mind.
    """
    turns: list[Turn] = []
    for question in _shuffled(ask_all(scene, rng), rng)[:num_turns]:
        position = rng.randrange(4)
        way = rng.choices(("answer", "sentence", "question", "turn"), (35, 25, 20, 20))[0]
        if way == "turn":
            turns.append(_direct(question, rng))
        said = {"answer": question.answer, "sentence": f"The answer is {question.answer}.", "turn": question.text}
        lines = [said.get(way, f"{question.text} {question.answer}"), *option_lines(question.options(position))]
        turns.append(Turn("\n".join([*lines, REPLY_BY_LETTER]) + " ", LETTERS[position].lower()))
    return Lesson(scene, tuple(turns), False)


def choice_text(question: Question, position: int, instruction: str) -> str:
    """Return a question with its options, the right one at `position`, and what to answer with."""
    return "\n".join([question.text, *option_lines(question.options(position)), instruction])


def _ask(question: Question, rng: random.Random, letters: float, told: float) -> list[Turn]:
    if rng.random() >= letters:
        return [_direct(question, rng)]
    position = rng.randrange(4)
    tag = rng.choice(("[vqa] ", ""))
    if rng.random() < 0.12:
        return [Turn(tag + choice_text(question, position, REPLY_IN_WORDS) + " ", question.answer)]
    turn = Turn(tag + choice_text(question, position, REPLY_BY_LETTER) + " ", LETTERS[position].lower())
    return [_direct(question, rng), turn] if rng.random() < told else [turn]


def _direct(question: Question, rng: random.Random) -> Turn:
    text = question.text if rng.random() < 0.4 else question.text.lower()
    if rng.random() < 0.2:
        return Turn(f"{text} ", question.sentence)
    return Turn(fill(rng.choice(_pool("vqa")), text) + " ", question.answer)


def _caption(scene: Scene, rng: random.Random) -> Turn:
    if rng.random() < 0.25:
        return Turn(f"{rng.choice(_pool('caption'))} ", short_caption(scene))
    return Turn(f"{DESCRIBE_ALL} ", full_caption(scene))


def _check(scene: Scene, rng: random.Random) -> Turn:
    """Return a claim to be judged; half of the claims are true."""
    question = rng.choice(ask_all(scene, rng))
    true = rng.random() < 0.5
    claim = question.answer if true else rng.choice(question.wrong)
    return Turn(f"[vqa] {question.text.lower()} {claim}, yes or no? ", "yes" if true else "no")


def _shuffled(questions: Sequence[Question], rng: random.Random) -> list[Question]:
    return rng.sample(questions, len(questions))


@cache
def _pool(name: str) -> list[str]:
    return load_templates(name)
