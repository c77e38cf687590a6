"""Evaluate a checkpoint on RefCOCO, RefCOCO+ and RefCOCOg.

torchrun --nproc_per_node 1 eval_scripts/eval_ref.py \
    --cfg-path eval_configs/minigptv2_benchmark_evaluation.yaml --dataset refcoco,refcoco+,refcocog --resample
"""

from minigpt4.cli import run_script

if __name__ == "__main__":
    run_script("eval", "eval_ref.py")
