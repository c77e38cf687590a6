"""Pre-training of the tiny model: makes the weights that the sample world ships, from nothing.

    torchrun --standalone --nproc_per_node 2 -m tools.tiny_weights.pretrain --out DIR    # from the repository's root

It shows the model scenes of the training split alone, in four stages. The vision encoder learns to show what it sees.
Then projection and language model learn to look up what the encoder shows, in quizzes, to choose an option by letter,
and to answer in conversations. The same command continues a run that was stopped from its last state in DIR.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt4.common.dist_utils import all_reduce_sum, get_rank, get_world_size, is_distributed, is_main_process
from minigpt4.common.seeds import derive_rng, seed_torch
from minigpt4.conversation.conversation import IGNORE_INDEX
from minigpt4.conversation.tokenizer import SentencePieceTokenizer
from minigpt4.processors.blip_processors import BlipImageProcessor
from minigpt4.sample_world.scenes import SIDE, Scene, make_scene
from tools.tiny_weights.exam import as_text, exam
from tools.tiny_weights.lessons import (
    Lesson,
    asked_lesson,
    caption_turn,
    repeat_lesson,
    scene_lesson,
    told_lesson,
)
from tools.tiny_weights.quiz import letter_quiz_lesson, quiz_lesson
from tools.tiny_weights.reader import Reader
from tools.tiny_weights.sight import Sight, loss_of, pictures
from tools.tiny_weights.tiny_model import TinyModel, ship
from tools.tiny_weights.tokenizer import train_tokenizer

logger = logging.getLogger(__name__)

SEED = 7
WARMUP = 100
LOG_EVERY = 100
SAVE_EVERY = 200
EXAM_EVERY = 500
LessonOf = Callable[[Scene, int], Lesson]
Learn = Callable[[int], float]
"""A step: adds this process's part to the gradients of the whole batch, and returns its part of the loss."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: how many steps, how many scenes a step in all processes together, the highest and the last rate."""

    name: str
    num_steps: int
    batch_size: int
    lr: float
    last_lr: float


STAGES = (
    Stage("sight", num_steps=1800, batch_size=128, lr=1.5e-3, last_lr=1.5e-5),
    Stage("quiz", num_steps=3600, batch_size=32, lr=1e-3, last_lr=4e-4),
    Stage("letters", num_steps=1200, batch_size=32, lr=1e-3, last_lr=4e-4),
    Stage("lessons", num_steps=2200, batch_size=48, lr=8e-4, last_lr=1e-5),
)
MUON_FACTOR = 5.0
"""The learning rate of Muon over the one of AdamW."""


def learning_rate(stage: Stage, step: int) -> float:
    """Return a linear warm-up, then half a cosine down to the last rate."""
    if step < WARMUP:
        return stage.lr * (step + 1) / WARMUP
    progress = (step - WARMUP) / max(1, stage.num_steps - WARMUP)
    return stage.last_lr + (stage.lr - stage.last_lr) * (1 + math.cos(math.pi * progress)) / 2


