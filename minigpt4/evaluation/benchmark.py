"""A benchmark: its questions, the row of its published file, and the score of an answer."""

from __future__ import annotations

import base64
import io
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

from omegaconf import DictConfig, OmegaConf
from PIL import Image

from minigpt4.common.row_checks import ROW_ERRORS, require, shown
from minigpt4.common.schema import EvaluationDatasetConfig
from minigpt4.evaluation.benchmarks.scorers import RIGHT_FROM, bootstrap, grouped, percent, wilson
from minigpt4.evaluation.rows import NUM_SHOWN, each, first_few, read_rows, repeated
from minigpt4.processors.pictures import AS_STORED, decode_image

SHORT_ANSWER = "[vqa] Based on the image, respond to this question with a short answer: {}"

Read = TypeVar("Read")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question: `prompt` without the chat layout; `image` is the possible paths of its file, base64 text, or None.

    Where `choices` are given they are ranked and no text is generated. `options` are texts by letter. `truth` is the
    right answer for people to read, None where it is unknown. `reference` may hold more for `export` and `score_one`.
    """

    id: int | str
    prompt: str
    image: tuple[Path, ...] | str | None = None
    choices: tuple[str, ...] = ()
    type: str | None = None
    options: Mapping[str, str] | None = None
    truth: str | None = None
    reference: Any = None


def picture_bytes(text: str) -> bytes:
    """Return the content of a picture that comes as base64 text. Raises: ValueError where it is something else."""
    return base64.b64decode("".join(text.split()), validate=True)


class Prediction(NamedTuple):
    """A question and its answer: the cleaned text, or the indices of its choices, the best first."""

    question: Question
    answer: Any

    @property
    def text(self) -> str:
        """Return the answer for people to read: of choices the best, or its index if there is no such choice."""
        choices = self.question.choices
        if not choices:
            return str(self.answer)
        best = self.answer[0]
        return choices[best] if 0 <= best < len(choices) else str(best)


class Benchmark(ABC):
    """One benchmark of `evaluation_datasets`, or one made in memory: four methods, the others have defaults.

    `entry` is its YAML key, `name` that of its result (another one where splits count apart), `result_file` the file
    below `run.save_path`; `source` says where to get its files, `script` which script evaluates it.
    """

    fields: ClassVar[Mapping[str, Any]] = {}
    """The keys that every row must have, with the types of their values."""
    label: ClassVar[str | None] = None
    """The key of the truth. A file has it in all rows or in none, as in a test split."""
    text_key: ClassVar[str] = "question"
    """The key of the question's text."""
    answers_by_id = False
    """Whether the published file is read by the questions' ids."""
    script = "eval_vqa.py"
    result_file = ""
    source = "see Evaluation in the README"
    num_tries = 0
    """The number of times that an answer is sampled again where `needs_resample` asks for it."""
    is_graded = False
    """Whether an answer can be right in part."""

    def __init__(self, cfg: DictConfig | None = None, *, name: str) -> None:
        if cfg is None:
            cfg = OmegaConf.structured(EvaluationDatasetConfig(eval_file_path=""))
        self.cfg = cfg
        self.name = self.entry = name
        self.result_file = self.result_file or f"{name}.jsonl"
        self.eval_file = Path(cfg.eval_file_path)
        self.img_dir = Path(cfg.img_path or ".")

    @abstractmethod
    def questions(self) -> list[Question]:
        """Return the questions in the order of the file. Raises: ValueError when it is missing or a row is bad."""

    @abstractmethod
    def export(self, question: Question, answer: Any) -> dict[str, Any]:
        """Return the row of the published file."""

    @abstractmethod
    def score_one(self, question: Question, answer: Any) -> float | None:
        """Return how right an answer is, 0 to 1, or None where the truth is unknown."""

    @abstractmethod
    def is_valid(self, answer: Any) -> bool:
        """Return whether the answer has a form that could be right."""

    @classmethod
    def build(cls, cfg: DictConfig, *, name: str) -> list[Benchmark]:
        """Return the benchmarks of one YAML entry: one, unless its splits count apart."""
        return [cls(cfg, name=name)]

    def clean(self, answer: str) -> str:
        """Return the answer as it is saved and compared."""
        return answer.replace("<unk>", "").strip()

    def needs_resample(self, answer: str) -> bool:
        """Return whether another answer is sampled, where `num_tries` allows it."""
        return False

    def parses(self, question: Question, answer: Any) -> bool:
        """Return whether the answer has a form that could be right for this question."""
        return self.is_valid(answer) and (not question.choices or 0 <= answer[0] < len(question.choices))

    def score(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return accuracy (percent, None without a truth), its interval, the counts, and the accuracy of each type."""
        rights = [(one.question.type, self._right(*one)) for one in predictions]
        known = [right for _, right in rights if right is not None]
        groups = grouped((kind, right) for kind, right in rights if right is not None and kind is not None)
        counts = {
            kind: {"num_questions": len(group), "num_right": sum(right >= RIGHT_FROM for right in group)}
            for kind, group in groups.items()
        }
        by_type = {"accuracy_by_type": {kind: percent(group) for kind, group in groups.items()}}
        return {
            "accuracy": percent(known),
            "interval": self._interval(known),
            "num_questions": len(predictions),
            **({"num_with_truth": len(known)} if 0 < len(known) < len(predictions) else {}),
            "num_unanswered": sum(answer == "" for _, answer in predictions),
            "num_unparsed": sum(not self.parses(*one) for one in predictions),
            **(by_type | {"counts_by_type": counts} if groups else {}),
        }

    def _right(self, question: Question, answer: Any) -> float | None:
        """Return the score of one answer. Raises: ValueError that names the question where it is no score."""
        try:
            right = self.score_one(question, answer)
            if right is not None and not (isinstance(right, int | float) and 0 <= right <= 1):
                raise ValueError(f"expected None or a number from 0 to 1, got {shown(right)}")
        except ROW_ERRORS as error:
            raise ValueError(f"{self.name}[{question.id}]: score_one: {error}") from error
        return right

    def _interval(self, rights: Sequence[float]) -> list[float] | None:
        """Return the 95 % interval of the accuracy, in percent."""
        if not rights:
            return None
        if self.is_graded:
            from minigpt4.common.seeds import derive_seed  # it imports torch, which the converters do without

            ends = bootstrap(rights, seed=derive_seed("interval", self.name))
        else:
            ends = wilson(sum(right == 1 for right in rights), len(rights))
        return [round(end, 2) for end in ends]

    def read(self, path: Path, reader: Callable[[Path], Read]) -> Read:
        """Return the content of a file as `reader` gives it. Raises: ValueError that names benchmark and file."""
        if not os.path.exists(path):
            key = f"evaluation_datasets.{self.entry}.eval_file_path"
            raise ValueError(f"{self.name}: {path} does not exist ({key}); {self.source}")
        try:
            return reader(path)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def rows(self, path: Path | None = None, *, key: str | None = None) -> list[Any]:
        """Return the rows of a file, of `eval_file_path` if none is given; those under `key` of one object.

        Raises: as `read`.
        """
        return self.read(path or self.eval_file, lambda file: read_rows(file, key=key))

    def ask_each(
        self, rows: Sequence[Any], ask: Callable[[int, Any], Question], *, path: Path | None = None
    ) -> list[Question]:
        """Return `ask(number, row)` of each row. All rows or none have the key `label`.

        `path` is the file of the rows, `eval_file_path` if none is given.
        Raises: ValueError that counts and shows the rows that lack a key or have a value of a wrong type.
        """
        path = path or self.eval_file
        is_labelled = self.label is not None and any(isinstance(row, dict) and self.label in row for row in rows)
        if self.label is not None and not is_labelled:
            logger.warning("%s: no row of %s has '%s', so no accuracy is known", self.name, path, self.label)

        def make(number: int, row: Any) -> Question:
            require(row, self.fields)
            if is_labelled and self.label not in row:
                raise ValueError(f"'{self.label}' is missing in this row, though other rows have it")
            return ask(number, row)

        questions = each(rows, make, lambda number: f"{self.name}[{number}]: {path}")
        texts = [row.get(self.text_key) for row in rows]
        if blank := [number for number, text in enumerate(texts) if isinstance(text, str) and not text.strip()]:
            what = f"{len(blank)} rows of {path} have an empty '{self.text_key}'"
            logger.warning("%s: %s, such as %s[%d]", self.name, what, self.name, blank[0])
        return questions

    def check_questions(self, questions: Sequence[Question]) -> None:
        """Warn of repeated ids. Raises: ValueError where there is no question, or one cannot be asked."""
        if not questions:
            raise ValueError(f"{self.name}: {self.eval_file} holds no question")
        from minigpt4.conversation.conversation import IMAGE_PLACEHOLDER  # it imports torch, converters do without

        what = f"its question holds {IMAGE_PLACEHOLDER}, which stands for an image"
        odd = [q.id for q in questions if any(IMAGE_PLACEHOLDER in text for text in (q.prompt, *q.choices))]
        if odd:
            raise ValueError(first_few([f"{self.name}[{name}]: {what}" for name in odd], "questions"))
        if self.answers_by_id and (twice := repeated(question.id for question in questions)):
            names = ", ".join(map(str, twice[:NUM_SHOWN]))
            logger.warning("%s: %d ids come more than once, such as %s", self.name, len(twice), names)

    def check_images(self, questions: Sequence[Question]) -> None:
        """Raise ValueError that counts and shows the missing images."""
        lacking = [
            f"{q.id}: {' or '.join(map(str, q.image))}"
            for q in questions
            if isinstance(q.image, tuple) and not any(map(os.path.isfile, q.image))
        ]
        if lacking:
            where = f"evaluation_datasets.{self.entry}.img_path"
            head = f"{self.name}: {len(lacking)} questions have no image ({where}); {self.source}"
            raise ValueError(f"{head}\n  {first_few(lacking, 'questions')}")

    def check_pictures(self, questions: Sequence[Question]) -> None:
        """Raise ValueError that counts and shows the broken pictures that come as text; no file is opened."""
        first_with: dict[str, Question] = {}
        for question in questions:
            if isinstance(question.image, str):
                first_with.setdefault(question.image, question)
        problems = []
        for question in first_with.values():
            try:
                self.open_image(question)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError(first_few(problems, "pictures"))

    def open_image(self, question: Question) -> Image.Image:
        """Return the picture in RGB of a question that has one.

        Raises: ValueError that names benchmark, question and file.
        """
        assert question.image is not None
        place: Any = "base64 text"
        try:
            if isinstance(question.image, str):
                file: Any = io.BytesIO(picture_bytes(question.image))
            else:
                file = place = next((path for path in question.image if path.is_file()), question.image[0])
            return decode_image(file, self.cfg.get("pictures") or AS_STORED)
        except ValueError as error:
            raise ValueError(f"{self.name}[{question.id}]: cannot read its image from {place}: {error}") from error
