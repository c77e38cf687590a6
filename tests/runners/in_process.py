"""A training run in this process: what a run of train.py builds, for tests that ask the runner or its parts."""

import contextlib
import math
from pathlib import Path

import torch
from omegaconf import OmegaConf

import minigpt4
from minigpt4.common.config import Config
from minigpt4.common.schema import RunConfig
from minigpt4.common.seeds import seed_torch
from minigpt4.runners.resuming import refuse_changes
from minigpt4.runners.runner_base import RunnerBase
from minigpt4.runners.strategy import Parallel
from minigpt4.runners.train_step import LossGuard, TrainStep
from minigpt4.runners.update import AccumulationWindow, DevicePrefetcher, Update
from minigpt4.tasks import setup_task
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask
from tests.runners.tiny import DATA, write_config


def runner_of(tmp_path, config, *options, job_id="job", task=None):
    """Return the runner of a config whose output lies below tmp_path; the caller works where the data lie."""
    cfg = Config.load(write_config(tmp_path, config), [f"run.output_dir={tmp_path / 'out'}", *options])
    task = task or setup_task(cfg)
    datasets = task.build_datasets(cfg)
    refuse_changes(cfg, datasets, job_id)
    seed_torch("init", cfg.run_cfg.seed)
    model = task.build_model(cfg, torch.device("cpu"))
    return RunnerBase(cfg=cfg, task=task, model=model, datasets=datasets, job_id=job_id)


def train_here(tmp_path, config, *options):
    """Train in this process, where the data lie and on one thread, with the output below tmp_path; return the result.

    The run is that of `train` of tiny.py, to the last bit.
    """
    cfg = Config.load(write_config(tmp_path, config), [f"run.output_dir={tmp_path / 'out'}", *options])
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with contextlib.chdir(DATA):
            return minigpt4.train(cfg)
    finally:
        torch.set_num_threads(num_threads)


def train_step_of(model, *, parallel=None, folder="unused", task=None, **run):
    """Return the step of a model on the CPU, without a runner."""
    cfg = OmegaConf.merge(OmegaConf.structured(RunConfig), run)
    return TrainStep(
        cfg,
        task=task or ImageTextPretrainTask(),
        model=model,
        parallel=parallel or Parallel(model),
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        guard=LossGuard(Path(folder), max_skipped_steps=cfg.max_skipped_steps),
        device=torch.device("cpu"),
        amp_dtype=None,
    )


def update_of(*items, num_steps=None, num_accumulated=1, first=0, **options):
    """Return the update of lists of packed batches: one for each step, or with `num_steps` one for all of them."""
    window = AccumulationWindow(
        first=first,
        last=first + (num_steps or len(items)) - 1,
        num_accumulated=num_accumulated,
        is_packed=num_steps is not None,
    )
    return Update(window, DevicePrefetcher(iter(items), torch.device("cpu"), **options))


class NotFiniteOnce(ImageTextPretrainTask):
    """Its second loss is infinite."""

    def __init__(self):
        self.num_steps = 0

    def train_step(self, model, batch):
        losses = super().train_step(model, batch)
        self.num_steps += 1
        return losses._replace(loss=losses.loss * (math.inf if self.num_steps == 2 else 1))