def make_optimizers(parts: nn.Module) -> list[torch.optim.Optimizer]:
    """Return AdamW, and Muon for the matrices of the language model's layers, which learns from fewer lessons.

    Each group has the `factor` that multiplies the learning rate.
    """
    named = [(name, p) for name, p in parts.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if ".layers." in name and p.ndim == 2]
    others = [p for name, p in named if ".layers." not in name or p.ndim != 2]
    groups = [{"params": others, "factor": 1.0}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    ]
    if matrices:
        groups = [{"params": matrices, "factor": MUON_FACTOR}]
        optimizers.append(torch.optim.Muon(groups, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def run_stage(
    stage: Stage,
    out: Path,
    parts: nn.Module,
    learn: Learn,
    after: Callable[[int], str],
    *,
    save_every: int = SAVE_EVERY,
) -> None:
    """Train the parts, from the last state of the stage in `out` where there is one, and leave its end there.

    Args:
        after: what to add to a line of the log, by step
    """
    path = out / f"{stage.name}.pth"
    parameters = [p for p in parts.parameters() if p.requires_grad]
    optimizers = make_optimizers(parts)
    first, seconds = 0, 0.0
    if path.is_file():
        state: dict[str, Any] = torch.load(path, weights_only=True)
        parts.load_state_dict(state["parts"])
        for optimizer, optimizer_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        first, seconds = state["step"], state["seconds"]
    start = time.monotonic() - seconds
    recent: list[float] = []
    for step in range(first, stage.num_steps):
        recent.append(_sum_gradients(parameters, learn(step)))
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(stage, step) * group["factor"]
            optimizer.step()
            optimizer.zero_grad()
        done = step + 1
        if done % LOG_EVERY == 0 and is_main_process():
            mean = sum(recent[-LOG_EVERY:]) / len(recent[-LOG_EVERY:])
            seconds = time.monotonic() - start
            logger.info("%s step %d loss %.3f %s, %.0f s", stage.name, done, mean, after(done), seconds)
        if (done % save_every == 0 or done == stage.num_steps) and is_main_process():
            state = {
                "parts": parts.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "step": done,
                "seconds": time.monotonic() - start,
            }
            torch.save(state, path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)


def _sum_gradients(parameters: Sequence[nn.Parameter], loss: float) -> float:
    """Add up the gradients of all processes, and return the loss of the whole batch."""
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    if is_distributed():
        flat = all_reduce_sum(torch.cat([*(grad.flatten() for grad in grads), torch.tensor([loss])]))
        for parameter, grad, whole in zip(
            parameters, grads, flat.split([g.numel() for g in grads] + [1]), strict=False
        ):
            parameter.grad = whole.view_as(grad)
        return float(flat[-1])
    return loss


def _scenes(stage: Stage, step: int) -> Iterator[tuple[int, Scene]]:
    """Yield this process's scenes of a step, with their numbers; the whole batch does not depend on the processes."""
    for i in range(get_rank(), stage.batch_size, get_world_size()):
        number = step * stage.batch_size + i
        yield number, make_scene(SEED, "train", number)


def see(stage: Stage, model: TinyModel, sight: Sight, shares: dict[str, float]) -> Learn:
    """Return the step of the stage in which the encoder learns; it leaves the shares of right readings in `shares`."""
    process = BlipImageProcessor(SIDE)

    def learn(step: int) -> float:
        scenes = [scene for _, scene in _scenes(stage, step)]
        images = pictures(scenes, process, derive_rng(SEED, "memes", step, get_rank()))
        with torch.autocast("cpu", torch.bfloat16):
            things, sign = sight(model.vit.forward_features(images)[:, 1:])
        loss, right = loss_of(things.float(), sign.float(), scenes)
        loss = loss * len(scenes) / stage.batch_size
        loss.backward()
        shares.update(right)
        return float(loss.detach())

    return learn


def quiz_stage_lesson(stage: Stage, scene: Scene, number: int) -> Lesson:
    """Return a quiz most often: first of few kinds of facts, then of all, at last by letter too."""
    rng = derive_rng(SEED, "quiz", number)
    done = number / (stage.num_steps * stage.batch_size)
    draw = rng.random()
    if done < 0.22:
        return quiz_lesson(scene, rng, first=True)
    if draw < 0.05:
        return asked_lesson(scene, rng, caption_turn, num_turns=2)
    if draw < 0.20:
        return scene_lesson(scene, rng, num_turns=6)
    if done > 0.6 and draw < 0.45:
        return letter_quiz_lesson(scene, rng, judged=0.8)
    return quiz_lesson(scene, rng)


def letter_stage_lesson(stage: Stage, scene: Scene, number: int) -> Lesson:
    """Return a quiz by letter most often; at first most of them say of each option whether it is right."""
    rng = derive_rng(SEED, "letters", number)
    if rng.random() < 0.25:
        return quiz_lesson(scene, rng)
    is_early = number < 0.4 * stage.num_steps * stage.batch_size
    return letter_quiz_lesson(scene, rng, judged=0.8 if is_early else 0.4)


def lesson_stage_lesson(scene: Scene, number: int) -> Lesson:
    """Return a lesson of the last stage: most are conversations about pictures."""
    rng = derive_rng(SEED, "lesson", number)
    draw = rng.random()
    if draw < 0.02:
        return repeat_lesson(scene, rng)
    if draw < 0.04:
        return told_lesson(scene, rng, num_turns=5)
    if draw < 0.14:
        return quiz_lesson(scene, rng)
    if draw < 0.36:
        return letter_quiz_lesson(scene, rng, judged=0.35)
    return scene_lesson(scene, rng, num_turns=6)


def answer_weights(labels: Tensor, end: int) -> Tensor:
    """Return the weight of each trained token, (M,) float32: one over the root of the number of tokens of its answer.

    So a box of fifteen tokens does not drown the answers of one word. Each answer closes with `end`.
    """
    tokens = labels[labels != IGNORE_INDEX]
    ends = tokens == end
    answers = ends.cumsum(0) - ends.long()
    return answers.bincount()[answers].float().rsqrt()


def study(stage: Stage, model: TinyModel, reader: Reader, lesson_of: LessonOf) -> Learn:
    """Return the step of a stage in which projection and language model learn; the encoder stays as it is."""

    def learn(step: int) -> float:
        batches = reader.read([lesson_of(scene, number) for number, scene in _scenes(stage, step)], num_batches=4)
        weights = [answer_weights(batch.labels, reader.tokenizer.eos_id) for batch in batches]
        whole = all_reduce_sum(torch.cat(weights).sum())
        loss = 0.0
        for batch, weight in zip(batches, weights, strict=True):
            with torch.autocast("cpu", torch.bfloat16):
                logits, targets = model.logits(batch)
            part = (weight * F.cross_entropy(logits, targets, reduction="none")).sum() / whole
            part.backward()
            loss += float(part.detach())
        return loss

    return learn


def exam_now(model: TinyModel, reader: Reader, step: int) -> str:
    """Return the results of a small exam, now and then."""
    return as_text(exam(model, reader, num_scenes=128)) if step % EXAM_EVERY == 0 else ""


def main() -> None:
    """Read the command line, train what is not there yet, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the steps of every stage, to try changes")
    args = parser.parse_args()
    out: Path = args.out
    stages = [replace(stage, num_steps=round(args.scale * stage.num_steps)) for stage in STAGES]
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    logging.basicConfig(level=logging.INFO if is_main_process() else logging.WARNING, format="%(message)s")
    if is_main_process() and not (out / "tokenizer.model").is_file():
        train_tokenizer(out / "tokenizer.model")
    if is_distributed():
        dist.barrier()
    tokenizer = SentencePieceTokenizer(out / "tokenizer.model")
    reader = Reader(tokenizer)
    seed_torch(SEED, "pretrain")
    model, sight = TinyModel(tokenizer.vocab_size), Sight()
    seeing = nn.ModuleDict({"vit": model.vit, "sight": sight})
    shares: dict[str, float] = {}
    run_stage(stages[0], out, seeing, see(stages[0], model, sight, shares), lambda _: as_text(shares))
    studying = nn.ModuleDict({"llama": model.llama, "proj": model.proj})
    lessons: tuple[LessonOf, ...] = (
        partial(quiz_stage_lesson, stages[1]),
        partial(letter_stage_lesson, stages[2]),
        lesson_stage_lesson,
    )
    for stage, lesson_of in zip(stages[1:], lessons, strict=True):
        learn = study(stage, model, reader, lesson_of)
        run_stage(stage, out, studying, learn, partial(exam_now, model, reader))
    if is_main_process():
        ship(model, out / "tokenizer.model", out / "assets")
        logger.info("at the end, on 1,000 scenes of dev: %s", as_text(exam(model, reader, num_scenes=1000)))


if __name__ == "__main__":
    main()
