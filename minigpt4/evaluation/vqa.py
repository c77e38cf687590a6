"""Benchmarks answered in words: OKVQA, VizWiz, VSR, GQA and Hateful Memes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minigpt4.common.registry import registry
from minigpt4.evaluation.benchmark import SHORT_ANSWER, Answered, Benchmark, Question, read_json
from minigpt4.evaluation.scorers import percent_by
from minigpt4.evaluation.tables import need
from minigpt4.evaluation.vqa_accuracy import AGREEING, vqa_accuracy


class PredictedTruth(Benchmark):
    """A benchmark whose result file holds {pred, gt} and where right is equal in lower case."""

    def result(self, question: Question, answer: str) -> dict[str, Any]:
        """Return the answer beside the truth."""
        return {"pred": answer, "gt": question.extra["truth"]}

    def correctness(self, question: Question, answer: str) -> float | None:
        """Return whether the answer in lower case is the truth."""
        return float(answer.lower() == question.extra["truth"])


@registry.register_benchmark("okvqa")
class OKVQA(Benchmark):
    """OK-VQA test, with the official VQA accuracy; `eval_file_path` is the folder of its three files."""

    result_file = "okvqa.json"
    source = "OK-VQA: the evaluation dataset, and COCO2014 validation images; see Evaluation in the README"

    def questions(self) -> list[Question]:
        """Return the questions of okvqa_test_split.json with the human answers of the annotation file."""
        people = {row["question_id"]: row for row in self._file("mscoco_val2014_annotations_clean.json")["annotations"]}
        return [self._question(row, people) for row in self._file("okvqa_test_split.json")]

    def _question(self, row: Mapping[str, Any], people: Mapping[int, Mapping[str, Any]]) -> Question:
        if row["question_id"] not in people:
            raise ValueError(f"{self.name}[{row['question_id']}]: {self.eval_file} holds no annotation of it")
        return Question(
            id=row["question_id"],
            prompt=SHORT_ANSWER.format(row["question"]),
            image=(self.img_dir / f"COCO_val2014_{row['image_id']:012}.jpg",),
            extra=people[row["question_id"]],
        )

    def _file(self, name: str) -> Any:
        path = self.eval_file / name
        if not path.is_file():
            raise ValueError(self.missing(path))
        return read_json(path)

    def clean(self, answer: str) -> str:
        """Return the answer in lower case."""
        return super().clean(answer).lower()

    def result(self, question: Question, answer: str) -> dict[str, Any]:
        """Return what the official evaluation reads."""
        return {"answer": answer, "question_id": question.id}

    def correctness(self, question: Question, answer: str) -> float | None:
        """Return the official accuracy."""
        return vqa_accuracy(answer, question.extra["answers"])

    def score(self, answered: Sequence[Answered]) -> dict[str, Any]:
        """Return the usual counts, and the accuracies by question and answer type, all rounded as officially."""
        scored = super().score(answered)
        scored["accuracy"] = None if scored["accuracy"] is None else round(scored["accuracy"], 2)
        for kind in ("question_type", "answer_type"):
            rights = [(q.extra[kind], vqa_accuracy(answer, q.extra["answers"])) for q, answer in answered]
            scored[f"accuracy_by_{kind}"] = {name: round(value, 2) for name, value in percent_by(rights).items()}
        return scored


@registry.register_benchmark("vizwiz")
class VizWiz(Benchmark):
    """VizWiz validation: right by a third for each person who gave the answer."""

    result_file = "vizwiz.json"
    source = "VizWiz validation: https://vizwiz.org/tasks-and-datasets/vqa/"
    template = (
        "[vqa] The question is '{}' Based on the image, answer the question with a single word or phrase. "
        "and reply 'unanswerable' when the provided information is insufficient"
    )

    def questions(self) -> list[Question]:
        """Return a question a row, with its human answers."""
        return [
            Question(
                id=number,
                prompt=self.template.format(row["question"]),
                image=(self.img_dir / row["image"],),
                extra={"answers": [person["answer"] for person in row["answers"]]},
            )
            for number, row in enumerate(self.rows("image", "question", "answers"))
        ]

    def result(self, question: Question, answer: str) -> dict[str, Any]:
        """Return the answer alone, in the order of the questions."""
        return {"answer": answer}

    def correctness(self, question: Question, answer: str) -> float | None:
        """Return a third a person who agrees, at most 1."""
        agreeing = sum(person.strip().lower() == answer.lower() for person in question.extra["answers"])
        return min(agreeing / AGREEING, 1.0)


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
                extra={"truth": "true" if int(row["label"]) == 1 else "false"},
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
            return Path(hub.hf_hub_download(given, self.file_name, repo_type="dataset"))
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

    def correctness(self, question: Question, answer: str) -> float | None:
        """Return whether yes or no fits the label."""
        return float(self.labels.get(answer.lower()) == question.extra["truth"])

    def parses(self, question: Question, answer: str) -> bool:
        """Return whether the answer is yes or no."""
        return answer.lower() in self.labels
