"""Asks a model all questions of a benchmark, sharded over the ranks, and writes the result file."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from minigpt4.common import dist_utils
from minigpt4.common.files import write_text
from minigpt4.common.liveness import pulse
from minigpt4.common.seeds import derive_seed
from minigpt4.conversation.chat_format import LLAMA_2, ChatFormat
from minigpt4.evaluation.batches import ImageGroup, make_batches
from minigpt4.evaluation.benchmark import Benchmark, Prediction, Question
from minigpt4.evaluation.rows import NUM_SHOWN
from minigpt4.evaluation.shards import ShardWriter, fingerprint, read_shards

logger = logging.getLogger(__name__)

NUM_READERS = 4
"""Threads that read pictures while the model works."""
LOG_SECONDS = 30


class GenerativeModel(Protocol):
    """What is evaluated; see MiniGPTv2. `shown` says which image each prompt shows."""

    def merged(self) -> AbstractContextManager[None]:
        """Return a context in which the model answers many questions fast."""

    def encode_images(self, images: Tensor) -> Tensor:
        """Return what the language model sees of images (N, 3, H, W), one entry each."""

    def generate(
        self, images: Tensor | None, prompts: list[str], *, shown: Sequence[int], max_new_tokens: int = ..., **how: Any
    ) -> list[str]:
        """Return an answer a prompt, given encoded images."""

    def rank(
        self, images: Tensor | None, prompts: list[str], choices: list[list[str]], *, shown: Sequence[int]
    ) -> list[list[int]]:
        """Return the choices of each prompt, the likeliest first, given encoded images."""


class ImageProcessor(Protocol):
    """From a picture to what the model sees."""

    def __call__(self, image: Image.Image) -> Tensor:
        """Return (3, H, W) float32."""


def infer(
    benchmark: Benchmark,
    model: GenerativeModel,
    image_processor: ImageProcessor,
    *,
    save_path: Path,
    questions: Sequence[Question],
    device: torch.device | str = "cpu",
    settings: Mapping[str, Any] | None = None,
    seed: int = 42,
    chat_format: ChatFormat = LLAMA_2,
) -> list[Prediction]:
    """Ask everything; return the predictions, on rank 0, which writes the result file below `save_path`.

    Each rank asks its share and writes it to its part file as it goes; nothing is exchanged until all have finished.
    `settings` tell one run from another: answers in part files of the same run are not asked again. Part files stay.
    Raises: ValueError when an image is missing or unreadable.
    """
    barrier = dist_utils.PatientBarrier()
    benchmark.check_images(questions)
    how = {"max_new_tokens": benchmark.cfg.max_new_tokens, "num_tries": benchmark.num_tries, "seed": seed}
    how |= {"pictures": benchmark.cfg.get("pictures")}
    run_name = fingerprint(questions, {**(settings or {}), **how})
    asker = InferenceWorker(
        benchmark=benchmark,
        model=model,
        image_processor=image_processor,
        device=device,
        seed=seed,
        chat_format=chat_format,
    )
    with model.merged(), pulse.during(f"evaluating {benchmark.name}"):
        asker.share(questions, save_path, run_name, rank=dist_utils.get_rank(), world_size=dist_utils.get_world_size())
    barrier.wait()
    return finish(benchmark, questions, save_path, run_name) if dist_utils.is_main_process() else []


def finish(benchmark: Benchmark, questions: Sequence[Question], save_path: Path, run_name: str) -> list[Prediction]:
    """Return the predictions of all part files in row order, and export them to the result file.

    Raises: ValueError when rows are missing, as where the ranks do not share the folder.
    """
    answers = read_shards(save_path, benchmark.name, run_name)
    lacking = [row for row in range(len(questions)) if row not in answers]
    if lacking:
        raise ValueError(
            f"{benchmark.name}: {len(lacking)} of {len(questions)} rows have no answer in {save_path} "
            f"(rows {lacking[:NUM_SHOWN]}..); do all processes write to the same folder?"
        )
    answered = [Prediction(question, answers[row]) for row, question in enumerate(questions)]
    entries = [benchmark.export(question, answer) for question, answer in answered]
    write_text(save_path / benchmark.result_file, benchmark.result_text(entries))
    return answered


@dataclass(kw_only=True)
class InferenceWorker:
    """One rank's work on one benchmark."""

    benchmark: Benchmark
    model: GenerativeModel
    image_processor: ImageProcessor
    device: torch.device | str = "cpu"
    seed: int = 42
    chat_format: ChatFormat = LLAMA_2

    def share(
        self, questions: Sequence[Question], save_path: Path, run_name: str, *, rank: int, world_size: int
    ) -> None:
        """Ask this rank's units, a batch at a time; a batch that the part files answer whole is not asked again."""
        name = self.benchmark.name
        done = frozenset(read_shards(save_path, name, run_name))
        units = make_batches(questions, self.benchmark.cfg.batch_size)[rank::world_size]
        units = [unit for unit in units if not all(map(done.issuperset, unit.batches))]
        num_rows = sum(len(batch) for unit in units for batch in unit.batches)
        logger.info("%s: %d questions, %d answered before", name, len(questions), len(done))
        logged, num_answered = time.monotonic(), 0
        with ShardWriter(save_path, name, run_name, rank=rank) as part:
            for unit, pictures in self._with_pictures(questions, units):
                for answers in self._ask(unit, pictures, questions, done):
                    part.write(answers)
                    num_answered += len(answers)
                if time.monotonic() - logged > LOG_SECONDS:
                    logger.info("%s: %d of %d answered by this process", name, num_answered, num_rows)
                    logged = time.monotonic()

    def _with_pictures(
        self, questions: Sequence[Question], units: Sequence[ImageGroup]
    ) -> Iterator[tuple[ImageGroup, Tensor | None]]:
        """Yield units with their pictures (N, 3, H, W); those of the next one are read while this one is asked."""
        asked_by = {question.image: question for question in questions}

        def load(image: Any) -> Tensor:
            return self.image_processor(self.benchmark.open_image(asked_by[image]))

        with ThreadPoolExecutor(NUM_READERS) as pool:
            reading = [pool.submit(load, image) for unit in units[:1] for image in unit.images]
            for number, unit in enumerate(units):
                pictures = [picture.result() for picture in reading]
                reading = [pool.submit(load, image) for unit in units[number + 1 : number + 2] for image in unit.images]
                yield unit, torch.stack(pictures) if pictures else None

    def _ask(
        self, unit: ImageGroup, pictures: Tensor | None, questions: Sequence[Question], done: frozenset[int]
    ) -> Iterator[dict[int, Any]]:
        """Yield the answers of each batch by row; the unit's images are encoded once."""
        with torch.no_grad():
            images = None if pictures is None else self.model.encode_images(pictures.to(self.device))
        place = {image: number for number, image in enumerate(unit.images)}
        for batch in unit.batches:
            if not done.issuperset(batch):
                asked = {row: questions[row] for row in batch}
                shown = [place.get(question.image) for question in asked.values()]
                yield self._answer(asked, images, shown)

    def _answer(
        self, questions: Mapping[int, Question], images: Tensor | None, places: list[int | None]
    ) -> dict[int, Any]:
        """Return the cleaned answers, or the ranks, of one batch by row; its images alone go to the model."""
        used = sorted({place for place in places if place is not None})
        shown = [used.index(place) for place in places if place is not None]
        images = images[used] if images is not None and used else None
        ask = self.chat_format.generation_prompt
        prompts = [ask(one.prompt, has_image=one.image is not None) for one in questions.values()]
        choices = [list(question.choices) for question in questions.values()]
        if any(choices):
            return dict(zip(questions, self.model.rank(images, prompts, choices, shown=shown), strict=True))
        limit = self.benchmark.cfg.max_new_tokens
        texts = self.model.generate(images, prompts, shown=shown, max_new_tokens=limit)
        answers = dict(zip(questions, map(self.benchmark.clean, texts), strict=True))
        for row, place, prompt in zip(questions, places, prompts, strict=True):
            image = None if images is None or place is None else images[[used.index(place)]]
            answers[row] = self._resample(answers[row], row, image, prompt)
        return answers

    def _resample(self, answer: str, row: int, image: Tensor | None, prompt: str) -> str:
        """Return the answer, or where the benchmark refuses it the last one sampled in its place."""
        for attempt in range(self.benchmark.num_tries):
            if not self.benchmark.needs_resample(answer):
                break
            seed = derive_seed(self.seed, row, attempt)
            how = {"do_sample": True, "temperature": 1.0, "top_p": 0.9, "seed": seed}
            limit = self.benchmark.cfg.max_new_tokens
            texts = self.model.generate(
                image, [prompt], shown=[] if image is None else [0], max_new_tokens=limit, **how
            )
            answer = self.benchmark.clean(texts[0])
        return answer
