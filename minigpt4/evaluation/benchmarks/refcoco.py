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
"""So many characters of an img_id name its image; the object's number follows."""
MIN_IOU = 0.5
NUM_TRIES = 5
"""How often `--resample` asks again where an answer holds no box."""


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
        """Return a benchmark a split."""
        splits = ("val", "test") if name == "refcocog" else ("val", "testA", "testB")
        return [cls(cfg, name=name, split=split) for split in splits]

    def questions(self) -> list[Question]:
        """Return a question a row, each with the box of its row."""
        return self.ask_each(self.rows(), self._question)

    def _question(self, number: int, row: Row, *, is_labelled: bool) -> Question:
        for side in ("height", "width"):
            if row[side] < 1:
                raise ValueError(f"'{side}' should be a positive number of pixels, not {shown(row[side])}")
        if is_labelled:
            require(row, {"bbox": list})
            if len(row["bbox"]) != 4 or not all(map(is_number, row["bbox"])):
                raise ValueError(f"'bbox' should be four numbers (x, y, width, height), not {str(row['bbox'])[:80]}")
            if min(row["bbox"][2:]) < 0:
                raise ValueError(f"'bbox' has a negative width or height: {row['bbox']}")
        return Question(
            id=number,
            prompt=f"[refer] give me the location of {row['sents']}",
            image=(self.img_dir / f"{row['img_id'][:IMAGE_NAME_LENGTH]}.jpg",),
            extra={**row, "bbox": row.get("bbox")},
        )

    def clean(self, answer: str) -> str:
        """Return the answer without blanks."""
        return "".join(super().clean(answer).split())

    def needs_resample(self, answer: str) -> bool:
        """Return whether the answer holds no box."""
        return BOX.search(answer) is None

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        """Return the answer with the object that was asked for."""
        return {"img_id": question.extra["img_id"], "sents": question.extra["sents"], "answer": answer}

    def metadata(self, question: Question) -> dict[str, Any]:
        """Return the true box as the model would write it."""
        if question.extra["bbox"] is None:
            return {"type": None, "options": None, "truth": None}
        box, size = question.extra["bbox"], (question.extra["width"], question.extra["height"])
        return {"type": None, "options": None, "truth": box_text(box, size)}

    def box(self, question: Question, answer: str) -> list[float] | None:
        """Return the answered box in pixels, or None."""
        return read_box(answer, width=question.extra["width"], height=question.extra["height"])

    def parses(self, question: Question, answer: str) -> bool:
        """Return whether the answer is a box."""
        return self.box(question, answer) is not None

    def score_one(self, question: Question, answer: str) -> float | None:
        """Return whether the box lies well enough on the true one (x, y, width, height in the file)."""
        if question.extra["bbox"] is None:
            return None
        box = self.box(question, answer)
        x, y, width, height = question.extra["bbox"]
        return float(box is not None and overlap(box, (x, y, x + width, y + height)) > MIN_IOU)
