"""Builders over the recorded files; the image processor there only keeps the picture's size."""

import json
import pickle
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from tests.runners.tiny import tiny_config

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

    def make(builder, build_info, *, seed=0, **options):
        cfg = OmegaConf.create({"build_info": build_info, **PROCESSORS, **options})
        name, cls = (builder, registry.get_builder_class(builder)) if isinstance(builder, str) else ("colour", builder)
        return cls(cfg, name=name, seed=seed).build_datasets()["train"]

    return make


REFS = "refcoco/refs(unc).p"


@pytest.fixture
def world(tmp_path):
    """Write GQA (3 rows), RefCOCO (1 ref) and text instructions (1 row) below the test's folder; all is well."""
    (tmp_path / "images").mkdir()
    (tmp_path / "refcoco").mkdir()
    for name in ("0.jpg", "1.jpg", "2.jpg", "COCO_train2014_000000000007.jpg"):
        Image.effect_noise((60, 40), 50).convert("RGB").save(tmp_path / "images" / name)
    rows = [{"image": f"{n}.jpg", "question": "What?", "answer": "this"} for n in range(3)]
    (tmp_path / "gqa.json").write_text(json.dumps(rows))
    box = {"id": 1, "image_id": 7, "category_id": 1, "bbox": [5, 2, 10, 10]}
    (tmp_path / "refcoco/instances.json").write_text(json.dumps({"images": [], "categories": [], "annotations": [box]}))
    ref = {"split": "train", "image_id": 7, "ann_id": 1, "sentences": [{"raw": "red one"}]}
    (tmp_path / REFS).write_bytes(pickle.dumps([ref], protocol=2))
    instance = {"instruction_with_input": "Say a.", "constraints": None, "output": "a"}
    (tmp_path / "text.json").write_text(json.dumps([{"instances": [instance]}]))
    return tmp_path


@pytest.fixture
def load(world):
    """Return a function that loads the config of that world, with options."""

    def make(*options):
        config = tiny_config()
        config["run"]["output_dir"] = str(world / "out")
        storage = {"annotations": {"train": {"storage": f"{world}/gqa.json"}}}
        config["datasets"] = {
            "gqa": {"build_info": {**storage, "images": {"storage": f"{world}/images"}}},
            "refcoco": {"build_info": {"ann_path": str(world), "image_path": f"{world}/images"}},
            "unnatural_instruction": {"build_info": {"ann_path": f"{world}/text.json"}},
        }
        (world / "x.yaml").write_text(yaml.safe_dump(config))
        return Config.load(world / "x.yaml", options)

    return make


def cells(report, name):
    """Return the words of a dataset's line of the table, up to the first path."""
    (line,) = [line for line in report.table().splitlines() if line.startswith(name)]
    return line.split()[1:6]
