"""Benchmarks with one right word: VSR, GQA and Hateful Memes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt4.common.downloads import UnreachableError, from_hub
from minigpt4.common.registry import registry
from minigpt4.evaluation.benchmark import SHORT_ANSWER, Benchmark, Question
from minigpt4.evaluation.tables import need


class PredictedTruth(Benchmark):
    """A benchmark whose result file holds {pred, gt} and where right is equal in lower case."""

    def result(self, question: Question, answer: str) -> dict[str, Any]:
        """Return the answer beside the truth."""
        return {"pred": answer, "gt": question.extra["truth"]}

    def correctness(self, question: Question, answer: str) -> float | None:
        """Return whether the answer in lower case is the truth."""
        return float(answer.lower() == question.extra["truth"])


@registry.register_benchmark("vsr")
class VSR(PredictedTruth):
    """Visual Spatial Reasoning, zero-shot test; `eval_file_path` is a file of rows, a folder with it, or the hub id."""

    result_file = "vsr.json"
    source = "VSR images: https://github.com/cambridgeltl/visual-spatial-reasoning/tree/master/data"
    file_name = "test.jsonl"

    def questions(self) -> list[Question]:
        """Return a statement a row."""
        self.eval_file = self._find()
        return [
            Question(
                id=number,
                prompt=f"[vqa] Based on the image, is this statement true or false? {row['caption']}",
                image=(self.img_dir / row["image"],),
                extra={"truth": "true" if int(row["label"]) == 1 else "false", "type": row.get("relation")},
            )
            for number, row in enumerate(self.rows("image", "caption", "label"))
        ]

    def _find(self) -> Path:
        given = str(self.cfg.eval_file_path)
        path = Path(given)
        if path.is_dir():
            return path / self.file_name
        is_hub_id = given.count("/") == 1 and not given.startswith((".", "/", "~")) and not path.suffix
        if path.is_file() or not is_hub_id:
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

    def questions(self) -> list[Question]:
        """Return a question a row; the truth is compared as it is."""
        return [
            Question(
                id=number,
                prompt=SHORT_ANSWER.format(row["question"]),
                image=(self.img_dir / row["image"],),
                extra={"truth": row["answer"]},
            )
            for number, row in enumerate(self.rows("image", "question", "answer"))
        ]

    def clean(self, answer: str) -> str:
        """Return the answer in lower case."""
        return super().clean(answer).lower()


@registry.register_benchmark("hm")
class HatefulMemes(Benchmark):
    """Hateful Memes dev: yes or no, anything else is wrong."""

    result_file = "hm.json"
    source = "Hateful Memes: https://hatefulmemeschallenge.com"
    labels: Mapping[str, int] = {"yes": 1, "no": 0}

    def questions(self) -> list[Question]:
        """Return a question a row; the misspelt word is what the model was asked before."""
        return [
            Question(
                id=number,
                prompt=f"This is an image writting '{row['text']}'. Is this image hateful? Answer yes or no. Answer:",
                image=(self.img_dir / row["img"],),
                extra={"truth": int(row["label"])},
            )
            for number, row in enumerate(self.rows("img", "text", "label"))
        ]

    def result(self, question: Question, answer: str) -> dict[str, Any]:
        """Return 1 for yes, 0 for no, else the answer itself, beside the label."""
        return {"pred": self.labels.get(answer.lower(), answer), "gt": question.extra["truth"]}

    def answer(self, entry: Mapping[str, Any]) -> str:
        """Return yes for 1 and no for 0."""
        words = {label: word for word, label in self.labels.items()}
        return words.get(entry["pred"], entry["pred"])

    def about(self, question: Question) -> dict[str, Any]:
        """Return the label in words."""
        words = {label: word for word, label in self.labels.items()}
        return {**super().about(question), "truth": words.get(question.extra["truth"])}

    def correctness(self, question: Question, answer: str) -> float | None:
        """Return whether yes or no fits the label."""
        return float(self.labels.get(answer.lower()) == question.extra["truth"])

    def parses(self, question: Question, answer: str) -> bool:
        """Return whether the answer is yes or no."""
        return answer.lower() in self.labels
