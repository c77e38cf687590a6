"""`minigpt4 eval`."""

from __future__ import annotations

import argparse

from minigpt4.cli.options import EVAL_REF, EVAL_VQA
from minigpt4.common.config import Config
from minigpt4.common.dist_utils import use_expandable_segments
from minigpt4.common.liveness import told_end
from minigpt4.common.user_errors import plain_errors
from minigpt4.evaluation import command
from minigpt4.evaluation.ref import NUM_TRIES
from minigpt4.inference import build_model


def run(args: argparse.Namespace, prog: str) -> int:
    """Evaluate; return the exit code. Raises: SystemExit with a message where the user made a mistake."""
    with told_end(prog), plain_errors(prog):
        evaluate(args, prog)
    return 0


def evaluate(args: argparse.Namespace, prog: str, load_model: command.ModelLoader = build_model) -> None:
    """Evaluate what the command line asks for; a published script evaluates its own benchmarks alone.

    Raises: ValueError, before the model is loaded, that lists what is missing or misspelt.
    """
    use_expandable_segments()
    command.evaluate(
        load_config(args),
        args.dataset,
        load_model,
        script=prog if prog in (EVAL_VQA, EVAL_REF) else None,
        only=args.only,
        resample=NUM_TRIES if getattr(args, "resample", False) else 0,
    )


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
