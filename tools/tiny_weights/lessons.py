"""Lessons: the conversations that the tiny model is pre-trained on, over pictures or over descriptions of them.

Questions have their plain wordings. The choice of an option by letter is asked for in other words than SEED-Bench and
the engine use; those words are met only where the answer is wanted in words.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from minigpt4.conversation.box_text import box_text
from minigpt4.conversation.conversation import IMAGE_SPAN, Turn
from minigpt4.conversation.prompt_templates import fill, load_templates
from minigpt4.evaluation.benchmarks.short_answer import VSR, HatefulMemes
from minigpt4.evaluation.benchmarks.vqa import VizWiz
from minigpt4.sample_world.captions import full_caption, short_caption
from minigpt4.sample_world.grounding_files import sentences
from minigpt4.sample_world.questions import (
    LETTERS,
    UNANSWERABLE,
    Question,
    ask,
    ask_all,
    ask_in_vain,
    option_lines,
)
from minigpt4.sample_world.scenes import SIDE, Scene
from minigpt4.sample_world.statements import claim, state

REPLY_BY_LETTER = "Reply with one letter."
REPLY_IN_WORDS = "Answer with the option's text from the given choices directly."
DESCRIBE_ALL = "[caption] Describe everything."
Rng = random.Random


@dataclass(frozen=True, slots=True)
class Lesson:
    """Turns about one scene; `shown` tells whether the model sees it or only reads of it."""

    scene: Scene
    turns: tuple[Turn, ...]
    shown: bool


def scene_lesson(scene: Scene, rng: Rng, *, num_turns: int) -> Lesson:
    """Return a lesson of `num_turns` turns about a picture, of all kinds."""
    kinds = rng.choices(list(_TURNS), list(_TURNS.values()), k=num_turns)
    turns = [kind(scene, rng) for kind in kinds]
    return _lesson(scene, turns, f"{IMAGE_SPAN} ", shown=True)


def told_lesson(scene: Scene, rng: Rng, *, num_turns: int) -> Lesson:
    """Return a lesson of questions about a described scene, without a picture."""
    questions = _shuffled(ask_all(scene, rng, plain=True), rng)[:num_turns]
    return _lesson(scene, [_direct(question, rng) for question in questions], f"{full_caption(scene)}\n", shown=False)


def asked_lesson(scene: Scene, rng: Rng, kind: Callable[[Scene, Rng], Turn], *, num_turns: int) -> Lesson:
    """Return a lesson about a picture, of one kind of turn."""
    return _lesson(scene, [kind(scene, rng) for _ in range(num_turns)], f"{IMAGE_SPAN} ", shown=True)


def repeat_lesson(scene: Scene, rng: Rng) -> Lesson:
    """Return a lesson in text alone that has sentences repeated, in all wordings, so that every word is met."""
    texts = [question.text for question in _shuffled(ask_all(scene, rng), rng)[:3]]
    return Lesson(scene, tuple(Turn(f"Repeat this: {text} ", text) for text in texts), False)


def choice_text(question: Question, position: int, instruction: str) -> str:
    """Return a question with its options, the right one at `position`, and what to answer with."""
    return "\n".join([question.text, *option_lines(question.options(position)), instruction])


def words_turn(scene: Scene, rng: Rng) -> Turn:
    """Return a plain question of any type that is answered in words."""
    return _direct(_question(scene, rng), rng)


def letter_turn(scene: Scene, rng: Rng) -> Turn:
    """Return a plain question that is answered by letter, asked for in other words than the benchmarks use."""
    question, position = _question(scene, rng), rng.randrange(4)
    tag = rng.choice(("[vqa] ", ""))
    if rng.random() < 0.15:
        return Turn(tag + choice_text(question, position, REPLY_IN_WORDS) + " ", question.answer)
    return Turn(tag + choice_text(question, position, REPLY_BY_LETTER) + " ", LETTERS[position].lower())


def refer_turn(scene: Scene, rng: Rng) -> Turn:
    """Return a referring expression that is answered by a box."""
    thing = rng.choice(scene.things)
    expression = rng.choice(sentences(thing, rng.choice(("refcoco", "refcoco+", "refcocog"))))
    return Turn(_open(fill(rng.choice(_pool("refer")), expression), rng), box_text(thing.box, (SIDE, SIDE)))


def identify_turn(scene: Scene, rng: Rng) -> Turn:
    """Return a box that is answered by the name of what it holds."""
    thing = rng.choice(scene.things)
    return Turn(_open(fill(rng.choice(_pool("identify")), box_text(thing.box, (SIDE, SIDE))), rng), thing.name)


def caption_turn(scene: Scene, rng: Rng) -> Turn:
    """Return a request for a caption."""
    if rng.random() < 0.5:
        return Turn(_open(rng.choice(_pool("caption")), rng), short_caption(scene))
    return Turn(_open(DESCRIBE_ALL, rng), full_caption(scene))


def statement_turn(scene: Scene, rng: Rng) -> Turn:
    """Return a statement to be judged, as VSR or as GQA ask, or another question where no two things are related."""
    statement = state(scene, rng, is_true=rng.random() < 0.5, plain=True)
    if statement is None:
        return claim_turn(scene, rng)
    if rng.random() < 0.5:
        return Turn(_open(fill(rng.choice(_pool("vqa")), _cased(statement.question, rng)), rng), statement.answer)
    return Turn(_open(VSR.template.format(statement.text), rng), statement.truth)


def claim_turn(scene: Scene, rng: Rng) -> Turn:
    """Return two words that the picture shows or contradicts, as a question or as a meme."""
    is_there = rng.random() < 0.5
    words = claim(scene, rng, is_true=is_there)
    if rng.random() < 0.5:
        return Turn(_open(HatefulMemes.template.format(words), rng), "no" if is_there else "yes")
    return Turn(_open(f"[vqa] {_cased(f'Is there a {words}?', rng)}", rng), "yes" if is_there else "no")


def vizwiz_turn(scene: Scene, rng: Rng) -> Turn:
    """Return a question as VizWiz asks; half of them are not answered by the picture."""
    if rng.random() < 0.5:
        return Turn(_open(VizWiz.template.format(ask_in_vain(scene, rng)), rng), UNANSWERABLE)
    question = _question(scene, rng)
    return Turn(_open(VizWiz.template.format(question.text), rng), question.answer)


_TURNS: dict[Callable[[Scene, Rng], Turn], float] = {
    words_turn: 48,
    letter_turn: 12,
    refer_turn: 14,
    identify_turn: 3,
    caption_turn: 4,
    statement_turn: 9,
    claim_turn: 7,
    vizwiz_turn: 4,
}
"""The kinds of turns about a picture, and how often each is drawn."""


def _lesson(scene: Scene, turns: Sequence[Turn], opening: str, *, shown: bool) -> Lesson:
    first, *later = turns
    return Lesson(scene, (Turn(f"{opening}{first.prompt}", first.answer), *later), shown)


def _question(scene: Scene, rng: Rng) -> Question:
    """Return a plain question of a type that the scene gives occasion for; places and relations come more often."""
    while True:
        question = ask(scene, rng.choice((1, 2, 2, 3, 3, 4, 4, 4, 5, 5, 6, 6, 6, 7, 8, 9, 9)), rng, plain=True)
        if question is not None:
            return question


def _direct(question: Question, rng: Rng) -> Turn:
    text = _cased(question.text, rng)
    if rng.random() < 0.15:
        return Turn(_open(text, rng), question.sentence)
    return Turn(_open(fill(rng.choice(_pool("vqa")), text), rng), question.answer)


def _cased(text: str, rng: Rng) -> str:
    return text if rng.random() < 0.4 else text.lower()


def _open(prompt: str, rng: Rng) -> str:
    """Return a prompt with the blank that datasets put behind it, and now and then without it, as benchmarks do."""
    return prompt if rng.random() < 0.25 else f"{prompt} "


def _shuffled(questions: Sequence[Question], rng: Rng) -> list[Question]:
    return rng.sample(questions, len(questions))


@cache
def _pool(name: str) -> list[str]:
    return load_templates(name)
