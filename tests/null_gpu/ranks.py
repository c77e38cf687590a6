"""Driver: the training loop as one rank of several on the null GPU; python -m tests.null_gpu.ranks [CASE ...]"""

from __future__ import annotations

import os

import torch.distributed as dist

from minigpt4.runners.runner_base import RunnerBase
from tests.null_gpu import stand_ins
from tests.null_gpu.driver import Facts, run_cases
from tests.null_gpu.training import train


def fsdp() -> Facts:
    """Train as rank 0 of 8, the language model in shards; draws of four samples each, balanced over the ranks."""
    os.environ["LOCAL_WORLD_SIZE"] = "8"
    stand_ins.one_of_eight_ranks()
    try:
        return train("run.strategy=fsdp")
    finally:
        dist.destroy_process_group()


def ddp() -> Facts:
    """Train with a whole copy of the model, whose gradients DDP collects in buckets."""
    stand_ins.one_rank_of_gloo()
    try:
        return train("run.strategy=ddp", prepare=_keep_buckets)
    finally:
        dist.destroy_process_group()


def _keep_buckets(runner: RunnerBase) -> None:
    stand_ins.keep_buckets(runner.parallel.module)


def main() -> None:
    """Run the cases."""
    stand_ins.install()
    run_cases({"FSDP2": fsdp, "DDP": ddp})


if __name__ == "__main__":
    main()
