"""Evaluate a checkpoint on RefCOCO, RefCOCO+ and RefCOCOg.

torchrun --nproc_per_node 1 eval_scripts/eval_ref.py \
    --cfg-path eval_configs/minigptv2_benchmark_evaluation.yaml --dataset refcoco,refcoco+,refcocog --resample
"""

from __future__ import annotations

import torch

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.evaluation import command
from minigpt4.evaluation.ref import NUM_TRIES


def load_model(cfg: Config, device: torch.device, dtype: torch.dtype) -> command.Answerer:
    """Return the configured model on its device, ready to point."""
    model = registry.get_model_class(cfg.model_cfg.arch).from_config(cfg.model_cfg, dtype=dtype)
    return model.to(device).eval()


if __name__ == "__main__":
    parser = command.make_parser("Evaluate a checkpoint on referring expressions")
    parser.add_argument("--resample", action="store_true", help="sample again where an answer holds no box")
    args = parser.parse_args()
    command.evaluate(args, "eval_ref.py", load_model, resample=NUM_TRIES if args.resample else 0)
