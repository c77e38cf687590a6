"""`only_ids`: a file with the ids of the questions to ask."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path

from minigpt4.common.row_checks import shown
from minigpt4.evaluation.benchmark import Benchmark, Question
from minigpt4.evaluation.rows import NUM_SHOWN, repeated

SUFFIX = "_subset"
"""The name of a benchmark's subset ends so, and so do its result file and its key in results.json."""


def read_ids(path: Path) -> list[str]:
    """Return the ids of a file, one a line or a JSON list.

    Raises: ValueError that names the file where it is missing, empty, no text, or names an id twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    ids = [line.strip() for line in text.splitlines() if line.strip()]
    if text.lstrip().startswith("["):
        try:
            listed = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}: broken JSON: {error}") from error
        if odd := [one for one in listed if type(one) not in (int, str)]:
            raise ValueError(f"{path}: an id should be a number or a text, not {shown(odd[0])}")
        ids = [str(one).strip() for one in listed]
    if not ids:
        raise ValueError(f"{path} holds no id")
    if twice := repeated(ids):
        raise ValueError(f"{path}: {len(twice)} ids come more than once: {', '.join(twice[:NUM_SHOWN])}")
    return ids


def take_subset(benchmark: Benchmark, questions: Sequence[Question]) -> tuple[Benchmark, list[Question]]:
    """Return the benchmark under the name of its subset, and the questions of `only_ids` in the file's order of rows.

    Raises: ValueError that names the file and the ids that no question has.
    """
    path = Path(benchmark.cfg.only_ids)
    where = f"{benchmark.name}: evaluation_datasets.{benchmark.entry}.only_ids"
    try:
        ids = read_ids(path)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    known = {str(question.id) for question in questions}
    if unknown := [name for name in ids if name not in known]:
        listed = ", ".join(unknown[:NUM_SHOWN])
        raise ValueError(f"{where}: {path}: {len(unknown)} ids belong to no question: {listed}")
    chosen, file = set(ids), Path(benchmark.result_file)
    subset = copy.copy(benchmark)
    subset.name, subset.result_file = benchmark.name + SUFFIX, f"{file.stem}{SUFFIX}{file.suffix}"
    return subset, [question for question in questions if str(question.id) in chosen]
