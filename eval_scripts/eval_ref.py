"""Evaluate a checkpoint on RefCOCO, RefCOCO+ and RefCOCOg.

torchrun --nproc_per_node 1 eval_scripts/eval_ref.py \
    --cfg-path eval_configs/minigptv2_benchmark_evaluation.yaml --dataset refcoco,refcoco+,refcocog --resample
"""

from __future__ import annotations

from minigpt4.api import build_model
from minigpt4.common.liveness import told_end
from minigpt4.common.user_errors import plain_errors
from minigpt4.evaluation import command
from minigpt4.evaluation.benchmarks.refcoco import NUM_TRIES

if __name__ == "__main__":
    parser = command.make_parser("Evaluate a checkpoint on referring expressions")
    parser.add_argument("--resample", action="store_true", help="sample again where an answer holds no box")
    args = parser.parse_args()
    with told_end("eval_ref.py"), plain_errors("eval_ref.py"):
        command.evaluate(args, "eval_ref.py", build_model, resample=NUM_TRIES if args.resample else 0)
