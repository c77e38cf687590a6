import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from minigpt4.common.registry import registry
from minigpt4.common.schema import EvaluationDatasetConfig
from minigpt4.evaluation.benchmark import Benchmark

DATA = Path(__file__).parents[1] / "golden" / "data"


class RecordedModel:
    """Answers by row, in whatever order `rows` says it is asked, and remembers what it was asked.

    What it is asked again, by sampling, it answers from `tries`, by prompt.
    """

    def __init__(self, answers: list[Any], tries: dict[str, list[str]] | None = None) -> None:
        self.answers, self.tries = answers, tries or {}
        self.rows: list[int] = []
        self.asked: dict[int, str] = {}
        self.choices: dict[int, list[str]] = {}
        self.how: list[dict[str, Any]] = []

    @property
    def prompts(self) -> list[str]:
        return [prompt for _, prompt in sorted(self.asked.items())]

    def merged(self) -> AbstractContextManager[None]:
        return nullcontext()

    def encode_images(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, 2, 2) and images.dtype == torch.float32
        return images

    def generate(self, images: Tensor, prompts: list[str], *, shown: list[int], **how: Any) -> list[str]:
        assert len(shown) == len(prompts) and set(shown) == set(range(len(images)))
        if how.get("do_sample"):
            return [self.tries[prompt].pop(0) for prompt in prompts]
        self.how.append(how)
        return self._answers(prompts)

    def rank(
        self, images: Tensor, prompts: list[str], choices: list[list[str]], *, shown: list[int]
    ) -> list[list[int]]:
        assert len(shown) == len(prompts) and set(shown) == set(range(len(images)))
        self.choices.update(zip(self.rows, choices, strict=False))
        return self._answers(prompts)

    def _answers(self, prompts: list[str]) -> list[Any]:
        rows, self.rows = self.rows[: len(prompts)], self.rows[len(prompts) :]
        self.asked.update(zip(rows, prompts, strict=True))
        return [self.answers[row] for row in rows]


def tiny_processor(image: Any) -> Tensor:
    assert image.mode == "RGB"
    return torch.zeros(3, 2, 2)


@pytest.fixture
def in_golden_data(monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(DATA)
    return DATA


@pytest.fixture
def golden() -> Callable[[str], Any]:
    return lambda name: json.loads((DATA / "golden" / "eval" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def model_answers() -> dict[str, Any]:
    return json.loads((DATA / "scoring_inputs" / "model_answers.json").read_text(encoding="utf-8"))


@pytest.fixture
def make_benchmarks(in_golden_data: Path) -> Callable[..., list[Benchmark]]:
    def make(name: str, **changes: Any) -> list[Benchmark]:
        entry = OmegaConf.load(DATA / "evaluation_dataset" / "eval_all.yaml").evaluation_datasets[name]
        return registry.get_benchmark_class(name).build(
            OmegaConf.merge(OmegaConf.structured(EvaluationDatasetConfig), entry, changes), name=name
        )

    return make


@pytest.fixture
def recorded_model() -> type[RecordedModel]:
    return RecordedModel


@pytest.fixture
def processor() -> Callable[[Any], Tensor]:
    return tiny_processor
