"""Answers on disk: the shards from which a stopped run continues, and the predictions of a whole run."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from minigpt4.common.files import append_text, write_text
from minigpt4.evaluation.benchmark import Benchmark, Prediction, Question

FOLDER = "parts"
PREDICTIONS = "predictions"


def fingerprint(questions: Sequence[Question], settings: Mapping[str, Any]) -> str:
    """Return a short name of questions and settings."""
    asked = [[q.id, q.prompt, list(q.choices)] for q in questions]
    text = json.dumps([asked, settings], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def shard_files(save_path: Path, name: str) -> list[Path]:
    """Return the shards of a benchmark, of any run."""
    return sorted((save_path / FOLDER).glob(f"{name}.rank*.jsonl"))


def read_shard(path: Path, run: str) -> dict[int, Any]:
    """Return row -> answer of a shard, nothing of another run; it ends before a line that a crash cut or damaged."""
    answers: dict[int, Any] = {}
    with path.open("rb") as file:
        if next(file, b"") != _header(run).encode():
            return {}
        for line in file:
            try:
                row, answer = json.loads(line if line.endswith(b"\n") else b"")
            except (ValueError, TypeError):
                break
            answers[row] = answer
    return answers


def read_shards(save_path: Path, name: str, run: str) -> dict[int, Any]:
    """Return row -> answer of all shards of this run."""
    answers: dict[int, Any] = {}
    for path in shard_files(save_path, name):
        answers.update(read_shard(path, run))
    return answers


def remove_shards(save_path: Path, name: str) -> None:
    """Remove the shards of a benchmark, once its predictions are saved."""
    for path in shard_files(save_path, name):
        path.unlink()
    folder = save_path / FOLDER
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def save_predictions(save_path: Path, benchmark: Benchmark, predictions: Sequence[Prediction]) -> None:
    """Write the predictions of a whole benchmark, and the published file, which is made of them."""
    rows = [benchmark.export(*one) for one in predictions]
    if benchmark.result_file.endswith(".jsonl"):
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = json.dumps(rows)
    write_text(save_path / benchmark.result_file, text)
    path, run = _saved_as(save_path, benchmark, [question for question, _ in predictions])
    lines = [_line(row, answer) for row, (_, answer) in enumerate(predictions)]
    write_text(path, _header(f"{run} {_digest(lines)}") + "".join(lines))


def saved_predictions(save_path: Path, benchmark: Benchmark, questions: Sequence[Question]) -> list[Prediction]:
    """Return the saved predictions, none where the questions or the published file have changed.

    Raises: ValueError that names their file where it was changed itself.
    """
    path, run = _saved_as(save_path, benchmark, questions)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.is_file() else [""]
    if not lines[:1] or f'"{run} ' not in lines[0]:
        return []
    if lines[0] != _header(f"{run} {_digest(lines[1:])}"):
        instead = f"remove it, and change {save_path / benchmark.result_file} instead"
        raise ValueError(f"{benchmark.name}: {path} was changed after the evaluation; {instead}")
    return [Prediction(question, json.loads(line)[1]) for question, line in zip(questions, lines[1:], strict=True)]


def _saved_as(save_path: Path, benchmark: Benchmark, questions: Sequence[Question]) -> tuple[Path, str]:
    """Return the file of saved predictions, and their run: these questions with the published file as it is."""
    published = hashlib.sha256((save_path / benchmark.result_file).read_bytes()).hexdigest()
    path = save_path / PREDICTIONS / f"{benchmark.name}.jsonl"
    return path, fingerprint(questions, {"result_sha256": published})


@contextlib.contextmanager
def shard_writer(save_path: Path, name: str, run: str, *, rank: int) -> Iterator[Callable[[Mapping[int, Any]], None]]:
    """Hold the shard of one rank open; the function writes the answers of a batch by row to disk.

    Answers of this run that the shard had are kept.
    """
    path = save_path / FOLDER / f"{name}.rank{rank}.jsonl"
    kept = read_shard(path, run) if path.is_file() else {}
    write_text(path, _header(run) + "".join(_line(*item) for item in kept.items()))
    with path.open("a", encoding="utf-8") as file:
        yield lambda answers: append_text(file, path, "".join(_line(*item) for item in answers.items()))


def _digest(lines: Sequence[str]) -> str:
    return hashlib.blake2b("".join(lines).encode(), digest_size=12).hexdigest()


def _header(run: str) -> str:
    return json.dumps({"run": run}) + "\n"


def _line(row: int, answer: Any) -> str:
    return json.dumps([row, answer]) + "\n"
