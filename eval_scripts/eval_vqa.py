"""Evaluate a checkpoint on question benchmarks.

torchrun --nproc_per_node 1 eval_scripts/eval_vqa.py \
    --cfg-path eval_configs/minigptv2_benchmark_evaluation.yaml --dataset seed,mmbench
"""

from __future__ import annotations

from minigpt4.api import build_model
from minigpt4.common.liveness import told_end
from minigpt4.common.user_errors import plain_errors
from minigpt4.evaluation import command

if __name__ == "__main__":
    parser = command.make_parser("Evaluate a checkpoint on question benchmarks")
    with told_end("eval_vqa.py"), plain_errors("eval_vqa.py"):
        command.evaluate(parser.parse_args(), "eval_vqa.py", build_model)
