"""A benchmark: its questions, how an answer is cleaned, the entry of its result file, and its score."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from omegaconf import DictConfig, OmegaConf
from PIL import Image

from minigpt4.common.row_checks import require
from minigpt4.common.schema import EvaluationDatasetConfig
from minigpt4.evaluation.benchmarks.scorers import counts_by_type, percent, percent_by
from minigpt4.evaluation.intervals import bootstrap, wilson
from minigpt4.evaluation.rows import NUM_SHOWN, each, first_few, read_rows, repeated
from minigpt4.processors.pictures import AS_STORED, decode_image

MODEL_ID = "minigpt4-v2"
"""What result rows name as the model that answered."""
SHORT_ANSWER = "[vqa] Based on the image, respond to this question with a short answer: {}"
ANSWER_KEYS = ("text", "answer", "pred")
"""Where result files have the answer."""
ID_KEYS = ("question_id", "index", "img_id", "sents", "gt")
"""What tells in a result file which question an entry answers."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question: `prompt` without the chat layout; `image` is the places of its file, base64 text, or None.

    Where `choices` are given they are ranked and nothing is generated. `extra` carries what result and score need.
    """

    id: int | str
    prompt: str
    image: tuple[Path, ...] | str | None = None
    choices: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


class Prediction(NamedTuple):
    """A question with its cleaned answer, or with the ranks of its choices (best first)."""

    question: Question
    answer: Any


class Benchmark:
    """One benchmark of `evaluation_datasets`, or one made in memory; `questions`, `export`, `score_one` are needed.

    `entry` is its YAML key, `name` that of its result (another one where splits count apart), `result_file` the file
    below `run.save_path`; `source` says where to get its files, `script` which script evaluates it.
    """

    fields: ClassVar[Mapping[str, Any]] = {}
    """The keys that every row must have, with the types of their values."""
    label: ClassVar[str | None] = None
    """The key of the truth, which a file has in all rows or in none, as in a test split."""
    text_key: ClassVar[str] = "question"
    """The key of what is asked."""
    answers_by_id = False
    """Whether what reads the result file finds an answer by the question's id."""
    script = "eval_vqa.py"
    result_file = ""
    source = "see Evaluation in the README"
    num_tries = 0
    """How often an answer that `needs_resample` refuses is sampled again."""
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

    @classmethod
    def build(cls, cfg: DictConfig, *, name: str) -> list[Benchmark]:
        """Return the benchmarks of one YAML entry: one, unless its splits count apart."""
        return [cls(cfg, name=name)]

    def questions(self) -> list[Question]:
        """Return the questions in the order of the file. Raises: ValueError when it is missing or a row is bad."""
        raise NotImplementedError

    def clean(self, answer: str) -> str:
        """Return the answer as it is saved and compared."""
        return answer.replace("<unk>", "").strip()

    def needs_resample(self, answer: str) -> bool:
        """Return whether another answer is sampled, where `num_tries` allows it."""
        return False

    def export(self, question: Question, answer: Any) -> dict[str, Any]:
        """Return the entry of the result file."""
        raise NotImplementedError

    def answer(self, entry: Mapping[str, Any]) -> Any:
        """Return the answer of an entry of a result file, ours or another's."""
        return next(entry[key] for key in ANSWER_KEYS if key in entry)

    def metadata(self, question: Question) -> dict[str, Any]:
        """Return the type, the options and the truth of a question for people to read, None where it has none."""
        extra = question.extra
        options = extra.get("options") or (list(question.choices) or None)
        return {"type": extra.get("type"), "options": options, "truth": extra.get("truth")}

    def display_answer(self, question: Question, answer: Any) -> str:
        """Return an answer for people to read."""
        text: str = answer
        return text

    def score_one(self, question: Question, answer: Any) -> float | None:
        """Return how right an answer is, 0 to 1, or None where the truth is not known."""
        raise NotImplementedError

    def parses(self, question: Question, answer: Any) -> bool:
        """Return whether the answer has a form that could be right."""
        return bool(answer)

    def score(self, answered: Sequence[Prediction]) -> dict[str, Any]:
        """Return accuracy (percent, None without a truth), its interval, the counts, and the accuracy of each type."""
        rights = [(self.metadata(pair.question)["type"], self.score_one(*pair)) for pair in answered]
        known = [right for _, right in rights if right is not None]
        is_partly_known = 0 < len(known) < len(answered)
        by_type = percent_by((kind, right) for kind, right in rights if right is not None and kind is not None)
        return {
            "accuracy": percent(known),
            "interval": self.interval(known),
            "num_questions": len(answered),
            **({"num_with_truth": len(known)} if is_partly_known else {}),
            "num_unanswered": sum(answer == "" for _, answer in answered),
            "num_unparsed": sum(not self.parses(*pair) for pair in answered),
            **({"accuracy_by_type": by_type, "counts_by_type": counts_by_type(rights)} if by_type else {}),
        }

    def interval(self, rights: Sequence[float]) -> list[float] | None:
        """Return the 95 % interval of the accuracy, in percent."""
        if not rights:
            return None
        if self.is_graded:
            from minigpt4.common.seeds import derive_seed  # which needs torch, as the converters do not

            ends = bootstrap(rights, seed=derive_seed("interval", self.name))
        else:
            ends = wilson(sum(right == 1 for right in rights), len(rights))
        return [round(end, 2) for end in ends]

    def result_text(self, entries: Sequence[dict[str, Any]]) -> str:
        """Return the content of the result file: a line an entry for .jsonl, else one list."""
        if self.result_file.endswith(".jsonl"):
            return "".join(json.dumps(entry) + "\n" for entry in entries)
        return json.dumps(list(entries))

    def is_valid(self, answer: Any) -> bool:
        """Return whether what a result file holds has the type of an answer."""
        return isinstance(answer, str)

    def rows(self, path: Path | None = None, *, key: str | None = None) -> list[Any]:
        """Return the rows of a file, of `eval_file_path` if none is given; those under `key` of one object.

        Raises: ValueError that names the file.
        """
        path = path or self.eval_file
        if not os.path.exists(path):
            raise ValueError(self.missing(path))
        try:
            return read_rows(path, key=key)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def ask_each(
        self, rows: Sequence[Any], ask: Callable[..., Question], *, path: Path | None = None
    ) -> list[Question]:
        """Return `ask(number, row, is_labelled=..)` of each row; a file where no row has `label` is not labelled.

        `path` is the file of the rows, `eval_file_path` if none is given.
        Raises: ValueError that counts and shows the rows that lack a key or have a value of a wrong type.
        """
        path = path or self.eval_file
        is_labelled = self.label is not None and any(isinstance(row, dict) and self.label in row for row in rows)
        if self.label is not None and not is_labelled:
            logger.warning("%s: no row of %s has '%s', so no accuracy is known", self.name, path, self.label)

        def make(number: int, row: Any) -> Question:
            require(row, self.fields)
            return ask(number, row, is_labelled=is_labelled)

        questions = each(rows, make, lambda number: f"{self.name}[{number}]: {path}")
        if blank := [number for number, row in enumerate(rows) if not row[self.text_key].strip()]:
            what = f"{len(blank)} rows of {path} have an empty '{self.text_key}'"
            logger.warning("%s: %s, such as %s[%d]", self.name, what, self.name, blank[0])
        return questions

    def check_questions(self, questions: Sequence[Question]) -> None:
        """Warn of ids that come twice. Raises: ValueError where there is no question, or one cannot be asked."""
        if not questions:
            raise ValueError(f"{self.name}: {self.eval_file} holds no question")
        from minigpt4.conversation.conversation import IMAGE_PLACEHOLDER  # it needs torch, as the converters do not

        problems = []
        for question in questions:
            if any(IMAGE_PLACEHOLDER in text for text in (question.prompt, *question.choices)):
                what = f"its question holds {IMAGE_PLACEHOLDER}, which stands for an image"
                problems.append(f"{self.name}[{question.id}]: {what}")
        if problems:
            raise ValueError(first_few(problems, "questions"))
        if self.answers_by_id and (twice := repeated(question.id for question in questions)):
            names = ", ".join(map(str, twice[:NUM_SHOWN]))
            logger.warning("%s: %d ids come more than once, such as %s", self.name, len(twice), names)

    def missing(self, path: Path, key: str = "eval_file_path") -> str:
        """Return the message about a path that is not there."""
        return f"{self.name}: {path} does not exist (evaluation_datasets.{self.entry}.{key}); {self.source}"

    def check_pictures(self, questions: Sequence[Question]) -> None:
        """Raise ValueError that counts and shows the pictures that come as text and are broken; no file is opened."""
        shown_by: dict[str, Question] = {}
        for question in questions:
            if isinstance(question.image, str):
                shown_by.setdefault(question.image, question)
        problems = []
        for text, question in shown_by.items():
            try:
                decode_image(io.BytesIO(base64.b64decode("".join(text.split()), validate=True)), AS_STORED)
            except ValueError as error:
                problems.append(f"{self.name}[{question.id}]: cannot read its image from base64 text: {error}")
        if problems:
            raise ValueError(first_few(problems, "pictures"))

    def check_images(self, questions: Sequence[Question]) -> None:
        """Raise ValueError that counts and shows the images that are not there."""
        lacking = [
            f"{q.id}: {' or '.join(map(str, q.image))}"
            for q in questions
            if isinstance(q.image, tuple) and not any(map(os.path.isfile, q.image))
        ]
        if lacking:
            where = f"evaluation_datasets.{self.entry}.img_path"
            head = f"{self.name}: {len(lacking)} questions have no image ({where}); {self.source}"
            raise ValueError(f"{head}\n  {first_few(lacking, 'questions')}")

    def open_image(self, question: Question) -> Image.Image:
        """Return the picture in RGB of a question that has one.

        Raises: ValueError that names benchmark, question and file.
        """
        assert question.image is not None
        place: Any = "base64 text"
        try:
            if isinstance(question.image, str):
                file: Any = io.BytesIO(base64.b64decode(question.image))
            else:
                file = place = next((path for path in question.image if path.is_file()), question.image[0])
            return decode_image(file, self.cfg.get("pictures") or AS_STORED)
        except ValueError as error:
            raise ValueError(f"{self.name}[{question.id}]: cannot read its image from {place}: {error}") from error
