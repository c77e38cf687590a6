"""Asking a model all questions of a benchmark, sharded over the ranks, and writing the result file and the score."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from minigpt4.common import dist_utils
from minigpt4.common.seeds import derive_seed
from minigpt4.conversation.prompts import generation_prompt
from minigpt4.evaluation.benchmark import NUM_SHOWN, Answered, Benchmark, Question
from minigpt4.evaluation.parts import PartWriter, fingerprint, read_parts, remove_parts, write_beside

logger = logging.getLogger(__name__)

NUM_READERS = 4
"""Threads that read pictures while the model works."""
LOG_SECONDS = 30


class Answerer(Protocol):
    """What is evaluated; see MiniGPTv2.generate and MiniGPTv2.rank."""

    def generate(self, images: Tensor, prompts: list[str], *, max_new_tokens: int = ..., **how: Any) -> list[str]:
        """Return an answer a prompt."""

    def rank(self, images: Tensor, prompts: list[str], choices: list[list[str]]) -> list[list[int]]:
        """Return the choices of each prompt, the likeliest first."""


class ImageProcessor(Protocol):
    """From a picture to what the model sees."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Return (3, H, W) float32."""


def run(
    benchmark: Benchmark,
    model: Answerer,
    image_processor: ImageProcessor,
    *,
    save_path: Path,
    questions: Sequence[Question] | None = None,
    device: torch.device | str = "cpu",
    settings: Mapping[str, Any] | None = None,
    seed: int = 42,
) -> dict[str, Any] | None:
    """Ask everything, write the result file below `save_path` and return the score (on rank 0, else None).

    Each rank asks its rows and writes them to its part file as it goes; nothing is exchanged until all have finished.
    `settings` tell one run from another: answers in part files of the same run are not asked again.
    Raises: ValueError when an image is missing or unreadable.
    """
    started = time.monotonic()
    questions = benchmark.questions() if questions is None else questions
    benchmark.check_images(questions)
    how = {"max_new_tokens": benchmark.cfg.max_new_tokens, "num_tries": benchmark.num_tries, "seed": seed}
    run_name = fingerprint(questions, {**(settings or {}), **how})
    asker = Asker(benchmark=benchmark, model=model, image_processor=image_processor, device=device, seed=seed)
    asker.share(questions, save_path, run_name, rank=dist_utils.get_rank(), world_size=dist_utils.get_world_size())
    dist_utils.barrier()
    score = None
    if dist_utils.is_main_process():
        score = finish(benchmark, questions, save_path, run_name)
        score["seconds"] = round(time.monotonic() - started, 1)
    dist_utils.barrier()
    return score


def finish(benchmark: Benchmark, questions: Sequence[Question], save_path: Path, run_name: str) -> dict[str, Any]:
    """Merge the part files in row order into the result file, remove them, and return the score.

    Raises: ValueError when rows are missing, as where the ranks do not share the folder.
    """
    answers = read_parts(save_path, benchmark.name, run_name)
    lacking = [row for row in range(len(questions)) if row not in answers]
    if lacking:
        raise ValueError(
            f"{benchmark.name}: {len(lacking)} of {len(questions)} rows have no answer in {save_path} "
            f"(rows {lacking[:NUM_SHOWN]}..); do all processes write to the same folder?"
        )
    answered = [Answered(question, answers[row]) for row, question in enumerate(questions)]
    entries = [benchmark.result(question, answer) for question, answer in answered]
    write_beside(save_path / benchmark.result_file, benchmark.result_text(entries))
    score = benchmark.score(answered)
    remove_parts(save_path, benchmark.name)
    return score


@dataclass(kw_only=True)
class Asker:
    """One rank's work on one benchmark."""

    benchmark: Benchmark
    model: Answerer
    image_processor: ImageProcessor
    device: torch.device | str = "cpu"
    seed: int = 42

    def share(
        self, questions: Sequence[Question], save_path: Path, run_name: str, *, rank: int, world_size: int
    ) -> None:
        """Ask this rank's rows that no part file answers yet, a batch at a time."""
        name = self.benchmark.name
        done = read_parts(save_path, name, run_name)
        rows = [row for row in range(rank, len(questions), world_size) if row not in done]
        logger.info("%s: %d questions, %d answered before", name, len(questions), len(done))
        logged, num_answered = time.monotonic(), 0
        with PartWriter(save_path, name, run_name, rank=rank) as part:
            for batch, images in self._with_images(questions, rows):
                part.write(self._answer({row: questions[row] for row in batch}, images))
                num_answered += len(batch)
                if time.monotonic() - logged > LOG_SECONDS:
                    logger.info("%s: %d of %d answered by this process", name, num_answered, len(rows))
                    logged = time.monotonic()

    def _with_images(
        self, questions: Sequence[Question], rows: Sequence[int]
    ) -> Iterator[tuple[Sequence[int], Tensor]]:
        """Yield batches of rows with their images (B, 3, H, W); the next batch is read while this one is asked."""

        def load(row: int) -> Tensor:
            return self.image_processor(self.benchmark.open_image(questions[row]))

        size = self.benchmark.cfg.batch_size
        with ThreadPoolExecutor(NUM_READERS) as pool:
            reading = [pool.submit(load, row) for row in rows[:size]]
            for at in range(0, len(rows), size):
                images = [image.result() for image in reading]
                reading = [pool.submit(load, row) for row in rows[at + size : at + 2 * size]]
                yield rows[at : at + size], torch.stack(images)

    def _answer(self, questions: Mapping[int, Question], images: Tensor) -> dict[int, Any]:
        """Return the cleaned answers, or the ranks, of one batch by row."""
        images = images.to(self.device)
        prompts = [generation_prompt(question.prompt) for question in questions.values()]
        choices = [list(question.choices) for question in questions.values()]
        if any(choices):
            return dict(zip(questions, self.model.rank(images, prompts, choices), strict=True))
        texts = self.model.generate(images, prompts, max_new_tokens=self.benchmark.cfg.max_new_tokens)
        answers = dict(zip(questions, map(self.benchmark.clean, texts), strict=True))
        for place, row in enumerate(questions):
            one = slice(place, place + 1)
            answers[row] = self._try_again(answers[row], row, images[one], prompts[one])
        return answers

    def _try_again(self, answer: str, row: int, image: Tensor, prompt: list[str]) -> str:
        """Return the answer, or where the benchmark refuses it the last one sampled in its place."""
        for attempt in range(self.benchmark.num_tries):
            if not self.benchmark.try_again(answer):
                break
            seed = derive_seed(self.seed, row, attempt)
            how = {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "seed": seed}
            texts = self.model.generate(image, prompt, max_new_tokens=self.benchmark.cfg.max_new_tokens, **how)
            answer = self.benchmark.clean(texts[0])
        return answer
