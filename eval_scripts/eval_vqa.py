"""Evaluate a checkpoint on question benchmarks.

torchrun --nproc_per_node 1 eval_scripts/eval_vqa.py \
    --cfg-path eval_configs/minigptv2_benchmark_evaluation.yaml --dataset seed,mmbench
"""

from minigpt4.cli import run_script

if __name__ == "__main__":
    run_script("eval", "eval_vqa.py")
