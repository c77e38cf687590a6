"""An evaluation: benchmarks are prepared, asked and scored, and the results are saved once."""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from minigpt4.common import dist_utils
from minigpt4.common.config import Config
from minigpt4.common.liveness import pulse
from minigpt4.common.paths import wrong_output_folder
from minigpt4.common.registry import did_you_mean, registry
from minigpt4.common.row_checks import shown
from minigpt4.conversation.chat_format import chat_format_of
from minigpt4.evaluation.benchmark import Benchmark, Prediction, Question
from minigpt4.evaluation.mistakes import Mistake, mistakes, write_mistakes
from minigpt4.evaluation.report import published_of, write_page
from minigpt4.evaluation.results import (
    image_options,
    provenance,
    read_results,
    settings_of,
    write_results,
)
from minigpt4.evaluation.rows import NUM_SHOWN, repeated
from minigpt4.evaluation.shards import remove_shards, saved_predictions
from minigpt4.evaluation.submissions import read_predictions
from minigpt4.evaluation.worker import GenerativeModel, ImageProcessor, InferenceWorker

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


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """The result of one benchmark; `facts` is its entry of results.json, with the score and the provenance."""

    name: str
    predictions: list[Prediction] = field(repr=False)
    mistakes: list[Mistake] = field(default_factory=list, repr=False)
    facts: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def accuracy(self) -> float | None:
        """Return the accuracy in percent, None where it was not scored or no truth is known."""
        return self.facts.get("accuracy")

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the accuracy, in percent."""
        ends = self.facts.get("interval")
        return None if ends is None else (ends[0], ends[1])

    @property
    def counts_by_type(self) -> dict[str, dict[str, int]]:
        """Return `num_questions` and `num_right` of each question type."""
        return dict(self.facts.get("counts_by_type", {}))


@dataclass(frozen=True, slots=True)
class Results:
    """The results of one evaluation, by benchmark; empty on all ranks but the first."""

    save_path: Path
    benchmarks: dict[str, BenchmarkResult] = field(default_factory=dict)

    def __getitem__(self, name: str) -> BenchmarkResult:
        return self.benchmarks[name]


def image_processor(cfg: Config) -> ImageProcessor:
    """Return the image processor of the first dataset, or the model's for evaluation where no dataset is given."""
    options = image_options(cfg)
    processor: ImageProcessor = registry.get_processor_class(options.name).from_config(options)
    return processor


@dataclass(kw_only=True)
class Evaluator:
    """Asks a model one benchmark after another, scores the answers, and saves all results at the end.

    `run_name` is for a model that the config does not describe.
    """

    cfg: Config
    load_model: Callable[[], GenerativeModel]
    only: str | None = None
    num_tries: int = 0
    run_name: str | None = None

    def __post_init__(self) -> None:
        self.save_path = Path(self.cfg.run_cfg.save_path)
        self.named = {} if self.run_name is None else {"run_name": self.run_name}
        if self.num_tries < 0:
            raise ValueError(f"num_tries: expected at least 0, got {self.num_tries}")
        if wrong := wrong_output_folder("run.save_path", str(self.save_path)):
            raise ValueError(wrong)

    def run(
        self, benchmarks: Sequence[Benchmark], *, on_score: Callable[[BenchmarkResult], None] | None = None
    ) -> Results:
        """Return the results; `on_score` gets each benchmark's result as soon as it is scored.

        Raises: ValueError, before the model is loaded, that lists what is missing.
        """
        prepared = prepare(benchmarks, save_path=self.save_path, only=self.only)
        model = None if self.only == SCORE else self.load_model()
        settings = {**settings_of(self.cfg), **self.named} if model is not None else {}
        is_main = dist_utils.is_main_process()
        results, known = Results(self.save_path), read_results(self.save_path) if is_main else {}
        for item in prepared:
            if model is not None:
                result = self._ask(item, model, settings)
            elif is_main:
                result = self._read(item, known.get(item.benchmark.name, {}))
            if is_main:
                if self.only != INFER:
                    result = self._score(item, result)
                    if on_score is not None:
                        on_score(result)
                results.benchmarks[result.name] = result
        if is_main:
            self._save(results, known)
            for item in prepared if model is not None else ():  # a run that died before this keeps them
                remove_shards(self.save_path, item.benchmark.name)
        return results

    def _ask(self, item: Prepared, model: GenerativeModel, settings: dict[str, Any]) -> BenchmarkResult:
        cfg, benchmark = self.cfg, copy.copy(item.benchmark)
        tries_again = type(benchmark).needs_resample is not Benchmark.needs_resample
        benchmark.num_tries = self.num_tries if tries_again else 0
        device = dist_utils.pick_device(cfg.run_cfg)
        dtype = dist_utils.autocast_dtype(cfg.run_cfg, device)
        worker = InferenceWorker(
            benchmark=benchmark,
            model=model,
            image_processor=image_processor(cfg),
            device=device,
            seed=cfg.run_cfg.seed,
            chat_format=chat_format_of(cfg.model_cfg),
        )
        started = time.monotonic()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            predictions = worker.infer(item.questions, self.save_path, settings)
        facts: dict[str, Any] = {}
        if dist_utils.is_main_process():
            seconds = time.monotonic() - started
            facts = provenance(cfg, benchmark, item.questions, dtype=dtype, seconds=seconds) | self.named
            facts["mismatches"] = list(getattr(model, "mismatches", ()))  # those that model.allow_mismatch allowed
        return BenchmarkResult(name=benchmark.name, predictions=predictions, facts=facts)

    def _read(self, item: Prepared, known: dict[str, Any]) -> BenchmarkResult:
        """Return the predictions that an evaluation saved here, or those of a published file from elsewhere."""
        benchmark, path = item.benchmark, self.save_path / item.benchmark.result_file
        saved = saved_predictions(self.save_path, benchmark, item.questions)
        predictions = saved or read_predictions(benchmark, item.questions, path)
        is_known = known.get("result_sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
        return BenchmarkResult(name=benchmark.name, predictions=predictions, facts=known if is_known else {})

    def _score(self, item: Prepared, result: BenchmarkResult) -> BenchmarkResult:
        benchmark, predictions = item.benchmark, result.predictions
        with pulse.during(f"scoring {benchmark.name}"):
            score = benchmark.score(predictions) | published_of(benchmark.name)
            if item.num_all is not None:
                score["num_questions_in_all"] = item.num_all
            by_type = score.get("accuracy_by_type", {})
            wrong = mistakes(benchmark, predictions, by_type, save_path=self.save_path)
        others = {key: value for key, value in result.facts.items() if key not in score}
        return replace(result, mistakes=wrong, facts={**score, **others})

    def _save(self, results: Results, known: dict[str, dict[str, Any]]) -> None:
        """Write results.json, in which earlier results of other benchmarks stay, and wrong.jsonl and report.html."""
        saved = {**known, **{name: one.facts for name, one in results.benchmarks.items()}}
        if self.only == INFER:
            write_results(self.save_path, saved)
            return
        wrong = write_mistakes(self.save_path, {name: one.mistakes for name, one in results.benchmarks.items()})
        write_results(self.save_path, saved)
        write_page(self.save_path, saved, wrong)
