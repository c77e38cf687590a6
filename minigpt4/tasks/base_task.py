"""The task: builds datasets and model of a config, and computes the losses of a training step."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from minigpt4.common.config import Config
from minigpt4.common.dist_utils import autocast_dtype
from minigpt4.common.registry import registry
from minigpt4.conversation.conversation import Batch, Losses
from minigpt4.models.base_model import BaseModel
from minigpt4.preflight.preflight import run_preflight

__all__ = ["BaseModel", "BaseTask", "Datasets"]

logger = logging.getLogger(__name__)
Datasets = dict[str, dict[str, Any]]


class BaseTask:
    """Builds datasets by their builders and the model by `arch`; a step computes the model's own losses."""

    @classmethod
    def setup_task(cls, cfg: Config) -> BaseTask:
        """Return the task for a config."""
        return cls()

    def build_datasets(self, cfg: Config) -> Datasets:
        """Return {name: {split: dataset}} for every entry of `datasets`, after a check of all files of the run.

        Raises: ValueError that lists everything that is missing or broken in all datasets and weight files.
        """
        report = run_preflight(cfg)
        logger.info("what this run reads:\n%s", report.table())
        if report.problems:
            raise ValueError(report.summary())
        return report.built()

    def build_model(self, cfg: Config, device: torch.device) -> BaseModel:
        """Return the model on the CPU: frozen weights in the run's 16-bit type for its device, trained ones float32."""
        dtype = autocast_dtype(cfg.run_cfg, device) or torch.float32
        # a checkpoint is compared with this option, where null means false
        cfg.model_cfg.chat_template = bool(cfg.model_cfg.chat_template)
        model: BaseModel = registry.get_model_class(cfg.model_cfg.arch).from_config(cfg.model_cfg, dtype=dtype)
        return model

    def train_step(self, model: nn.Module, batch: Batch) -> Losses:
        """Return the model's losses for one batch; the optimizer minimises `loss`."""
        losses: Losses = model(batch)
        return losses
