"""Tasks: the model, the datasets and the training step of a run."""

from __future__ import annotations

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.tasks.base_task import BaseTask
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask

__all__ = ["BaseTask", "ImageTextPretrainTask", "setup_task"]


def setup_task(cfg: Config) -> BaseTask:
    """Return the task that `run.task` names. Raises: ValueError with the nearest known name."""
    task: BaseTask = registry.get_task_class(cfg.run_cfg.task).setup_task(cfg)
    return task
