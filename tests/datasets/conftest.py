"""Builders over the recorded files; the image processor there only keeps the picture's size."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from minigpt4.common.registry import registry

RECORDED = Path(__file__).resolve().parents[1] / "golden" / "data"


@registry.register_processor("identity")
class SizeOnly:
    """Turns a picture of width w and height h into zeros of shape (3, h, w)."""

    @classmethod
    def from_config(cls, cfg):
        return cls()

    def __call__(self, image):
        return torch.zeros(3, image.height, image.width)


@pytest.fixture
def recording():
    """Return a function that reads what was recorded of one builder: config, len, items."""
    return lambda name: json.loads((RECORDED / "golden" / "train" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def recorded_builder(monkeypatch, recording):
    """Return a function that makes the builder of a recorded dataset, on the recorded files."""
    monkeypatch.chdir(RECORDED)

    def make(name, *, seed=0):
        cfg = OmegaConf.create(recording(name)["config"])
        return registry.get_builder_class(name)(cfg, name=name, seed=seed)

    return make


@pytest.fixture
def recorded_dataset(recorded_builder):
    """Return a function that builds a recorded dataset."""
    return lambda name, *, seed=0: recorded_builder(name, seed=seed).build_datasets()["train"]


PROCESSORS = {"vis_processor": {"train": {"name": "identity"}}, "text_processor": {"train": {"name": "blip_caption"}}}


@pytest.fixture
def build():
    """Return a function that builds a dataset of any build_info, by its registered name or by a builder class."""

    def make(builder, build_info, *, seed=0):
        cfg = OmegaConf.create({"build_info": build_info, **PROCESSORS})
        name, cls = (builder, registry.get_builder_class(builder)) if isinstance(builder, str) else ("colour", builder)
        return cls(cfg, name=name, seed=seed).build_datasets()["train"]

    return make
