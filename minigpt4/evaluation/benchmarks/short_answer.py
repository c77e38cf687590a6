"""Benchmarks with one right word: VSR, GQA and Hateful Memes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from minigpt4.common.downloads import UnreachableError, from_hub, is_hub_id
from minigpt4.common.registry import registry
from minigpt4.common.row_checks import require
from minigpt4.evaluation.benchmark import SHORT_ANSWER, Benchmark, Question
from minigpt4.evaluation.rows import Row, optional_text, read_label
from minigpt4.evaluation.tables import need


class OneWord(Benchmark):
    """A benchmark whose published file holds {pred, gt}; right is equal in lower case."""

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        return {"pred": answer, "gt": question.truth}

    def score_one(self, question: Question, answer: str) -> float | None:
        return None if question.truth is None else float(answer.lower() == question.truth)

    def is_valid(self, answer: str) -> bool:
        return bool(answer)


@registry.register_benchmark("vsr")
class VSR(OneWord):
    """Visual Spatial Reasoning, zero-shot test; `eval_file_path` is a file of rows, a folder with it, or the hub id."""

    result_file = "vsr.json"
    text_key = "caption"
    source = "VSR images: https://github.com/cambridgeltl/visual-spatial-reasoning/tree/master/data"
    file_name = "test.jsonl"
    template = "[vqa] Based on the image, is this statement true or false? {}"
    fields: ClassVar = {"image": str, "caption": str}
    label = "label"
    words: ClassVar = ("false", "true")

    def questions(self) -> list[Question]:
        self.eval_file = self._find()
        return self.ask_each(self.rows(), self._question)

    def _question(self, number: int, row: Row) -> Question:
        return Question(
            id=number,
            prompt=self.template.format(row["caption"]),
            image=(self.img_dir / row["image"],),
            truth=self.words[read_label(row)] if self.label in row else None,
            type=optional_text(row, "relation"),
        )

    def _find(self) -> Path:
        given = str(self.cfg.eval_file_path)
        path = Path(given)
        if path.is_dir():
            return path / self.file_name
        if path.is_file() or path.suffix or not is_hub_id(given):
            return path
        try:
            hub = need("huggingface_hub", "the vsr benchmark")

            def fetch(local_only: bool) -> Path:
                how = {"repo_type": "dataset", "local_files_only": local_only}
                return Path(hub.hf_hub_download(given, self.file_name, **how))

            return from_hub(f"evaluation_datasets.{self.name}.eval_file_path", given, fetch, thing=self.file_name)
        except UnreachableError:
            raise
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.name}: cannot download {self.file_name} of {given}: {error}") from error

    def is_valid(self, answer: str) -> bool:
        return answer.lower() in self.words


@registry.register_benchmark("gqa")
class GQA(OneWord):
    """GQA testdev, balanced; the truth is compared as it is."""

    result_file = "gqa.json"
    source = "GQA: https://cs.stanford.edu/people/dorarad/gqa/download.html"
    fields: ClassVar = {"image": str, "question": str}
    label = "answer"

    def questions(self) -> list[Question]:
        return self.ask_each(self.rows(), self._question)

    def _question(self, number: int, row: Row) -> Question:
        if self.label in row:
            require(row, {"answer": str})
            if not row["answer"].strip():
                raise ValueError("'answer' is empty")
        return Question(
            id=number,
            prompt=SHORT_ANSWER.format(row["question"]),
            image=(self.img_dir / row["image"],),
            truth=row.get("answer"),
        )

    def clean(self, answer: str) -> str:
        return super().clean(answer).lower()


@registry.register_benchmark("hm")
class HatefulMemes(OneWord):
    """Hateful Memes dev: yes or no; its published file holds these as 1 and 0, and other answers as they are."""

    result_file = "hm.json"
    text_key = "text"
    source = "Hateful Memes: https://hatefulmemeschallenge.com"
    template = "This is an image writting '{}'. Is this image hateful? Answer yes or no. Answer:"
    """The published prompt has the misspelt word."""
    fields: ClassVar = {"img": str, "text": str}
    label = "label"
    labels: ClassVar[Mapping[str | None, int]] = {"no": 0, "yes": 1}

    def questions(self) -> list[Question]:
        return self.ask_each(self.rows(), self._question)

    def _question(self, number: int, row: Row) -> Question:
        return Question(
            id=number,
            prompt=self.template.format(row["text"]),
            image=(self.img_dir / row["img"],),
            truth=("no", "yes")[read_label(row)] if self.label in row else None,
        )

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        return {"pred": self.labels.get(answer.lower(), answer), "gt": self.labels.get(question.truth)}

    def is_valid(self, answer: str) -> bool:
        return answer.lower() in self.labels
