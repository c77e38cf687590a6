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


class PredictedTruth(Benchmark):
    """A benchmark whose result file holds {pred, gt} and where right is equal in lower case."""

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        """Return the answer beside the truth."""
        return {"pred": answer, "gt": question.extra["truth"]}

    def score_one(self, question: Question, answer: str) -> float | None:
        """Return whether the answer in lower case is the truth."""
        truth = question.extra["truth"]
        return None if truth is None else float(answer.lower() == truth)


@registry.register_benchmark("vsr")
class VSR(PredictedTruth):
    """Visual Spatial Reasoning, zero-shot test; `eval_file_path` is a file of rows, a folder with it, or the hub id."""

    result_file = "vsr.json"
    text_key = "caption"
    source = "VSR images: https://github.com/cambridgeltl/visual-spatial-reasoning/tree/master/data"
    file_name = "test.jsonl"
    fields: ClassVar = {"image": str, "caption": str}
    label = "label"
    words_of: Mapping[int, str] = {0: "false", 1: "true"}

    def questions(self) -> list[Question]:
        """Return a statement a row."""
        self.eval_file = self._find()
        return self.ask_each(self.rows(), self._question)

    def _question(self, number: int, row: Row, *, is_labelled: bool) -> Question:
        return Question(
            id=number,
            prompt=f"[vqa] Based on the image, is this statement true or false? {row['caption']}",
            image=(self.img_dir / row["image"],),
            extra={
                "truth": self.words_of[read_label(row)] if is_labelled else None,
                "type": optional_text(row, "relation"),
            },
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

    def parses(self, question: Question, answer: str) -> bool:
        """Return whether the answer is true or false."""
        return answer.lower() in ("true", "false")


@registry.register_benchmark("gqa")
class GQA(PredictedTruth):
    """GQA testdev, balanced."""

    result_file = "gqa.json"
    source = "GQA: https://cs.stanford.edu/people/dorarad/gqa/download.html"
    fields: ClassVar = {"image": str, "question": str}
    label = "answer"

    def questions(self) -> list[Question]:
        """Return a question a row; the truth is compared as it is."""
        return self.ask_each(self.rows(), self._question)

    def _question(self, number: int, row: Row, *, is_labelled: bool) -> Question:
        if is_labelled:
            require(row, {"answer": str})
            if not row["answer"].strip():
                raise ValueError("'answer' is empty")
        return Question(
            id=number,
            prompt=SHORT_ANSWER.format(row["question"]),
            image=(self.img_dir / row["image"],),
            extra={"truth": row["answer"] if is_labelled else None},
        )

    def clean(self, answer: str) -> str:
        """Return the answer in lower case."""
        return super().clean(answer).lower()


@registry.register_benchmark("hm")
class HatefulMemes(Benchmark):
    """Hateful Memes dev: yes or no, anything else is wrong."""

    result_file = "hm.json"
    text_key = "text"
    source = "Hateful Memes: https://hatefulmemeschallenge.com"
    fields: ClassVar = {"img": str, "text": str}
    label = "label"
    labels: Mapping[str, int] = {"yes": 1, "no": 0}

    def questions(self) -> list[Question]:
        """Return a question a row; the misspelt word is what the model was asked before."""
        return self.ask_each(self.rows(), self._question)

    def _question(self, number: int, row: Row, *, is_labelled: bool) -> Question:
        return Question(
            id=number,
            prompt=f"This is an image writting '{row['text']}'. Is this image hateful? Answer yes or no. Answer:",
            image=(self.img_dir / row["img"],),
            extra={"truth": read_label(row) if is_labelled else None},
        )

    def export(self, question: Question, answer: str) -> dict[str, Any]:
        """Return 1 for yes, 0 for no, else the answer itself, beside the label."""
        return {"pred": self.labels.get(answer.lower(), answer), "gt": question.extra["truth"]}

    def answer(self, entry: Mapping[str, Any]) -> str:
        """Return yes for 1 and no for 0."""
        words = {label: word for word, label in self.labels.items()}
        text: str = words.get(entry["pred"], entry["pred"])
        return text

    def metadata(self, question: Question) -> dict[str, Any]:
        """Return the label in words."""
        words = {label: word for word, label in self.labels.items()}
        return {**super().metadata(question), "truth": words.get(question.extra["truth"])}

    def score_one(self, question: Question, answer: str) -> float | None:
        """Return whether yes or no fits the label."""
        truth = question.extra["truth"]
        return None if truth is None else float(self.labels.get(answer.lower()) == truth)

    def parses(self, question: Question, answer: str) -> bool:
        """Return whether the answer is yes or no."""
        return answer.lower() in self.labels
