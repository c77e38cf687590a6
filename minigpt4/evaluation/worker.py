"""Asks a model all questions of a benchmark, sharded over the ranks, and saves the predictions."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from minigpt4.common import dist_utils
from minigpt4.common.liveness import pulse
from minigpt4.common.seeds import derive_seed
from minigpt4.conversation.chat_format import LLAMA_2, ChatFormat
from minigpt4.evaluation.benchmark import Benchmark, Prediction, Question
from minigpt4.evaluation.rows import NUM_SHOWN
from minigpt4.evaluation.shards import fingerprint, read_shards, save_predictions, shard_writer

logger = logging.getLogger(__name__)

NUM_READERS = 4
"""Threads that read pictures while the model works."""
LOG_SECONDS = 30


class GenerativeModel(Protocol):
    """A model that can be evaluated, as MiniGPTv2; `shown` has the index of each prompt's image."""

    def merged(self) -> AbstractContextManager[None]:
        """Return a context in which the model answers many questions fast."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Return the encoded images (N, 3, H, W), one entry each."""

    def generate(
        self, images: Tensor | None, prompts: list[str], *, shown: Sequence[int], max_new_tokens: int = ..., **how: Any
    ) -> list[str]:
        """Return an answer to each prompt, given encoded images."""

    def rank(
        self, images: Tensor | None, prompts: list[str], choices: list[list[str]], *, shown: Sequence[int]
    ) -> list[list[int]]:
        """Return the choices of each prompt, the likeliest first, given encoded images."""


ImageProcessor = Callable[[Image.Image], Tensor]
"""Makes a picture the input of the model, (3, H, W) float32."""


@dataclass(frozen=True, slots=True)
class ImageGroup:
    """Rows that one rank asks in batches, and the images they show, which no other group shows."""

    batches: tuple[tuple[int, ...], ...]
    images: tuple[Hashable, ...]


def make_batches(questions: Sequence[Question], batch_size: int) -> list[ImageGroup]:
    """Return all rows in groups of whole images, from the longest prompts to the shortest.

    A group is one batch, but for an image with more questions than a batch holds. Groups depend on the questions and
    the batch size alone: any number of ranks, and a continued run, ask the same batches.
    """
    rows_of: dict[Hashable, list[int]] = {}
    for row, question in enumerate(questions):
        rows_of.setdefault(row if question.image is None else question.image, []).append(row)
    lengths = [len(question.prompt) for question in questions]
    images = sorted(rows_of, key=lambda image: (-max(lengths[row] for row in rows_of[image]), rows_of[image][0]))
    groups: list[tuple[list[int], list[Hashable]]] = []
    for image in images:
        rows = sorted(rows_of[image], key=lambda row: (-lengths[row], row))
        if not groups or len(groups[-1][0]) + len(rows) > batch_size:
            groups.append(([], []))
        groups[-1][0].extend(rows)
        if not isinstance(image, int):  # a row: a question without an image
            groups[-1][1].append(image)
    return [
        ImageGroup(tuple(tuple(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size)), tuple(shown))
        for rows, shown in groups
    ]


def finish(benchmark: Benchmark, questions: Sequence[Question], save_path: Path, run_name: str) -> list[Prediction]:
    """Return the predictions of all shards in row order, and save them with the published file.

    Raises: ValueError when rows are missing, as where the ranks do not share the folder.
    """
    answers = read_shards(save_path, benchmark.name, run_name)
    lacking = [row for row in range(len(questions)) if row not in answers]
    if lacking:
        raise ValueError(
            f"{benchmark.name}: {len(lacking)} of {len(questions)} rows have no answer in {save_path} "
            f"(rows {lacking[:NUM_SHOWN]}..); do all processes write to the same folder?"
        )
    predictions = [Prediction(question, answers[row]) for row, question in enumerate(questions)]
    save_predictions(save_path, benchmark, predictions)
    return predictions


