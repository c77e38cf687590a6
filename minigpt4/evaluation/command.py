"""What the evaluation scripts share: their options, preparing the benchmarks, asking and scoring them."""

from __future__ import annotations

import argparse
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
from minigpt4.evaluation.benchmark import Benchmark, Question
from minigpt4.evaluation.published import as_interval, published_of, results_table
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
from minigpt4.evaluation.shards import remove_shards
from minigpt4.evaluation.worker import GenerativeModel, ImageProcessor, infer

INFER, SCORE = "infer", "score"
ModelLoader = Callable[[Config, torch.device, torch.dtype], GenerativeModel]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A benchmark whose files are all there."""

    benchmark: Benchmark
    questions: list[Question]


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the options that all evaluation scripts have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--cfg-path", required=True, help="YAML with model, datasets, evaluation_datasets and run")
    parser.add_argument("--dataset", help="names from evaluation_datasets, with commas between; default: all of them")
    parser.add_argument(
        "--options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="laid over the YAML"
    )
    parser.add_argument(
        "--only",
        choices=(INFER, SCORE),
        help="infer: write the result files and stop; score: score result files that are there, without a model",
    )
    parser.add_argument("--ckpt", help="overrides model.ckpt")
    parser.add_argument("--lora_r", type=int, help="overrides model.lora_r")
    parser.add_argument("--lora_alpha", type=int, help="overrides model.lora_alpha")
    parser.add_argument("--batch_size", type=int, help="overrides that of every benchmark")
    parser.add_argument("--max_new_tokens", type=int, help="overrides that of every benchmark")
    return parser


def load_config(args: argparse.Namespace) -> Config:
    """Return the config with the options of the command line over it. Raises: ValueError that lists every mistake."""
    cfg = Config(args)
    for key in ("ckpt", "lora_r", "lora_alpha"):
        if getattr(args, key) is not None:
            cfg.model_cfg[key] = getattr(args, key)
    for entry in cfg.evaluation_datasets_cfg.values():
        for key in ("batch_size", "max_new_tokens"):
            if getattr(args, key) is not None:
                entry[key] = getattr(args, key)
    cfg.check_values()
    return cfg


def choose(cfg: Config, dataset: str | None, script: str) -> list[Benchmark]:
    """Return the benchmarks of `--dataset`, or all of the YAML that this script evaluates.

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
        elif classes[name].script != script:
            problems.append(f"--dataset {name}: eval_scripts/{classes[name].script} evaluates it")
    if problems:
        raise ValueError("\n  ".join(problems))
    names = list(dict.fromkeys(names)) or [name for name, cls in classes.items() if cls.script == script]
    if not names:
        own = [kind for kind in registry.list_benchmarks() if registry.get_benchmark_class(kind).script == script]
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


def evaluate(args: argparse.Namespace, script: str, load_model: ModelLoader, *, resample: int = 0) -> None:
    """Evaluate what the command line asks for; rank 0 prints a line a benchmark and a table, and writes the files.

    Raises: ValueError, before the model is loaded, that lists what is missing or misspelt.
    """
    dist_utils.use_expandable_segments()
    cfg = load_config(args)
    dist_utils.init_distributed_mode(cfg.run_cfg)
    setup_logger()
    save_path = Path(cfg.run_cfg.save_path)
    if wrong := wrong_output_folder("run.save_path", str(save_path)):
        raise ValueError(wrong)
    prepared = prepare(choose(cfg, args.dataset, script), save_path=save_path, only=args.only)
    ask = None if args.only == SCORE else Evaluator(cfg, load_model, resample=resample)
    for item in prepared:
        if ask is not None:
            ask(item)
        if args.only != INFER and dist_utils.is_main_process():
            with pulse.during(f"scoring {item.benchmark.name}"):
                score = score_file(item.benchmark, item.questions, save_path)
            score |= published_of(item.benchmark.name)
            facts = {**score, **known_provenance(save_path, item.benchmark), **score}
            add_result(save_path, item.benchmark.name, facts)
            print(summary(item.benchmark.name, facts), flush=True)
    if dist_utils.is_main_process():
        for item in prepared if ask is not None else ():  # kept until here, so that a run that died has all of them
            remove_shards(save_path, item.benchmark.name)
        if args.only != INFER:
            measured = read_results(save_path)
            print(results_table({item.benchmark.name: measured[item.benchmark.name] for item in prepared}))
            print(f"more in {write_report(save_path)}", flush=True)
    dist_utils.leave_distributed_mode()


class Evaluator:
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
        item.benchmark.num_tries = self.resample
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
                prompt_template=self.cfg.model_cfg.prompt_template,
            )
        if dist_utils.is_main_process():
            facts = provenance(self.cfg, item.benchmark, item.questions, dtype=self.dtype, seconds=seconds)
            facts["mismatches"] = list(getattr(self.model, "mismatches", ()))  # what model.allow_mismatch allowed
            add_result(save_path, item.benchmark.name, facts)
