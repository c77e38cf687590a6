"""The exam: what the tiny model knows before any fine-tuning, about scenes that it has not met."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.conversation import Turn
from minigpt4.evaluation.benchmarks.scorers import overlap, read_box
from minigpt4.sample_world.questions import TYPE_NAMES, ask
from minigpt4.sample_world.scenes import SIDE, Scene, make_scene
from tools.tiny_weights.lessons import (
    asked_lesson,
    claim_turn,
    letter_turn,
    refer_turn,
    statement_turn,
    vizwiz_turn,
)
from tools.tiny_weights.reader import Reader
from tools.tiny_weights.tiny_model import TinyModel

EXAM_SEED = 8
BATCH_SIZE = 64


def typed_turn(scene: Scene, rng: random.Random, *, qtype: int) -> Turn:
    """Return a plain question of a type, or of the first type where the scene has no such question."""
    question = ask(scene, qtype, rng, plain=True) or ask(scene, 1, rng, plain=True)
    assert question is not None  # every scene has a background
    return Turn(f"[vqa] {question.text} ", question.answer)


KINDS: dict[str, Callable[[Scene, random.Random], Turn]] = {
    **{name: partial(typed_turn, qtype=qtype) for qtype, name in TYPE_NAMES.items()},
    "letter": letter_turn,
    "statement": statement_turn,
    "claim": claim_turn,
    "vizwiz": vizwiz_turn,
    "box": refer_turn,
}


@torch.no_grad()
def exam(model: TinyModel, reader: Reader, *, num_scenes: int) -> dict[str, float]:
    """Return the share of right answers for each kind of question, about scenes of the dev split.

    An answer is right when each of its tokens is the likeliest one after the right tokens before it. A box is right
    when its intersection over union with the true box is above 0.5.
    """
    scenes = [make_scene(EXAM_SEED, "dev", number) for number in range(num_scenes)]
    return {name: _share_right(model, reader, scenes, name, kind) for name, kind in KINDS.items()}


def _share_right(
    model: TinyModel, reader: Reader, scenes: list[Scene], name: str, kind: Callable[[Scene, random.Random], Turn]
) -> float:
    lessons = [asked_lesson(s, derive_rng("exam", name, s.number), kind, num_turns=1) for s in scenes]
    right: list[bool] = []
    for start in range(0, len(lessons), BATCH_SIZE):
        (batch,) = reader.read(lessons[start : start + BATCH_SIZE])
        with torch.autocast("cpu", torch.bfloat16):
            logits, targets = model.logits(batch)
        ends = (targets == reader.tokenizer.eos_id).nonzero().flatten() + 1
        pieces = zip(_cut(logits.argmax(-1), ends), _cut(targets, ends), strict=True)
        for answer, truth in pieces:
            if name == "box":
                right.append(is_near(*(reader.tokenizer.decode(tokens.tolist()) for tokens in (answer, truth))))
            else:
                right.append(torch.equal(answer, truth))
    return sum(right) / len(right)


def _cut(tokens: Tensor, ends: Tensor) -> tuple[Tensor, ...]:
    return tokens.tensor_split(ends[:-1])


def is_near(answer: str, truth: str) -> bool:
    """Return whether two texts are boxes that RefCOCO would count as the same."""
    one, other = (read_box(text, width=SIDE, height=SIDE) for text in (answer, truth))
    return one is not None and other is not None and overlap(one, other) > 0.5


def as_text(shares: Mapping[str, float]) -> str:
    """Return shares on one line."""
    return ", ".join(f"{name.lower()} {share:.3f}" for name, share in shares.items())
