"""What the evaluation scripts share: their options, preparing the benchmarks, evaluating them, and results.json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from minigpt4.common import dist_utils
from minigpt4.common.config import Config
from minigpt4.common.logger import setup_logger
from minigpt4.common.registry import did_you_mean, registry
from minigpt4.common.seeds import seed_torch
from minigpt4.evaluation.asking import Answerer, ImageProcessor, run
from minigpt4.evaluation.benchmark import Benchmark, Question
from minigpt4.evaluation.parts import write_beside

RESULTS = "results.json"
ModelLoader = Callable[[Config, torch.device, torch.dtype], Answerer]


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
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="laid over the YAML")
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
    names = names or [name for name, cls in classes.items() if cls.script == script]
    return [part for name in names for part in classes[name].build(entries[name], name=name)]


def prepare(benchmarks: Sequence[Benchmark]) -> list[Prepared]:
    """Return the benchmarks with their questions. Raises: ValueError that lists every missing file of all of them."""
    prepared, problems = [], []
    for benchmark in benchmarks:
        try:
            questions = benchmark.questions()
            benchmark.check_images(questions)
            prepared.append(Prepared(benchmark, questions))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n  ".join(["files of the evaluation are missing", *problems]))
    return prepared


def image_processor(cfg: Config) -> ImageProcessor:
    """Return the image processor of the first dataset, or the model's for evaluation where no dataset is given."""
    first = next(iter(cfg.datasets_cfg.values()), None)
    options = (first and first.vis_processor.train) or cfg.preprocess_cfg.vis_processor.eval
    return registry.get_processor_class(options.name).from_config(options)


def settings_of(cfg: Config) -> dict[str, Any]:
    """Return what the answers depend on besides the questions: the model's options, and which checkpoint file it is."""
    settings = {"model": OmegaConf.to_container(cfg.model_cfg)}
    path = Path(cfg.model_cfg.ckpt or "")
    if path.is_file():
        settings["ckpt"] = [path.stat().st_size, path.stat().st_mtime_ns]
    return settings


def add_result(save_path: Path, name: str, score: dict[str, Any]) -> None:
    """Put a benchmark's score into results.json, beside those of the others."""
    path = save_path / RESULTS
    try:
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON, remove it: {error}") from error
    write_beside(path, json.dumps({**results, name: score}, indent=2) + "\n")


def summary(name: str, score: dict[str, Any]) -> str:
    """Return the line that says how a benchmark went."""
    accuracy = "accuracy unknown" if score["accuracy"] is None else f"{score['accuracy']:.2f}%"
    odd = f"{score['num_unanswered']} unanswered, {score['num_unparsed']} do not parse"
    return f"{name}: {accuracy} of {score['num_questions']} questions ({odd}), {score['seconds']:.0f} s"


def evaluate(args: argparse.Namespace, script: str, load_model: ModelLoader, *, resample: int = 0) -> None:
    """Evaluate what the command line asks for; rank 0 prints a line a benchmark and writes the files.

    Raises: ValueError, before the model is loaded, that lists what is missing or misspelt.
    """
    cfg = load_config(args)
    dist_utils.init_distributed_mode(cfg.run_cfg)
    setup_logger()
    prepared = prepare(choose(cfg, args.dataset, script))
    device = dist_utils.pick_device(cfg.run_cfg)
    dtype = dist_utils.autocast_dtype(cfg.run_cfg, device)
    seed_torch(cfg.run_cfg.seed, "weights")  # random_weights: the same on every rank
    model = load_model(cfg, device, dtype or torch.float32)
    save_path = Path(cfg.run_cfg.save_path)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
        for item in prepared:
            item.benchmark.num_tries = resample
            score = run(
                item.benchmark,
                model,
                image_processor(cfg),
                save_path=save_path,
                questions=item.questions,
                device=device,
                settings=settings_of(cfg),
                seed=cfg.run_cfg.seed,
            )
            if score is not None:
                add_result(save_path, item.benchmark.name, {**score, "ckpt": cfg.model_cfg.ckpt})
                print(summary(item.benchmark.name, score), flush=True)
    dist_utils.leave_distributed_mode()
