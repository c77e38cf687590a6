"""Pre-training of the tiny model: makes the weights that the sample world ships, from nothing.

    python -m tools.tiny_weights.pretrain --out DIR     # about an hour of one core; from the repository's root

Three stages, on scenes of the training split alone: the vision encoder learns to name what it sees, the language
model learns to look up the letter of an option in text, and then both, joined by the projection, learn to answer.
A stage whose file lies in DIR already is not run again.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt4.common.seeds import derive_rng, seed_torch
from minigpt4.conversation.conversation import IGNORE_INDEX
from minigpt4.conversation.encoder import ChatEncoder
from minigpt4.conversation.tokenizer import SentencePieceTokenizer
from minigpt4.processors.blip_processors import BlipImageProcessor
from minigpt4.sample_world.drawing import draw_scene
from minigpt4.sample_world.scenes import SIDE, Scene, make_scene
from tools.tiny_weights.lessons import Lesson, option_lesson, said_lesson, scene_lesson
from tools.tiny_weights.sight import train_sight
from tools.tiny_weights.tiny_model import NUM_IMAGE_TOKENS, PaddedBatch, TinyModel, ship
from tools.tiny_weights.tokenizer import train_tokenizer

logger = logging.getLogger(__name__)

SEED = 7
SIGHT_STEPS, LETTER_STEPS, SAID_STEPS, LESSON_STEPS = 700, 1200, 700, 2600
BATCH_SIZE = 32
LR = 1e-3
LOG_EVERY = 100
Teacher = Callable[[float, int], list[Lesson]]
"""Progress (0..1) and step to the lessons of that step."""


class Reader:
    """Makes padded batches of lessons."""

    def __init__(self, tokenizer: SentencePieceTokenizer) -> None:
        self._encoder = ChatEncoder(tokenizer, num_image_tokens=NUM_IMAGE_TOKENS, max_txt_len=1024)
        self._process = BlipImageProcessor(SIDE)
        self._tokenizer = tokenizer
        self.end = tokenizer.eos_id
        self.letters = torch.tensor([tokenizer.encode(letter)[0] for letter in "abcd"])

    def read(self, lessons: list[Lesson], *, num_batches: int = 1) -> list[PaddedBatch]:
        """Return lessons as batches of like length, so that little of them is padding."""
        encoded = [(lesson, *self._encoder.encode(lesson.turns)) for lesson in lessons]
        encoded.sort(key=lambda item: len(item[1]))
        size = math.ceil(len(encoded) / num_batches)
        return [self._pad(encoded[i : i + size]) for i in range(0, len(encoded), size)]

    def _pad(self, encoded: list[tuple[Lesson, Tensor, Tensor]]) -> PaddedBatch:
        pad = nn.utils.rnn.pad_sequence
        ids = pad([ids for _, ids, _ in encoded], batch_first=True, padding_value=self._tokenizer.pad_id)
        labels = pad([labels for _, _, labels in encoded], batch_first=True, padding_value=IGNORE_INDEX)
        images = [self._process(draw_scene(lesson.scene)) for lesson, _, _ in encoded if lesson.shown]
        return PaddedBatch(ids, labels, torch.stack(images) if images else torch.empty(0, 3, SIDE, SIDE))


def letter_lessons(progress: float, step: int) -> list[Lesson]:
    """Return lessons about options, in text alone."""
    return [option_lesson(scene, derive_rng(SEED, "letters", step, i)) for i, scene in enumerate(_scenes(step))]


def said_lessons(progress: float, step: int) -> list[Lesson]:
    """Return lessons in text alone, most of which say the answer before the options."""
    lessons = []
    for i, scene in enumerate(_scenes(step)):
        rng = derive_rng(SEED, "said", step, i)
        lessons.append(option_lesson(scene, rng) if i % 4 == 0 else said_lesson(scene, rng, num_turns=4))
    return lessons


def scene_lessons(progress: float, step: int) -> list[Lesson]:
    """Return lessons about scenes: at first many answers are said before they are chosen, later they are seen."""
    said = float(np.interp(progress, [0.0, 0.5], [0.3, 0.1]))
    lessons = []
    for i, scene in enumerate(_scenes(step)):
        rng = derive_rng(SEED, "lesson", step, i)
        draw = rng.random()
        if draw < 0.05:
            lessons.append(option_lesson(scene, rng))
        elif draw < 0.05 + said:
            lessons.append(said_lesson(scene, rng, num_turns=4))
        else:
            shown = draw < 0.95
            lessons.append(scene_lesson(scene, rng, shown=shown, letters=0.5, told=0.15, num_turns=4))
    return lessons


def _scenes(step: int) -> Iterator[Scene]:
    return (make_scene(SEED, "train", step * BATCH_SIZE + i) for i in range(BATCH_SIZE))


def study(model: TinyModel, reader: Reader, teacher: Teacher, *, num_steps: int) -> None:
    """Train projection and language model; the vision encoder stays as it is."""
    parameters = [*model.llama.parameters(), *model.proj.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LR, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LR, total_steps=num_steps, pct_start=100 / num_steps, cycle_momentum=False
    )
    start, losses = time.time(), []
    for step in range(num_steps):
        batches = reader.read(teacher(step / num_steps, step), num_batches=2)
        num_targets = sum(int((batch.labels != IGNORE_INDEX).sum()) for batch in batches)
        loss = 0.0
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16):
                logits, targets = model.logits(batch)
            part = F.cross_entropy(logits, targets, reduction="sum") / num_targets
            part.backward()
            loss += part.item()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss)
        if (step + 1) % LOG_EVERY == 0:
            mean = sum(losses[-LOG_EVERY:]) / LOG_EVERY
            scores = " ".join(f"{name} {score:.3f}" for name, score in exam(model, reader).items())
            logger.info("step %d loss %.3f right: %s, %.0f s", step + 1, mean, scores, time.time() - start)


@torch.no_grad()
def exam(model: TinyModel, reader: Reader) -> dict[str, float]:
    """Return the shares of answers whose first token is right: of options in text, in words, by letter."""
    scenes = [make_scene(SEED + 1, "train", number) for number in range(48)]
    rng = derive_rng(SEED, "exam")
    forms = {
        "options": [option_lesson(scene, rng) for scene in scenes],
        "words": [scene_lesson(s, rng, shown=True, letters=0.0, told=0.0, num_turns=9) for s in scenes],
        "said": [said_lesson(scene, rng, num_turns=4) for scene in scenes],
        "told": [scene_lesson(s, rng, shown=True, letters=1.0, told=1.0, num_turns=6) for s in scenes],
        "letters": [scene_lesson(s, rng, shown=True, letters=1.0, told=0.0, num_turns=6) for s in scenes],
    }
    scores = {}
    for name, lessons in forms.items():
        (batch,) = reader.read(lessons)
        with torch.autocast("cpu", torch.bfloat16):
            logits, targets = model.logits(batch)
        is_letter = torch.isin(targets, reader.letters)
        first = torch.cat([torch.tensor([True]), targets[:-1] == reader.end])
        asked = first if name == "words" else is_letter if name == "options" else first & is_letter
        scores[name] = float((logits.argmax(-1) == targets)[asked].float().mean())
    return scores


def main() -> None:
    """Read the command line, train what is not there yet, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    out.mkdir(parents=True, exist_ok=True)
    train_tokenizer(out / "tokenizer.model")
    tokenizer = SentencePieceTokenizer(out / "tokenizer.model")
    reader = Reader(tokenizer)
    seed_torch(SEED, "pretrain")
    model = TinyModel(tokenizer.vocab_size)
    stages: dict[str, Callable[[], None]] = {
        "sight": lambda: train_sight(model.vit, seed=SEED, num_steps=SIGHT_STEPS),
        "letters": lambda: study(model, reader, letter_lessons, num_steps=LETTER_STEPS),
        "said": lambda: study(model, reader, said_lessons, num_steps=SAID_STEPS),
        "lessons": lambda: study(model, reader, scene_lessons, num_steps=LESSON_STEPS),
    }
    for name, run in stages.items():
        path = out / f"stage_{name}.pth"
        if path.is_file():
            model.load_state_dict(torch.load(path, weights_only=True))
            continue
        run()
        torch.save(model.state_dict(), path)
    ship(model, out / "tokenizer.model", out / "assets")


if __name__ == "__main__":
    main()