@dataclass(kw_only=True)
class InferenceWorker:
    """One rank's work on one benchmark: it asks its share of the questions."""

    benchmark: Benchmark
    model: GenerativeModel
    image_processor: ImageProcessor
    device: torch.device | str = "cpu"
    seed: int = 42
    chat_format: ChatFormat = LLAMA_2

    def infer(
        self, questions: Sequence[Question], save_path: Path, settings: Mapping[str, Any] | None = None
    ) -> list[Prediction]:
        """Ask everything with the other ranks; return the predictions, on rank 0, which saves them below `save_path`.

        Each rank writes its answers to its shard as it goes; nothing is exchanged until all have finished.
        `settings` tell one run from another: answers in shards of the same run are not asked again. Shards stay.
        Raises: ValueError when an image is unreadable.
        """
        barrier, benchmark = dist_utils.PatientBarrier(), self.benchmark
        how = {"max_new_tokens": benchmark.cfg.max_new_tokens, "num_tries": benchmark.num_tries, "seed": self.seed}
        how |= {"pictures": benchmark.cfg.get("pictures")}
        run_name, ranks = fingerprint(questions, {**(settings or {}), **how}), dist_utils.get_world_size()
        with self.model.merged(), pulse.during(f"evaluating {benchmark.name}"):
            self.share(questions, save_path, run_name, rank=dist_utils.get_rank(), world_size=ranks)
        barrier.wait()
        return finish(benchmark, questions, save_path, run_name) if dist_utils.is_main_process() else []

    def share(
        self, questions: Sequence[Question], save_path: Path, run_name: str, *, rank: int, world_size: int
    ) -> None:
        """Ask this rank's image groups, a batch at a time; a batch that the shards answer whole is not asked again."""
        name = self.benchmark.name
        done = frozenset(read_shards(save_path, name, run_name))
        groups = make_batches(questions, self.benchmark.cfg.batch_size)[rank::world_size]
        groups = [group for group in groups if not all(map(done.issuperset, group.batches))]
        num_rows = sum(len(batch) for group in groups for batch in group.batches)
        logger.info("%s: %d questions, %d answered before", name, len(questions), len(done))
        logged, num_answered = time.monotonic(), 0
        with shard_writer(save_path, name, run_name, rank=rank) as write:
            for group, pictures in self._with_pictures(questions, groups):
                for answers in self._ask(group, pictures, questions, done):
                    write(answers)
                    num_answered += len(answers)
                if time.monotonic() - logged > LOG_SECONDS:
                    logger.info("%s: %d of %d answered by this process", name, num_answered, num_rows)
                    logged = time.monotonic()

    def _with_pictures(
        self, questions: Sequence[Question], groups: Sequence[ImageGroup]
    ) -> Iterator[tuple[ImageGroup, Tensor | None]]:
        """Yield groups with their pictures (N, 3, H, W); those of the next one are read while this one is asked."""
        asked_by = {question.image: question for question in questions}

        def load(image: Any) -> Tensor:
            return self.image_processor(self.benchmark.open_image(asked_by[image]))

        with ThreadPoolExecutor(NUM_READERS) as pool:
            reading = [pool.submit(load, image) for group in groups[:1] for image in group.images]
            for number, group in enumerate(groups):
                pictures = [picture.result() for picture in reading]
                reading = [
                    pool.submit(load, image) for ahead in groups[number + 1 : number + 2] for image in ahead.images
                ]
                yield group, torch.stack(pictures) if pictures else None

    def _ask(
        self, group: ImageGroup, pictures: Tensor | None, questions: Sequence[Question], done: frozenset[int]
    ) -> Iterator[dict[int, Any]]:
        """Yield the answers of each batch by row; the group's images are encoded once."""
        with torch.no_grad():
            images = None if pictures is None else self.model.encode_images(pictures.to(self.device))
        index_of = {image: number for number, image in enumerate(group.images)}
        for batch in group.batches:
            if not done.issuperset(batch):
                asked = {row: questions[row] for row in batch}
                yield self._answer(asked, images, [index_of.get(question.image) for question in asked.values()])

    def _answer(
        self, questions: Mapping[int, Question], images: Tensor | None, indices: list[int | None]
    ) -> dict[int, Any]:
        """Return the cleaned answers, or the ranks, of one batch by row; its images alone go to the model."""
        used = sorted({index for index in indices if index is not None})
        images = images[used] if images is not None and used else None
        shown = [used.index(index) for index in indices if index is not None]
        ask = self.chat_format.generation_prompt
        prompts = [ask(one.prompt, has_image=one.image is not None) for one in questions.values()]
        choices = [list(question.choices) for question in questions.values()]
        if any(choices):
            return dict(zip(questions, self.model.rank(images, prompts, choices, shown=shown), strict=True))
        answers = dict(zip(questions, self._generate(images, prompts, shown), strict=True))
        for row, index, prompt in zip(questions, indices, prompts, strict=True):
            image = None if images is None or index is None else images[[used.index(index)]]
            answers[row] = self._resample(answers[row], row, image, prompt)
        return answers

    def _resample(self, answer: str, row: int, image: Tensor | None, prompt: str) -> str:
        """Return the answer; where `needs_resample` refuses it, the last one that was sampled."""
        for attempt in range(self.benchmark.num_tries):
            if not self.benchmark.needs_resample(answer):
                break
            how = {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "seed": derive_seed(self.seed, row, attempt)}
            [answer] = self._generate(image, [prompt], [] if image is None else [0], **how)
        return answer

    def _generate(self, images: Tensor | None, prompts: list[str], shown: list[int], **how: Any) -> list[str]:
        limit = self.benchmark.cfg.max_new_tokens
        texts = self.model.generate(images, prompts, shown=shown, max_new_tokens=limit, **how)
        return [self.benchmark.clean(text) for text in texts]
