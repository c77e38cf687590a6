"""Evaluate a checkpoint on question benchmarks.

torchrun --nproc_per_node 1 eval_scripts/eval_vqa.py \
    --cfg-path eval_configs/minigptv2_benchmark_evaluation.yaml --dataset seed,mmbench
"""

from __future__ import annotations

import torch

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.evaluation import command


def load_model(cfg: Config, device: torch.device, dtype: torch.dtype) -> command.Answerer:
    """Return the configured model on its device, ready to answer."""
    model = registry.get_model_class(cfg.model_cfg.arch).from_config(cfg.model_cfg, dtype=dtype)
    return model.to(device).eval()


if __name__ == "__main__":
    parser = command.make_parser("Evaluate a checkpoint on question benchmarks")
    command.evaluate(parser.parse_args(), "eval_vqa.py", load_model)
