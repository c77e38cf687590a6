"""`minigpt4 eval`."""

from __future__ import annotations

import argparse
from typing import Any

from minigpt4 import api
from minigpt4.cli.options import EVAL_REF, EVAL_VQA
from minigpt4.common import dist_utils
from minigpt4.common.config import Config
from minigpt4.common.liveness import told_end
from minigpt4.common.logger import setup_logger
from minigpt4.common.tables import as_interval
from minigpt4.common.user_errors import plain_errors
from minigpt4.evaluation.benchmarks.refcoco import NUM_TRIES
from minigpt4.evaluation.evaluator import INFER, BenchmarkResult, choose
from minigpt4.evaluation.report import results_table


def run(args: argparse.Namespace, prog: str) -> int:
    """Evaluate; return the exit code. Raises: SystemExit with a message where the user made a mistake."""
    with told_end(prog), plain_errors(prog):
        evaluate(args, prog)
    return 0


def evaluate(args: argparse.Namespace, prog: str, load_model: api.ModelLoader = api.build_model) -> None:
    """Evaluate what the command line asks for; a published script evaluates its own benchmarks alone.

    Rank 0 prints a line a benchmark and a table. Raises: ValueError, before the model is loaded, that lists what is
    missing or misspelt.
    """
    dist_utils.use_expandable_segments()
    cfg = load_config(args)
    dist_utils.init_distributed_mode(cfg.run_cfg)
    setup_logger()

    def show(result: BenchmarkResult) -> None:
        print(summary(result.name, result.facts), flush=True)

    names = [name.strip() for name in (args.dataset or "").split(",") if name.strip()]
    script = prog if prog in (EVAL_VQA, EVAL_REF) else None
    benchmarks = choose(cfg, names, script=script, option="--dataset")
    num_tries = NUM_TRIES if getattr(args, "resample", False) else 0
    results = api.evaluate(cfg, load_model, benchmarks, only=args.only, num_tries=num_tries, on_score=show)
    if dist_utils.is_main_process() and args.only != INFER:
        print(results_table({name: one.facts for name, one in results.benchmarks.items()}))
        print(f"more in {results.save_path / 'report.html'}", flush=True)
    dist_utils.leave_distributed_mode()


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


def load_config(args: argparse.Namespace) -> Config:
    """Return the config with the options of the command line over it. Raises: ValueError that lists every mistake."""
    cfg = Config(args)
    for key in ("ckpt", "lora_r", "lora_alpha"):
        if getattr(args, key) is not None:
            setattr(cfg.model_cfg, key, getattr(args, key))
    for entry in cfg.evaluation_datasets_cfg.values():
        for key in ("batch_size", "max_new_tokens"):
            if getattr(args, key) is not None:
                entry[key] = getattr(args, key)
    cfg.check_values()
    return cfg
