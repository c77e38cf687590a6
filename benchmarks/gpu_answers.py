"""Evaluation the published way and ours, and decoding alone, of one model that all cases share."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import evaluate
import torch
from gpu_runner import rounded, synchronize
from gpu_training import NotAvailable

from minigpt4.conversation.chat_format import LLAMA_2

AMOUNTS = {"real": (100, 64), "small": (6, 16), "tiny": (2, 4)}
"""Images, of three questions each, and tokens of an answer that is decoded."""
QUESTION = "Describe this picture in detail. "


class Answers:
    """Asks one model of a size in 16 bits, and remembers what was answered the published way."""

    def __init__(self, size: str, device: torch.device) -> None:
        self.size, self.device = size, device
        self.dtype = torch.float16 if device.type == "cuda" else torch.float32
        self._folder = tempfile.TemporaryDirectory()
        self.images, self.num_tokens = AMOUNTS[size]
        amounts = {"images": self.images, "questions": 3, "text_tokens": 70, "answer_tokens": 2, "batch_size": 10}
        args: Any = SimpleNamespace(size=size, device=str(device), **amounts)
        self.task = evaluate.make_task(args, Path(self._folder.name))
        self.model = evaluate.build(size, device, self.dtype)
        self.published: list[str] | None = None

    def evaluation(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return questions a second of one way of asking, after a first batch."""
        torch.backends.cuda.enable_cudnn_sdp(settings.get("cudnn", settings.get("way") == "published"))
        way = evaluate.published_way if settings.get("way") == "published" else evaluate.our_way
        self.task.benchmark.cfg.batch_size = settings.get("batch_size", 10)
        with _graphs(settings, self.model):
            self.task.run(way, self.model, self.dtype, num=min(2 * self.task.benchmark.cfg.batch_size, self.images))
            synchronize(self.device)
            seconds, answers = self.task.run(way, self.model, self.dtype)
        if way is evaluate.published_way:
            self.published = answers
        differing = None
        if self.published is not None:
            differing = sum(a != b for a, b in zip(answers, self.published, strict=True))
        return {
            "questions_per_s": rounded(len(answers) / seconds),
            "wall_s": rounded(seconds),
            "num_questions": len(answers),
            "num_differing_from_published": differing,
            "num_distinct_answers": len(set(answers)),
        }

    def decoding(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return tokens a second of `prompts` answers of equal length, and what reading and one step take of it."""
        torch.backends.cuda.enable_cudnn_sdp(settings.get("cudnn", False))
        num = settings["prompts"]
        pictures = torch.stack([self._picture(number) for number in range(min(num, self.images))]).to(self.device)
        prompts = [LLAMA_2.generation_prompt(f"{QUESTION}{'please ' * (number % 7)}") for number in range(num)]
        shown = [number % len(pictures) for number in range(num)]
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.device.type == "cuda"), torch.no_grad():
            seen = self.model.encode_images(pictures)
            with _graphs(settings, self.model), _merged(self.model):
                self._seconds(seen, prompts, shown, self.num_tokens)
                reading = min(self._seconds(seen, prompts, shown, 1) for _ in range(3))
                whole = min(self._seconds(seen, prompts, shown, self.num_tokens) for _ in range(2))
        return {
            "tokens_per_s": rounded(num * self.num_tokens / whole),
            "prefill_ms": rounded(1000 * reading),
            "decode_step_ms": rounded(1000 * (whole - reading) / max(self.num_tokens - 1, 1)),
            "num_tokens": self.num_tokens,
        }

    def _picture(self, number: int) -> torch.Tensor:
        questions = {question.image: question for question in self.task.questions}
        picture: torch.Tensor = self.task.processor(self.task.benchmark.open_image(list(questions.values())[number]))
        return picture

    def _seconds(self, seen: torch.Tensor, prompts: list[str], shown: list[int], num_tokens: int) -> float:
        """Return the seconds to generate answers of exactly `num_tokens` tokens."""
        synchronize(self.device)
        began = time.perf_counter()
        self.model.generate(seen, prompts, shown=shown, max_new_tokens=num_tokens, min_length=num_tokens + 2)
        synchronize(self.device)
        return time.perf_counter() - began


def _merged(model: Any) -> contextlib.AbstractContextManager[Any]:
    """Return the context of a model as it is asked: LoRA in its weights, where it can be."""
    return model.merged() if hasattr(model, "merged") else contextlib.nullcontext()


@contextlib.contextmanager
def _graphs(settings: dict[str, Any], model: Any) -> Iterator[None]:
    """Switch the CUDA graphs of the decode step on where a case asks for it.

    Raises: NotAvailable when the model has none.
    """
    if not settings.get("graphs"):
        yield
        return
    language_model = model.language_model
    if not hasattr(language_model, "cuda_graphs"):
        raise NotAvailable("the model has no cuda_graphs")
    before = language_model.cuda_graphs
    language_model.cuda_graphs = True
    try:
        yield
    finally:
        language_model.cuda_graphs = before
