"""What a benchmark's questions show: pictures as they are stored, unless the YAML says as_seen."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf
from PIL import Image

from minigpt4.common.config import Config
from minigpt4.common.schema import EvaluationDatasetConfig
from minigpt4.evaluation.benchmark import Benchmark, Question
from minigpt4.evaluation.evaluator import choose
from minigpt4.evaluation.results import settings_of


class Nothing(Benchmark):
    """Asks nothing."""

    def questions(self) -> list[Question]:
        return []

    def export(self, question: Question, answer: Any) -> dict[str, Any]:
        return {}

    def score_one(self, question: Question, answer: Any) -> float | None:
        return None

    def is_valid(self, answer: Any) -> bool:
        return False


def benchmark(**options: Any) -> Benchmark:
    cfg = OmegaConf.structured(EvaluationDatasetConfig(eval_file_path="none", **options))
    return Nothing(cfg, name="some")


def turned(path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 30)).save(path, exif=exif)
    return path


def ask(image: Any) -> Question:
    return Question(id=7, prompt="a", image=image)


def test_boxes_of_benchmarks_count_stored_pixels(tmp_path: Path) -> None:
    question = ask((turned(tmp_path / "a.jpg"),))
    assert benchmark().open_image(question).size == (48, 30)
    assert benchmark(pictures="as_seen").open_image(question).size == (30, 48)


def test_transparent_and_16_bit_pictures_in_a_table(tmp_path: Path) -> None:
    def text(image: Image.Image) -> str:
        file = io.BytesIO()
        image.save(file, "PNG")
        return base64.b64encode(file.getvalue()).decode()

    glass = ask(text(Image.new("RGBA", (2, 2), (9, 9, 9, 0))))
    assert benchmark().open_image(glass).getpixel((0, 0)) == (9, 9, 9)
    assert benchmark(pictures="as_seen").open_image(glass).getpixel((0, 0)) == (255, 255, 255)
    deep = ask(text(Image.fromarray(np.full((2, 2), 32896, np.uint16))))
    assert benchmark().open_image(deep).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"version https://git-lfs.github.com/spec/v1", "git-lfs pointer"), (b"\x89PNG\r\n\x1a\n\0", "cannot identify")],
)
def test_what_is_no_picture_is_named_with_its_question(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=rf"some\[7\]: cannot read its image from .*a\.png: .*{reason}"):
        benchmark().open_image(ask((tmp_path / "a.png",)))
    with pytest.raises(ValueError, match=rf"some\[7\]: cannot read its image from base64 text: .*{reason}"):
        benchmark().open_image(ask(base64.b64encode(content).decode()))


def test_model_pictures_holds_for_all_benchmarks_and_counts_as_a_setting(tmp_path: Path) -> None:
    entry = {"eval_file_path": "none", "img_path": "none"}
    content = {"evaluation_datasets": {"gqa": entry, "vsr": {**entry, "pictures": "as_stored"}}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))

    def shown(*options: str) -> list[Any]:
        cfg = Config.load(tmp_path / "a.yaml", options)
        return [one.cfg.pictures for one in choose(cfg, script="eval_vqa.py")]

    assert shown() == [None, "as_stored"]
    assert shown("model.pictures=as_seen") == ["as_seen", "as_stored"]
    plain, seen = (
        settings_of(Config.load(tmp_path / "a.yaml", options)) for options in ([], ["model.pictures=as_seen"])
    )
    assert plain != seen
