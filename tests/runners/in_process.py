"""A training run in this process: what a run of train.py builds, for tests that ask the runner itself."""

import torch

from minigpt4.common.config import Config
from minigpt4.common.seeds import seed_torch
from minigpt4.runners.resuming import refuse_changes
from minigpt4.runners.runner_base import RunnerBase
from minigpt4.tasks import setup_task
from tests.runners.tiny import write_config


def runner_of(tmp_path, config, *options, job_id="job", task=None):
    """Return the runner of a config whose output lies below tmp_path; the caller works where the data lie."""
    cfg = Config.load(write_config(tmp_path, config), [f"run.output_dir={tmp_path / 'out'}", *options])
    task = task or setup_task(cfg)
    datasets = task.build_datasets(cfg)
    refuse_changes(cfg, datasets, job_id)
    seed_torch("init", cfg.run_cfg.seed)
    model = task.build_model(cfg, torch.device("cpu"))
    return RunnerBase(cfg=cfg, task=task, model=model, datasets=datasets, job_id=job_id)
