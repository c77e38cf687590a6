"""An evaluation: benchmarks are prepared, asked and scored, and the results are saved once."""

from __future__ import annotations

import copy
import hashlib
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
from minigpt4.common.registry import registry
from minigpt4.conversation.chat_format import chat_format_of
from minigpt4.evaluation.benchmark import Benchmark, Prediction
from minigpt4.evaluation.mistakes import Mistake, mistakes, write_mistakes
from minigpt4.evaluation.prepare import INFER, SCORE, Prepared, prepare
from minigpt4.evaluation.published import published_of
from minigpt4.evaluation.report import write_page
from minigpt4.evaluation.result_files import read_predictions
from minigpt4.evaluation.results import (
    image_options,
    provenance,
    read_results,
    settings_of,
    write_results,
)
from minigpt4.evaluation.shards import remove_shards, saved_predictions
from minigpt4.evaluation.worker import GenerativeModel, ImageProcessor, InferenceWorker


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
