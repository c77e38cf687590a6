"""The training loop: batch, loss, gradient, update; every step a function of (config, step)."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from minigpt4.common.checkpoint import read_checkpoint, write_checkpoint
from minigpt4.common.config import Config
from minigpt4.common.dist_utils import autocast_dtype, get_rank, get_world_size, is_distributed, is_main_process
from minigpt4.common.logger import RunLog
from minigpt4.common.registry import registry
from minigpt4.common.seeds import seed_torch
from minigpt4.datasets.mixture import Ingredient, MixtureDataset, MixtureSampler
from minigpt4.runners.loader import build_loader
from minigpt4.runners.meter import Meter
from minigpt4.tasks.base_task import BaseTask, Datasets

logger = logging.getLogger(__name__)


@registry.register_runner("runner_base")
class RunnerBase:
    """Trains a model on the mixture of datasets for max_epoch * iters_per_epoch steps.

    A step is one micro-batch a rank; an update follows every `accum_grad_iters` steps and the last step of an epoch.
    """

    def __init__(self, *, cfg: Config, task: BaseTask, model: Any, datasets: Datasets, job_id: str) -> None:
        self.cfg, self.run, self.task, self.model, self.datasets = cfg, cfg.run_cfg, task, model, datasets
        self.folder = Path(self.run.output_dir) / job_id
        self.num_steps = self.run.max_epoch * self.run.iters_per_epoch
        self.device = next(model.parameters()).device
        self.amp_dtype = autocast_dtype(self.run, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype is torch.float16)
        self.optimizer = torch.optim.AdamW(
            model.optimizer_groups(self.run.weight_decay), lr=self.run.init_lr, betas=(0.9, self.run.beta2)
        )
        self.lr = registry.get_lr_scheduler_class(self.run.lr_sched)(
            init_lr=self.run.init_lr,
            min_lr=self.run.min_lr,
            max_epoch=self.run.max_epoch,
            iters_per_epoch=self.run.iters_per_epoch,
            warmup_lr=self.run.warmup_lr,
            warmup_steps=self.run.warmup_steps,
            decay_rate=self.run.lr_decay_rate,
        )
        self.start_step = self._resume() if self.run.resume_ckpt_path else 0
        self.wrapped = DistributedDataParallel(model, broadcast_buffers=False) if is_distributed() else model

    def train(self) -> None:
        """Train to the end, saving after every epoch; with `run.evaluate` only the other splits' losses are taken."""
        if self.run.evaluate:
            self.evaluate()
            return
        batches = iter(self._loader())
        meter = Meter(num_steps=self.num_steps, max_bad_samples=self.run.max_bad_samples)
        log = RunLog(self.folder, self.run, self.cfg.to_dict(), num_steps=self.num_steps, start=self.start_step)
        self.model.train()
        for step in range(self.start_step, self.num_steps):
            epoch, iteration = divmod(step, self.run.iters_per_epoch)
            num_accumulated, updates = self._accumulation(iteration)
            loaded = meter.fetch(batches)
            seed_torch("step", self.run.seed, get_rank(), step)  # dropout masks
            with self._gradients_stay_here(not updates):
                loss = self._loss(loaded.batch.to(self.device, non_blocking=True))
                self.scaler.scale(loss / num_accumulated).backward()
            if updates:
                self._update(step)
            meter.add(step, loss.detach(), loaded)
            log.advance()
            ends = iteration + 1 == self.run.iters_per_epoch
            if ends or (step + 1) % self.run.log_freq == 0:
                figures = meter.flush(step, device=self.device)
                log.write({"epoch": epoch, "step": step, "lr": self.lr(step), **figures})
            if ends:
                self._save(epoch, step)
        log.close()

    def evaluate(self) -> dict[str, float]:
        """Return the mean loss of every dataset over `valid_splits` and `test_splits`, one row at a time.

        Raises: ValueError when the config names no split or no dataset has one of them.
        """
        splits = [*self.run.valid_splits, *self.run.test_splits]
        found = {f"{name}/{s}": sets[s] for name, sets in self.datasets.items() for s in splits if s in sets}
        if not found:
            raise ValueError(f"run.evaluate is True but no dataset has one of the splits {splits}")
        self.model.eval()
        losses = {}
        for name, dataset in found.items():
            mixture = MixtureDataset({name: dataset}, seed=self.run.seed)
            rows = Ingredient(name=name, num_rows=len(dataset), batch_size=1, ratio=1.0)
            sampler = MixtureSampler([rows], num_steps=len(dataset), seed=self.run.seed)
            with torch.no_grad():
                batches = self._loader_of(mixture, sampler)
                losses[name] = sum(float(self._loss(b.batch.to(self.device))) for b in batches) / len(dataset)
            logger.info("%s: loss %.4f over %d rows", name, losses[name], len(dataset))
        return losses

    def _loader(self) -> Any:
        train = {name: splits["train"] for name, splits in self.datasets.items()}
        ingredients = [
            Ingredient(name=name, num_rows=len(dataset), batch_size=body.batch_size, ratio=body.sample_ratio)
            for (name, dataset), body in zip(train.items(), self.cfg.datasets_cfg.values(), strict=True)
        ]
        sampler = MixtureSampler(
            ingredients,
            num_steps=self.num_steps,
            seed=self.run.seed,
            start_step=self.start_step,
            rank=get_rank(),
            world_size=get_world_size(),
        )
        return self._loader_of(MixtureDataset(train, seed=self.run.seed), sampler)

    def _loader_of(self, dataset: MixtureDataset, sampler: MixtureSampler) -> Any:
        return build_loader(
            dataset,
            sampler,
            self.model.chat_encoder,
            num_workers=self.run.num_workers,
            prefetch_factor=self.run.prefetch_factor,
            pin_memory=self.device.type == "cuda",
        )

    def _loss(self, batch: Any) -> torch.Tensor:
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None):
            return self.task.train_step(self.wrapped, batch)["loss"]

    def _accumulation(self, iteration: int) -> tuple[int, bool]:
        """Return how many steps share this step's update, and whether it ends with this step."""
        accum, per_epoch = self.run.accum_grad_iters, self.run.iters_per_epoch
        first = iteration - iteration % accum
        num_accumulated = min(accum, per_epoch - first)
        return num_accumulated, iteration - first + 1 == num_accumulated

    def _gradients_stay_here(self, stay: bool) -> contextlib.AbstractContextManager[Any]:
        if stay and isinstance(self.wrapped, DistributedDataParallel):
            return self.wrapped.no_sync()
        return contextlib.nullcontext()

    def _update(self, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _save(self, epoch: int, step: int) -> None:
        """Write checkpoint_{epoch}.pth from rank 0; `step` is the next step to take."""
        if not is_main_process():
            return
        path = self.folder / f"checkpoint_{epoch}.pth"
        state = {
            "model": self.model.trainable_state(),
            "optimizer": self.optimizer.state_dict(),
            "config": self.cfg.to_dict(),
            "scaler": self.scaler.state_dict() if self.scaler.is_enabled() else None,
            "epoch": epoch,
            "step": step + 1,
            "world_size": get_world_size(),
        }
        write_checkpoint(path, state)
        logger.info("saved %s", path)

    def _resume(self) -> int:
        """Load `run.resume_ckpt_path` and return the step to go on with.

        A checkpoint without a step is one of the published trainer, written at the end of its epoch.
        """
        path = self.run.resume_ckpt_path
        state = read_checkpoint(path)
        missing = [key for key in ("model", "optimizer", "epoch") if key not in state]
        if missing:
            raise ValueError(f"run.resume_ckpt_path: {path} cannot be resumed, it has no {', '.join(missing)}")
        self.model.load_trainable_state(state["model"], source=str(path))
        self._load_optimizer(state["optimizer"], path)
        if state.get("scaler") is not None and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if state.get("world_size", get_world_size()) != get_world_size():
            logger.warning(
                "%s was written by %d processes, this run has %d: its batches differ from those of an unbroken run",
                path,
                state["world_size"],
                get_world_size(),
            )
        step: int = state.get("step", (state["epoch"] + 1) * self.run.iters_per_epoch)
        logger.info("resuming %s at step %d", path, step)
        return step

    def _load_optimizer(self, saved: dict[str, Any], path: str) -> None:
        """Load moments and step counts; rates, decay and betas stay those of the config."""
        own = self.optimizer.state_dict()["param_groups"]
        sizes = [[len(group["params"]) for group in groups] for groups in (saved["param_groups"], own)]
        if sizes[0] != sizes[1]:
            raise ValueError(f"{path}: its optimizer has groups of {sizes[0]} parameters, this model of {sizes[1]}")
        self.optimizer.load_state_dict({"state": saved["state"], "param_groups": own})
