"""Referring expressions: RefCOCO, RefCOCO+ and RefCOCOg, answered by a box."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig

from minigpt4.common.registry import registry
from minigpt4.common.row_checks import NUMBER, is_number, require, shown
from minigpt4.conversation.box_text import box_text
from minigpt4.evaluation.benchmark import Benchmark, Question
from minigpt4.evaluation.benchmarks.scorers import BOX, overlap, read_box
from minigpt4.evaluation.rows import Row

IMAGE_NAME_LENGTH = 27
"""The number of characters of an img_id that name its image; the object's number follows."""
MIN_IOU = 0.5
NUM_TRIES = 5
"""The number of times that `--resample` asks again where an answer holds no box."""


@registry.register_benchmark("refcoco")
@registry.register_benchmark("refcoco+")
@registry.register_benchmark("refcocog")
class RefCOCO(Benchmark):
    """One split of one of the three sets; right is an IoU above a half."""

    script = "eval_ref.py"
    fields: ClassVar = {"img_id": str, "sents": str, "height": NUMBER, "width": NUMBER}
    label = "bbox"
    text_key = "sents"
    source = "RefCOCO: the evaluation dataset, and COCO2014 training images; see Evaluation in the README"

    def __init__(self, cfg: DictConfig, *, name: str, split: str) -> None:
        super().__init__(cfg, name=name)
        self.name = f"{name}_{split}"
        self.result_file = f"{self.name}.json"
        nested, flat = Path(cfg.eval_file_path, name, self.result_file), Path(cfg.eval_file_path, self.result_file)
        self.eval_file = flat if flat.is_file() else nested

    @classmethod
    def build(cls, cfg: DictConfig, *, name: str) -> list[Benchmark]:
        splits = ("val", "test") if name == "refcocog" else ("val", "testA", "testB")
        return [cls(cfg, name=name, split=split) for split in splits]

    def questions(self) -> list[Question]:
        return self.ask_each(self.rows(), self._question)

    def _question(self, number: int, row: Row) -> Question:
        for side in ("height", "width"):
            if row[side] < 1:
                raise ValueError(f"'{side}' should be a positive number of pixels, not {shown(row[side])}")
        if self.label in row:
            require(row, {"bbox": list})
            if len(row["bbox"]) != 4 or not all(map(is_number, row["bbox"])):
                raise ValueError(f"'bbox' should be four numbers (x, y, width, height), not {str(row['bbox'])[:80]}")
            if min(row["bbox"][2:]) < 0:
                raise ValueError(f"'bbox' has a negative width or height: {row['bbox']}")
        return Question(
            id=number,
            prompt=f"[refer] give me the location of {row['sents']}",
            image=(self.img_dir / f"{row['img_id'][:IMAGE_NAME_LENGTH]}.jpg",),
            truth=box_text(row["bbox"], (row["width"], row["height"])) if self.label in row else None,
            reference={"bbox": None, **row},
        )

    def clean(self, answer: str) -> str:
        return "".join(super().clean(answer).split())

    def needs_resample(self, answer: str) -> bool:
        return BOX.search(answer) is None

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        return {"img_id": question.reference["img_id"], "sents": question.reference["sents"], "answer": answer}

    def is_valid(self, answer: str) -> bool:
        return read_box(answer, width=1, height=1) is not None

    def score_one(self, question: Question, answer: str) -> float | None:
        row = question.reference
        if row["bbox"] is None:
            return None
        box = read_box(answer, width=row["width"], height=row["height"])
        x, y, width, height = row["bbox"]
        return float(box is not None and overlap(box, (x, y, x + width, y + height)) > MIN_IOU)
