"""What the evaluation scripts share: their options, preparing the benchmarks, asking and scoring them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from minigpt4.common import dist_utils
from minigpt4.common.config import Config
from minigpt4.common.liveness import pulse
from minigpt4.common.logger import setup_logger
from minigpt4.common.paths import wrong_output_folder
from minigpt4.common.registry import did_you_mean, registry
from minigpt4.common.seeds import seed_torch
from minigpt4.common.tables import as_interval
from minigpt4.conversation.chat_format import chat_format_of
from minigpt4.evaluation.asking import Answerer, ImageProcessor, infer
from minigpt4.evaluation.benchmark import Benchmark, Question
from minigpt4.evaluation.parts import remove_parts
from minigpt4.evaluation.published import published_of, results_table
from minigpt4.evaluation.report import write_report
from minigpt4.evaluation.results import (
    add_result,
    image_options,
    known_provenance,
    provenance,
    read_results,
    score_file,
    settings_of,
)

INFER, SCORE = "infer", "score"
ModelLoader = Callable[[Config, torch.device, torch.dtype], Answerer]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A benchmark whose files are all there."""

    benchmark: Benchmark
    questions: list[Question]


def choose(cfg: Config, dataset: str | None, script: str | None = None) -> list[Benchmark]:
    """Return the benchmarks of `--dataset`, or all of the YAML; with `script`, only those that it evaluates.

    Raises: ValueError when a name is not in the YAML, or another script evaluates it.
    """
    entries = cfg.evaluation_datasets_cfg
    classes = {str(name): registry.get_benchmark_class(str(name)) for name in entries}
    names = [name.strip() for name in dataset.split(",") if name.strip()] if dataset else []
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
        scripts = {kind: registry.get_benchmark_class(kind).script for kind in registry.list_benchmarks()}
        own = [kind for kind, its_script in scripts.items() if script in (None, its_script)]
        raise ValueError(f"evaluation_datasets lists none of {', '.join(own)}")
    return [part for name in names for part in classes[name].build(entries[name], name=name)]


def prepare(benchmarks: Sequence[Benchmark], *, save_path: Path, only: str | None = None) -> list[Prepared]:
    """Return the benchmarks with their questions.

    Raises: ValueError that lists for all of them the missing files and the rows that are bad: images where they are
    asked, else result files.
    """
    prepared, problems = [], []
    for benchmark in benchmarks:
        try:
            questions = benchmark.questions()
            benchmark.check_questions(questions)
            if only != SCORE:
                benchmark.check_images(questions)
                benchmark.check_pictures(questions)
            elif not (save_path / benchmark.result_file).is_file():
                raise ValueError(
                    f"{benchmark.name}: {save_path / benchmark.result_file} does not exist (run.save_path)"
                )
            prepared.append(Prepared(benchmark, questions))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n  ".join(["the evaluation cannot start", *problems]))
    return prepared


def image_processor(cfg: Config) -> ImageProcessor:
    """Return the image processor of the first dataset, or the model's for evaluation where no dataset is given."""
    options = image_options(cfg)
    return registry.get_processor_class(options.name).from_config(options)


def summary(name: str, score: dict[str, Any]) -> str:
    """Return the line that says how a benchmark went."""
    accuracy = "accuracy unknown"
    if score["accuracy"] is not None:
        accuracy = f"{score['accuracy']:.2f}% ({as_interval(score['interval'])})"
    odd = f"{score['num_unanswered']} unanswered, {score['num_unparsed']} do not parse"
    seconds = f", {score['seconds']:.1f} s" if "seconds" in score else ""
    partly = f", {score['num_with_truth']} of them with a known truth" if "num_with_truth" in score else ""
    return f"{name}: {accuracy} of {score['num_questions']} questions{partly} ({odd}){seconds}"


def evaluate(
    cfg: Config,
    dataset: str | None,
    load_model: ModelLoader,
    *,
    script: str | None = None,
    only: str | None = None,
    resample: int = 0,
) -> None:
    """Evaluate a config's benchmarks; rank 0 prints a line a benchmark and a table, and writes the files.

    `dataset` and `script` choose benchmarks, `only` is "infer" or "score"; `resample` is the number of further tries
    of an answer without a box. Raises: ValueError, before the model is loaded, that lists what is missing or misspelt.
    """
    dist_utils.init_distributed_mode(cfg.run_cfg)
    setup_logger()
    save_path = Path(cfg.run_cfg.save_path)
    if wrong := wrong_output_folder("run.save_path", str(save_path)):
        raise ValueError(wrong)
    prepared = prepare(choose(cfg, dataset, script), save_path=save_path, only=only)
    ask = None if only == SCORE else Asking(cfg, load_model, resample=resample)
    for item in prepared:
        if ask is not None:
            ask(item)
        if only != INFER and dist_utils.is_main_process():
            with pulse.during(f"scoring {item.benchmark.name}"):
                score = score_file(item.benchmark, item.questions, save_path)
            score |= published_of(item.benchmark.name)
            facts = {**score, **known_provenance(save_path, item.benchmark), **score}
            add_result(save_path, item.benchmark.name, facts)
            print(summary(item.benchmark.name, facts), flush=True)
    if dist_utils.is_main_process():
        for item in prepared if ask is not None else ():  # kept until here, so that a run that died has all of them
            remove_parts(save_path, item.benchmark.name)
        if only != INFER:
            measured = read_results(save_path)
            print(results_table({item.benchmark.name: measured[item.benchmark.name] for item in prepared}))
            print(f"more in {write_report(save_path)}", flush=True)
    dist_utils.leave_distributed_mode()


class Asking:
    """A model on its device, which answers one benchmark after another."""

    def __init__(self, cfg: Config, load_model: ModelLoader, *, resample: int) -> None:
        self.cfg, self.resample = cfg, resample
        self.device = dist_utils.pick_device(cfg.run_cfg)
        self.dtype = dist_utils.autocast_dtype(cfg.run_cfg, self.device)
        seed_torch(cfg.run_cfg.seed, "weights")  # random_weights: the same on every rank
        with pulse.during("loading the model"):
            self.model = load_model(cfg, self.device, self.dtype or torch.float32)
        self.settings = settings_of(cfg)

    def __call__(self, item: Prepared) -> None:
        """Write a benchmark's result file, and into results.json what it was made with."""
        tries_again = type(item.benchmark).try_again is not Benchmark.try_again
        item.benchmark.num_tries = self.resample if tries_again else 0
        save_path = Path(self.cfg.run_cfg.save_path)
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            seconds = infer(
                item.benchmark,
                self.model,
                image_processor(self.cfg),
                save_path=save_path,
                questions=item.questions,
                device=self.device,
                settings=self.settings,
                seed=self.cfg.run_cfg.seed,
                chat_format=chat_format_of(self.cfg.model_cfg),
            )
        if dist_utils.is_main_process():
            facts = provenance(self.cfg, item.benchmark, item.questions, dtype=self.dtype, seconds=seconds)
            facts["mismatches"] = list(getattr(self.model, "mismatches", ()))  # what model.allow_mismatch allowed
            add_result(save_path, item.benchmark.name, facts)
