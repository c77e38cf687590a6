"""The choice of benchmarks and of their questions; everything that is missing or wrong is listed at once."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt4.common.config import Config
from minigpt4.common.registry import did_you_mean, registry
from minigpt4.common.row_checks import shown
from minigpt4.evaluation.benchmark import Benchmark, Question
from minigpt4.evaluation.rows import NUM_SHOWN, repeated

INFER, SCORE = "infer", "score"
SUFFIX = "_subset"
"""The end of a subset's name, result file and key in results.json."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A benchmark with its questions; `num_all` counts all of them where `only_ids` chose some."""

    benchmark: Benchmark
    questions: list[Question]
    num_all: int | None = None


def choose(
    cfg: Config, names: Sequence[str] = (), *, script: str | None = None, option: str = "benchmark"
) -> list[Benchmark]:
    """Return the benchmarks of these names, or all of the YAML; of a script alone, those that it evaluates.

    `option` is the word before a name in messages.
    Raises: ValueError when a name is not in the YAML, or another script evaluates it.
    """
    entries = cfg.evaluation_datasets_cfg
    classes = {str(name): registry.get_benchmark_class(str(name)) for name in entries}
    registered = registry.list_benchmarks()
    problems = []
    for name in names:
        if name not in classes:
            listed = f"evaluation_datasets has {', '.join(classes) or 'no benchmark'}"
            hint = "" if name in registered else did_you_mean(name, [*classes, *registered])
            problems.append(f"{option} {name}: {listed}{hint}")
        elif script not in (None, classes[name].script):
            problems.append(f"{option} {name}: eval_scripts/{classes[name].script} evaluates it")
    if any(name not in classes for name in names):
        problems.append(f"registered benchmarks: {', '.join(registered)}")
    if problems:
        raise ValueError("\n  ".join(problems))
    names = list(dict.fromkeys(names)) or [name for name, cls in classes.items() if script in (None, cls.script)]
    if not names:
        own = [kind for kind in registered if script in (None, registry.get_benchmark_class(kind).script)]
        raise ValueError(f"evaluation_datasets lists none of {', '.join(own)}")
    return [part for name in names for part in classes[name].build(entries[name], name=name)]


def prepare(benchmarks: Sequence[Benchmark], *, save_path: Path, only: str | None = None) -> list[Prepared]:
    """Return the benchmarks with their questions.

    Raises: ValueError that lists the missing files and bad rows of all; `only` says whether images or result files
    are needed.
    """
    prepared = []
    names = [benchmark.name for benchmark in benchmarks]
    problems = [f"{name}: two benchmarks have this name" for name in dict.fromkeys(names) if names.count(name) > 1]
    for benchmark in benchmarks:
        num_all = None
        try:
            questions = benchmark.questions()
            benchmark.check_questions(questions)
            if benchmark.cfg.get("only_ids") is not None:
                num_all = len(questions)
                benchmark, questions = take_subset(benchmark, questions)
            if only != SCORE:
                benchmark.check_images(questions)
                benchmark.check_pictures(questions)
            elif not (save_path / benchmark.result_file).is_file():
                raise ValueError(
                    f"{benchmark.name}: {save_path / benchmark.result_file} does not exist (run.save_path)"
                )
            prepared.append(Prepared(benchmark, questions, num_all))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n  ".join(["the evaluation cannot start", *problems]))
    return prepared


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
