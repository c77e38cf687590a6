"""A benchmark: its questions, how an answer is cleaned, the entry of its result file, and its score."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig
from PIL import Image

from minigpt4.evaluation.intervals import bootstrap, wilson
from minigpt4.evaluation.scorers import percent, percent_by
from minigpt4.processors.pictures import AS_STORED, decode_image

MODEL_ID = "minigpt4-v2"
"""What result rows name as the model that answered."""
SHORT_ANSWER = "[vqa] Based on the image, respond to this question with a short answer: {}"
NUM_SHOWN = 5
"""How many examples of a mistake a message lists."""
ANSWER_KEYS = ("text", "answer", "pred")
"""Where result files have the answer."""
ID_KEYS = ("question_id", "index", "img_id", "sents", "gt")
"""What tells in a result file which question an entry answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One question: `prompt` without the chat layout, `image` as the places where its file may lie or as base64 text.

    Where `choices` are given they are ranked and nothing is generated. `extra` carries what result and score need.
    """

    id: int | str
    prompt: str
    image: tuple[Path, ...] | str
    choices: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


class Answered(NamedTuple):
    """A question with its cleaned answer, or with the ranks of its choices (best first)."""

    question: Question
    answer: Any


class Benchmark:
    """One benchmark of `evaluation_datasets`; a subclass overrides what is particular to it.

    `entry` is its YAML key, `name` that of its result (another one where splits count apart), `result_file` the file
    below `run.save_path`; `source` says where its files are to be had, `script` which script evaluates it.
    """

    script = "eval_vqa.py"
    result_file = ""
    source = "see Evaluation in the README"
    num_tries = 0
    """How often an answer that `try_again` refuses is sampled anew."""
    is_graded = False
    """Whether an answer can be right in part."""

    def __init__(self, cfg: DictConfig, *, name: str) -> None:
        self.cfg = cfg
        self.name = self.entry = name
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

    def try_again(self, answer: str) -> bool:
        """Return whether another answer is sampled, where `num_tries` allows it."""
        return False

    def result(self, question: Question, answer: Any) -> dict[str, Any]:
        """Return the entry of the result file."""
        raise NotImplementedError

    def answer(self, entry: Mapping[str, Any]) -> Any:
        """Return the answer of an entry of a result file, ours or another's."""
        return next(entry[key] for key in ANSWER_KEYS if key in entry)

    def about(self, question: Question) -> dict[str, Any]:
        """Return the type, the options and the truth of a question for people to read, None where it has none."""
        extra = question.extra
        options = extra.get("options") or (list(question.choices) or None)
        return {"type": extra.get("type"), "options": options, "truth": extra.get("truth")}

    def words(self, question: Question, answer: Any) -> str:
        """Return an answer for people to read."""
        return answer

    def correctness(self, question: Question, answer: Any) -> float | None:
        """Return how right an answer is, 0 to 1, or None where the truth is not known."""
        raise NotImplementedError

    def parses(self, question: Question, answer: Any) -> bool:
        """Return whether the answer has a form that could be right."""
        return bool(answer)

    def score(self, answered: Sequence[Answered]) -> dict[str, Any]:
        """Return accuracy (percent, None without a truth), its interval, the counts, and the accuracy of each type."""
        rights = [(self.about(pair.question)["type"], self.correctness(*pair)) for pair in answered]
        known = [right for _, right in rights if right is not None]
        by_type = percent_by((kind, right) for kind, right in rights if right is not None and kind is not None)
        return {
            "accuracy": percent(known),
            "interval": self.interval(known),
            "num_questions": len(answered),
            "num_unanswered": sum(answer == "" for _, answer in answered),
            "num_unparsed": sum(not self.parses(*pair) for pair in answered),
            **({"accuracy_by_type": by_type} if by_type else {}),
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

    def rows(self, *keys: str) -> list[dict[str, Any]]:
        """Return the rows of `eval_file_path`, each with these keys. Raises: ValueError that names what is missing."""
        if not self.eval_file.is_file():
            raise ValueError(self.missing(self.eval_file))
        rows = read_json(self.eval_file)
        if not isinstance(rows, list):
            raise ValueError(f"{self.name}: {self.eval_file} holds no list of rows")
        for number, row in enumerate(rows):
            lacking = [key for key in keys if not isinstance(row, dict) or key not in row]
            if lacking:
                raise ValueError(f"{self.name}[{number}]: {self.eval_file} has no {', '.join(lacking)} in this row")
        return rows

    def missing(self, path: Path, key: str = "eval_file_path") -> str:
        """Return the message about a path that is not there."""
        return f"{self.name}: {path} does not exist (evaluation_datasets.{self.entry}.{key}); {self.source}"

    def check_images(self, questions: Iterable[Question]) -> None:
        """Raise ValueError that counts and shows the images that are not there."""
        lacking = [q for q in questions if not isinstance(q.image, str) and not any(p.is_file() for p in q.image)]
        if lacking:
            shown = [f"{q.id}: {' or '.join(map(str, q.image))}" for q in lacking[:NUM_SHOWN]]
            shown += [f"and {len(lacking) - NUM_SHOWN} more"] * (len(lacking) > NUM_SHOWN)
            where = f"evaluation_datasets.{self.entry}.img_path"
            raise ValueError(
                f"{self.name}: {len(lacking)} questions have no image ({where}); {self.source}\n  " + "\n  ".join(shown)
            )

    def open_image(self, question: Question) -> Image.Image:
        """Return the picture in RGB. Raises: ValueError that names benchmark, question and file."""
        place: Any = "base64 text"
        try:
            if isinstance(question.image, str):
                file: Any = io.BytesIO(base64.b64decode(question.image))
            else:
                file = place = next((path for path in question.image if path.is_file()), question.image[0])
            return decode_image(file, self.cfg.get("pictures") or AS_STORED)
        except ValueError as error:
            raise ValueError(f"{self.name}[{question.id}]: cannot read its image from {place}: {error}") from error


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, or the rows of a .jsonl one. Raises: ValueError that names file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if path.suffix != ".jsonl":
        return _parse(text, str(path))
    lines = enumerate(text.split("\n"), start=1)
    return [_parse(line, f"{path}:{number}") for number, line in lines if line.strip()]


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
