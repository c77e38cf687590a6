"""An evaluation: benchmarks are prepared, asked and scored, and what came out is saved once."""

from __future__ import annotations

import copy
import logging
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
from minigpt4.conversation.chat_format import chat_format_of
from minigpt4.evaluation.benchmark import Benchmark, Prediction, Question
from minigpt4.evaluation.mistakes import Mistake, mistakes, write_mistakes
from minigpt4.evaluation.published import published_of
from minigpt4.evaluation.report import write_report
from minigpt4.evaluation.results import (
    image_options,
    known_provenance,
    provenance,
    read_predictions,
    read_results,
    settings_of,
    write_results,
)
from minigpt4.evaluation.shards import remove_shards
from minigpt4.evaluation.subset import take_subset
from minigpt4.evaluation.worker import GenerativeModel, ImageProcessor, infer

logger = logging.getLogger(__name__)

INFER, SCORE = "infer", "score"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A benchmark whose files are all there; `num_all` counts its questions where `only_ids` chose some of them."""

    benchmark: Benchmark
    questions: list[Question]
    num_all: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkResult:
    """What came out of one benchmark; `facts` is its entry of results.json, with the score and the provenance."""

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
    """One evaluation, by benchmark; it is empty on all ranks but the first."""

    save_path: Path
    benchmarks: dict[str, BenchmarkResult] = field(default_factory=dict)

    def __getitem__(self, name: str) -> BenchmarkResult:
        return self.benchmarks[name]


def choose(cfg: Config, names: Sequence[str] = (), *, script: str | None = None) -> list[Benchmark]:
    """Return the benchmarks of these names, or all of the YAML; of a script alone, those that it evaluates.

    Raises: ValueError when a name is not in the YAML, or another script evaluates it.
    """
    entries = cfg.evaluation_datasets_cfg
    classes = {str(name): registry.get_benchmark_class(str(name)) for name in entries}
    problems = []
    for name in names:
        if name not in classes:
            known = ", ".join(classes)
            problems.append(f"--dataset {name}: evaluation_datasets has {known}{did_you_mean(name, classes)}")
        elif script not in (None, classes[name].script):
            problems.append(f"--dataset {name}: eval_scripts/{classes[name].script} evaluates it")
    if problems:
        raise ValueError("\n  ".join(problems))
    names = list(dict.fromkeys(names)) or [name for name, cls in classes.items() if script in (None, cls.script)]
    if not names:
        kinds = registry.list_benchmarks()
        own = [kind for kind in kinds if script in (None, registry.get_benchmark_class(kind).script)]
        raise ValueError(f"evaluation_datasets lists none of {', '.join(own)}")
    return [part for name in names for part in classes[name].build(entries[name], name=name)]


def prepare(benchmarks: Sequence[Benchmark], *, save_path: Path, only: str | None = None) -> list[Prepared]:
    """Return the benchmarks with their questions.

    Raises: ValueError that lists for all of them the missing files and the rows that are bad: images where they are
    asked, else result files.
    """
    prepared, problems = [], []
    names = [benchmark.name for benchmark in benchmarks]
    problems += [f"{name}: two benchmarks have this name" for name in dict.fromkeys(names) if names.count(name) > 1]
    for given in benchmarks:
        benchmark, num_all = given, None
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


def image_processor(cfg: Config) -> ImageProcessor:
    """Return the image processor of the first dataset, or the model's for evaluation where no dataset is given."""
    options = image_options(cfg)
    processor: ImageProcessor = registry.get_processor_class(options.name).from_config(options)
    return processor


