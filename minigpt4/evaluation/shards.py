"""Shards: each rank's answers so far. Ranks need not exchange them, and a run that died continues from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from minigpt4.common.files import append_text, write_text
from minigpt4.evaluation.benchmark import Question

FOLDER = "parts"


def fingerprint(questions: Sequence[Question], settings: Mapping[str, Any]) -> str:
    """Return a short name of what is asked and how; answers of another one are not taken over."""
    asked = [[q.id, q.prompt, list(q.choices)] for q in questions]
    text = json.dumps([asked, settings], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def shard_files(save_path: Path, name: str) -> list[Path]:
    """Return the part files of a benchmark, of whatever run."""
    return sorted((save_path / FOLDER).glob(f"{name}.rank*.jsonl"))


def read_shard(path: Path, run: str) -> dict[int, Any]:
    """Return row -> answer of a part file, nothing where it is of another run; a line cut short by a crash ends it."""
    answers: dict[int, Any] = {}
    with path.open(encoding="utf-8") as file:
        if next(file, "") != _header(run):
            return {}
        for line in file:
            if not line.endswith("\n"):
                break
            row, answer = json.loads(line)
            answers[row] = answer
    return answers


def read_shards(save_path: Path, name: str, run: str) -> dict[int, Any]:
    """Return row -> answer of all part files of this run."""
    answers: dict[int, Any] = {}
    for path in shard_files(save_path, name):
        answers.update(read_shard(path, run))
    return answers


def remove_shards(save_path: Path, name: str) -> None:
    """Remove the part files of a benchmark, once its result file is written."""
    for path in shard_files(save_path, name):
        path.unlink()
    folder = save_path / FOLDER
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


class ShardWriter:
    """The part file of one rank: what it held of this run is kept, each answer is on disk before the next is asked."""

    def __init__(self, save_path: Path, name: str, run: str, *, rank: int) -> None:
        self.path = save_path / FOLDER / f"{name}.rank{rank}.jsonl"
        kept = read_shard(self.path, run) if self.path.is_file() else {}
        write_text(self.path, _header(run) + "".join(_line(*item) for item in kept.items()))

    def __enter__(self) -> Self:
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def write(self, answers: Mapping[int, Any]) -> None:
        """Add the answers of a batch, by row."""
        append_text(self._file, self.path, "".join(_line(*item) for item in answers.items()))


def _header(run: str) -> str:
    return json.dumps({"run": run}) + "\n"


def _line(row: int, answer: Any) -> str:
    return json.dumps([row, answer]) + "\n"
