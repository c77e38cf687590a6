"""What the evaluation scripts share: their options, preparing the benchmarks, asking and scoring them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

from minigpt4.common import dist_utils
from minigpt4.common.config import Config
from minigpt4.common.liveness import pulse
from minigpt4.common.logger import setup_logger
from minigpt4.common.seeds import seed_torch
from minigpt4.evaluation.evaluator import INFER, SCORE, BenchmarkResult, Evaluator, choose
from minigpt4.evaluation.published import as_interval, results_table
from minigpt4.evaluation.worker import GenerativeModel

ModelLoader = Callable[[Config, torch.device, torch.dtype], GenerativeModel]


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


def summary(name: str, score: dict[str, Any]) -> str:
    """Return the line that says how a benchmark went."""
    accuracy = "accuracy unknown"
    if score["accuracy"] is not None:
        accuracy = f"{score['accuracy']:.2f}% ({as_interval(score['interval'])})"
    odd = f"{score['num_unanswered']} unanswered, {score['num_unparsed']} do not parse"
    seconds = f", {score['seconds']:.1f} s" if "seconds" in score else ""
    partly = f", {score['num_with_truth']} of them with a known truth" if "num_with_truth" in score else ""
    whole = f" of {score['num_questions_in_all']}" if "num_questions_in_all" in score else ""
    return f"{name}: {accuracy} of {score['num_questions']}{whole} questions{partly} ({odd}){seconds}"


def evaluate(args: argparse.Namespace, script: str, load_model: ModelLoader, *, resample: int = 0) -> None:
    """Evaluate what the command line asks for; rank 0 prints a line a benchmark and a table, and writes the files.

    Raises: ValueError, before the model is loaded, that lists what is missing or misspelt.
    """
    dist_utils.use_expandable_segments()
    cfg = load_config(args)
    dist_utils.init_distributed_mode(cfg.run_cfg)
    setup_logger()

    def load() -> GenerativeModel:
        device = dist_utils.pick_device(cfg.run_cfg)
        seed_torch(cfg.run_cfg.seed, "weights")  # random_weights: the same on every rank
        with pulse.during("loading the model"):
            return load_model(cfg, device, dist_utils.autocast_dtype(cfg.run_cfg, device) or torch.float32)

    def show(result: BenchmarkResult) -> None:
        print(summary(result.name, result.facts), flush=True)

    names = [name.strip() for name in (args.dataset or "").split(",") if name.strip()]
    evaluator = Evaluator(cfg, load, only=args.only, num_tries=resample)
    results = evaluator.run(choose(cfg, names, script=script), on_score=show)
    if dist_utils.is_main_process() and args.only != INFER:
        print(results_table({name: one.facts for name, one in results.benchmarks.items()}))
        print(f"more in {results.save_path / 'report.html'}", flush=True)
    dist_utils.leave_distributed_mode()
