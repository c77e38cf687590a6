import json
from collections.abc import Callable
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
    """Answers in the order in which it is asked, and remembers what it was asked."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []
        self.how: list[dict[str, Any]] = []

    def generate(self, images: Tensor, prompts: list[str], **how: Any) -> list[str]:
        assert images.shape == (len(prompts), 3, 2, 2) and images.dtype == torch.float32
        self.prompts += prompts
        self.how.append(how)
        return [self.answers.pop(0) for _ in prompts]

    def rank(self, images: Tensor, prompts: list[str], choices: list[list[str]]) -> list[list[int]]:
        self.how.append({"choices": choices})
        self.prompts += prompts
        return [self.answers.pop(0) for _ in prompts]


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
