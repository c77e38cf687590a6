"""The task: builds datasets and model of a config, and says what one training step computes."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from minigpt4.common.config import Config
from minigpt4.common.dist_utils import autocast_dtype
from minigpt4.common.registry import registry
from minigpt4.conversation.conversation import Batch
from minigpt4.models.base_model import BaseModel

logger = logging.getLogger(__name__)
Datasets = dict[str, dict[str, Any]]


class BaseTask:
    """What is common to tasks: a dataset by builder, a model by `arch`, a step by the model's own loss."""

    @classmethod
    def setup_task(cls, cfg: Config) -> BaseTask:
        """Return the task for a config."""
        return cls()

    def build_datasets(self, cfg: Config) -> Datasets:
        """Return {name: {split: dataset}} for every entry of `datasets`.

        Raises: ValueError that lists what is missing of all datasets at once.
        """
        if not cfg.datasets_cfg:
            raise ValueError("datasets: the YAML names none to train on")
        builders = {
            str(name): registry.get_builder_class(str(name))(body, name=name, seed=cfg.run_cfg.seed)
            for name, body in cfg.datasets_cfg.items()
        }
        problems = [line for builder in builders.values() for line in builder.problems()]
        problems += _image_sizes_that_differ(cfg)
        if problems:
            raise ValueError("\n  ".join(["these datasets cannot be built", *problems]))
        return {name: builder.build_datasets() for name, builder in builders.items()}

    def build_model(self, cfg: Config, device: torch.device) -> BaseModel:
        """Return the model on its device: frozen weights in the run's 16-bit type there, trainable ones in float32."""
        dtype = autocast_dtype(cfg.run_cfg, device) or torch.float32
        model: BaseModel = registry.get_model_class(cfg.model_cfg.arch).from_config(cfg.model_cfg, dtype=dtype)
        return model.to(device)

    def train_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the model's output for one batch; "loss" is what is minimised."""
        output: dict[str, Tensor] = model(batch)
        return output


def _image_sizes_that_differ(cfg: Config) -> list[str]:
    sizes = {
        f"datasets.{name!s}.vis_processor.train.image_size": body.vis_processor.train.image_size
        for name, body in cfg.datasets_cfg.items()
        if body.vis_processor.train is not None and body.vis_processor.train.image_size is not None
    }
    expected = cfg.model_cfg.image_size
    return [f"{key} is {size} but model.image_size is {expected}" for key, size in sizes.items() if size != expected]
