"""Driver: the training loop at real widths on the null GPU; python -m tests.null_gpu.training [CASE ...]"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from minigpt4.common.config import Config
from minigpt4.common.dist_utils import autocast_dtype
from minigpt4.common.registry import registry
from minigpt4.conversation.conversation import IMAGE_SPAN, Example, Turn
from minigpt4.runners.runner_base import RunnerBase
from minigpt4.tasks import setup_task
from tests.null_gpu import counters, stand_ins
from tests.null_gpu.driver import Facts, counted, run_cases
from tests.null_gpu.watch import Watch

CONFIG = Path(__file__).parents[2] / "train_configs/minigptv2_finetune_dataengine.yaml"
NUM_UPDATES = 4


class Rows:
    """A dataset of equal rows: four of them are a mean draw of the mixture, of 1,480 tokens and 128 targets."""

    is_stream = False

    def __init__(self) -> None:
        turn = Turn(f"{IMAGE_SPAN} {'q' * 54}", "a" * 31)
        self.example = Example(turns=(turn,), images=(torch.zeros(3, 448, 448),), id="row")

    def __len__(self) -> int:
        return 1000

    def row_lengths(self, costs: Any) -> None:
        return None

    def get(self, index: int, rng: random.Random) -> Example:
        return self.example


def train(*options: str, layers: int = 2, blocks: int = 2, prepare: Callable[[RunnerBase], Any] = id) -> Facts:
    """Train NUM_UPDATES updates; return what the last one launched, what waited in steps and over the whole run.

    The language model has `layers`, the vision encoder `blocks`; all else is of real size.
    """
    accum = next((int(o.split("=")[1]) for o in options if o.startswith("run.accum_grad_iters=")), 1)
    num_steps = NUM_UPDATES * accum
    sizes = [f"model.llama_config.num_hidden_layers={layers}", f"model.vit.depth={blocks}"]
    model_options = ["model.random_weights=True", "model.vit_ckpt=null", "model.ckpt=null", *sizes]
    run_options = ["run.max_epoch=1", "run.num_workers=0", "run.wandb_log=False", "run.cuda_graphs=False"]
    run_options += [f"run.iters_per_epoch={num_steps}", f"run.log_freq={num_steps}"]
    stand_ins.forget_the_probe()
    with tempfile.TemporaryDirectory() as folder:
        where = [f"run.output_dir={folder}", "datasets.gqa.batch_size=4"]
        cfg = Config.load(CONFIG, [*model_options, *run_options, *where, *options])
        dtype = autocast_dtype(cfg.run_cfg, torch.device("cuda")) or torch.float32
        with torch.device("meta"):
            model = registry.get_model_class(cfg.model_cfg.arch).from_config(cfg.model_cfg, dtype=dtype)
        datasets = {"gqa": {"train": Rows()}}
        runner = RunnerBase(cfg=cfg, task=setup_task(cfg), model=model, datasets=datasets, job_id="job")
        prepare(runner)
        runner.checkpoints.save = lambda state: None  # hundreds of megabytes of zeros; the case of train.py saves
        return _trained(runner)


def _trained(runner: RunnerBase) -> Facts:
    watch, marks = Watch(), []
    loader = runner.loader

    def marked(batches: Iterable[Any]) -> Iterator[Any]:
        """Note the counters each time a batch was fetched: from one fetch to the next it is one update's work."""
        for batch in batches:
            marks.append((counters.launches(), counters.waits(), watch.by_operator.copy()))
            yield batch

    runner.loader = lambda *args: marked(loader(*args))
    before = counters.waits()
    with watch:
        assert not runner.train().stopped
    after = counters.waits()
    assert len(marks) == NUM_UPDATES
    by_operator = marks[-1][2] - marks[-2][2]
    return {
        "launches": marks[-1][0] - marks[-2][0],
        "by_operator": dict(by_operator.most_common(12)),
        "waits_in_steps": dict(marks[-1][1] - marks[1][1]),
        "waits": dict(after - before),
        "on_cpu": dict(watch.on_cpu),
        "wide": dict(watch.wide),
        "num_products": watch.num_products,
    }


def deterministic() -> Facts:
    """Train in the mode that PyTorch holds for the whole process, and leave it."""
    try:
        return train("run.deterministic=True")
    finally:
        torch.use_deterministic_algorithms(False)


def self_check() -> Facts:
    """Do on purpose what no case may do, so that it is known to be seen."""
    on_device, on_host = torch.zeros(4, 4, device="cuda"), torch.tensor([0, 1])
    watch, facts = Watch(), Facts()
    with watch, counted(facts):
        float((on_device @ on_device)[on_host].sum())
    return {**facts, "on_cpu": dict(watch.on_cpu), "wide": dict(watch.wide)}


CASES: dict[str, Callable[[], Facts]] = {
    "self check": self_check,
    "plain": train,
    "one layer more": lambda: train(layers=3),
    "one block more": lambda: train(blocks=3),
    "float16": lambda: train("run.amp_dtype=float16"),
    "look ahead": lambda: train("run.look_ahead=True"),
    "deterministic": deterministic,
    "together": lambda: train("run.accum_grad_iters=4", "run.max_tokens_per_forward=4096"),
    "graphs": lambda: train("run.cuda_graphs=True"),
    "skipping": lambda: train("run.max_skipped_steps=2"),
    "trained ViT": lambda: train("model.freeze_vit=False"),
    "recomputing": lambda: train("model.use_grad_checkpoint_llm=True"),
    "real size": lambda: train(layers=32, blocks=39),
}


def main() -> None:
    """Run the cases."""
    stand_ins.install()
    run_cases(CASES)


if __name__ == "__main__":
    main()