class Evaluator:
    """Asks a model one benchmark after another, scores the answers, and saves all results at the end."""

    def __init__(
        self, cfg: Config, load_model: Callable[[], GenerativeModel], *, only: str | None = None, num_tries: int = 0
    ) -> None:
        self.cfg, self.load_model, self.only, self.num_tries = cfg, load_model, only, num_tries
        self.save_path = Path(cfg.run_cfg.save_path)
        if wrong := wrong_output_folder("run.save_path", str(self.save_path)):
            raise ValueError(wrong)

    def run(
        self, benchmarks: Sequence[Benchmark], *, on_score: Callable[[BenchmarkResult], None] | None = None
    ) -> Results:
        """Return what came out; `on_score` gets each benchmark's result as soon as it is scored.

        Raises: ValueError, before the model is loaded, that lists what is missing.
        """
        prepared = prepare(benchmarks, save_path=self.save_path, only=self.only)
        model = None if self.only == SCORE else self.load_model()
        settings = settings_of(self.cfg) if model is not None else {}
        is_main = dist_utils.is_main_process()
        results, known = Results(self.save_path), read_results(self.save_path) if is_main else {}
        for item in prepared:
            if model is None:
                result = self._import(item, known) if is_main else None
            else:
                result = self._ask(item, model, settings)
            if not is_main or result is None:
                continue
            if self.only != INFER:
                result = self._score(item, result)
            results.benchmarks[result.name] = result
            if on_score is not None and self.only != INFER:
                on_score(result)
        if is_main:
            for name, one in results.benchmarks.items() if self.only != INFER else ():
                write_mistakes(self.save_path, name, [mistake.to_json() for mistake in one.mistakes])
            write_results(self.save_path, {**known, **{name: one.facts for name, one in results.benchmarks.items()}})
            for item in prepared if model is not None else ():  # kept until here, so that a run that died has them
                remove_shards(self.save_path, item.benchmark.name)
            if self.only != INFER:
                write_report(self.save_path)
        return results

    def _ask(self, item: Prepared, model: GenerativeModel, settings: dict[str, Any]) -> BenchmarkResult:
        cfg, benchmark = self.cfg, copy.copy(item.benchmark)
        tries_again = type(benchmark).needs_resample is not Benchmark.needs_resample
        benchmark.num_tries = self.num_tries if tries_again else 0
        device = dist_utils.pick_device(cfg.run_cfg)
        dtype = dist_utils.autocast_dtype(cfg.run_cfg, device)
        started = time.monotonic()
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            predictions = infer(
                benchmark,
                model,
                image_processor(cfg),
                save_path=self.save_path,
                questions=item.questions,
                device=device,
                settings=settings,
                seed=cfg.run_cfg.seed,
                chat_format=chat_format_of(cfg.model_cfg),
            )
        facts: dict[str, Any] = {}
        if dist_utils.is_main_process():
            seconds = time.monotonic() - started
            facts = provenance(cfg, benchmark, item.questions, dtype=dtype, seconds=seconds)
            facts["mismatches"] = list(getattr(model, "mismatches", ()))  # what model.allow_mismatch allowed
        return BenchmarkResult(name=benchmark.name, predictions=predictions, facts=facts)

    def _import(self, item: Prepared, known: dict[str, dict[str, Any]]) -> BenchmarkResult:
        path = self.save_path / item.benchmark.result_file
        predictions = read_predictions(item.benchmark, item.questions, path)
        facts = known_provenance(path, known.get(item.benchmark.name, {}))
        return BenchmarkResult(name=item.benchmark.name, predictions=predictions, facts=facts)

    def _score(self, item: Prepared, result: BenchmarkResult) -> BenchmarkResult:
        benchmark, predictions = item.benchmark, result.predictions
        with pulse.during(f"scoring {benchmark.name}"):
            score = benchmark.score(predictions) | published_of(benchmark.name)
            if item.num_all is not None:
                score["num_questions_in_all"] = item.num_all
            by_type = score.get("accuracy_by_type", {})
            wrong = mistakes(benchmark, predictions, by_type, save_path=self.save_path)
        # the score comes first in results.json, and replaces that of an earlier evaluation
        return replace(result, mistakes=wrong, facts={**score, **result.facts, **score})
