"""The training loop: batch, loss, gradient, update; every step a function of (config, step)."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from minigpt4.common.config import Config
from minigpt4.common.dist_utils import (
    autocast_dtype,
    get_rank,
    get_world_size,
    is_main_process,
    make_deterministic,
    pick_device,
)
from minigpt4.common.optims import build_schedule
from minigpt4.common.registry import registry
from minigpt4.common.seeds import seed_torch
from minigpt4.datasets.mixture import Draw, MixtureDataset, MixtureSampler
from minigpt4.runners.balance import group_losses, weigh
from minigpt4.runners.checkpoints import RUN_FILE, Checkpoints
from minigpt4.runners.flops import model_flops, utilisation
from minigpt4.runners.guard import LossGuard
from minigpt4.runners.loader import Loaded, build_loader, ingredients_of
from minigpt4.runners.meter import Meter
from minigpt4.runners.resuming import resume, state_of
from minigpt4.runners.run_file import describe_run, fingerprint, write_run_file
from minigpt4.runners.run_log import RunLog
from minigpt4.runners.stop import StopRequest
from minigpt4.runners.strategy import wrap
from minigpt4.runners.validation import mean_losses
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
        self.device = pick_device(self.run)
        if self.run.deterministic:
            make_deterministic()
        self.base_model = fingerprint(model)  # before its weights are sharded: no rank can read the others' alone
        self.parallel = wrap(model, strategy=self.run.strategy, device=self.device)
        self.amp_dtype = autocast_dtype(self.run, self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype is torch.float16)
        self.optimizer = torch.optim.AdamW(
            model.optimizer_groups(self.run.weight_decay), lr=self.run.init_lr, betas=(0.9, self.run.beta2)
        )
        self.lr = build_schedule(self.run)
        self.start_step = 0
        self.best_loss = float("inf")
        self.history: list[tuple[int, int]] = [(0, get_world_size())]  # (first step, number of ranks) of each part
        if self.run.resume_ckpt_path:
            resume(self, self.run.resume_ckpt_path)
        self.balanced = self.run.balance_ranks and get_world_size() > 1
        self.checkpoints = Checkpoints(
            self.folder, iters_per_epoch=self.run.iters_per_epoch, keep_last=self.run.keep_last
        )
        self.guard = LossGuard(self.folder, max_skipped_steps=self.run.max_skipped_steps)

    def train(self) -> bool:
        """Train to the end, saving after every epoch; return False when a signal stopped the run before.

        With `run.evaluate` only the losses of the other splits are taken.
        """
        if self.run.evaluate:
            self.evaluate()
            return True
        batches, meter, log = self._begin()
        with contextlib.closing(log), contextlib.closing(StopRequest()) as stop:
            return self._train(batches, meter, log, stop)

    def _train(self, batches: Iterator[Loaded], meter: Meter, log: RunLog, stop: StopRequest) -> bool:
        """Take the steps; return whether the last one was taken."""
        flops = model_flops(self.model)
        finite = True
        self.model.train()
        for step in range(self.start_step, self.num_steps):
            epoch, iteration = divmod(step, self.run.iters_per_epoch)
            num_accumulated, updates = self._accumulation(iteration)
            loaded = meter.fetch(batches)
            stop.ask()
            began = time.perf_counter()
            seed_torch("step", self.run.seed, get_rank(), step)  # dropout masks
            with contextlib.nullcontext() if updates else self.parallel.no_sync():
                loss, losses = self._loss(loaded)
                own_seconds = time.perf_counter() - began
                finite = finite and not self._is_to_skip(step, loss, loaded)
                if finite:
                    self.scaler.scale(loss / num_accumulated).backward()
            if updates:
                self._update(step, finite=finite)
                finite = True
            meter.add(step, losses, loaded, own_seconds=own_seconds, flops=flops(loaded.batch) if flops else 0.0)
            log.advance()
            ends = iteration + 1 == self.run.iters_per_epoch
            stopped = updates and stop.agreed()
            if ends or stopped or (step + 1) % self.run.log_freq == 0:
                self._log(epoch, step, meter, log)
            if ends and self.run.valid_splits:
                self._validate(epoch, step, log)
            if ends or stopped or (updates and self._is_time_to_save(step)):
                self._save(epoch, step)
            if stopped:
                return step + 1 == self.num_steps
        return True

    def evaluate(self) -> dict[str, float]:
        """Return the mean loss of every dataset over `valid_splits` and `test_splits`."""
        return mean_losses(self, [*self.run.valid_splits, *self.run.test_splits])

    def _begin(self) -> tuple[Iterator[Loaded], Meter, RunLog]:
        train = {name: splits["train"] for name, splits in self.datasets.items()}
        ingredients = ingredients_of(train, self.cfg.datasets_cfg, self.model.chat_encoder)
        sampler = MixtureSampler(
            ingredients,
            num_steps=self.num_steps,
            seed=self.run.seed,
            start_step=self.start_step,
            rank=get_rank(),
            world_size=get_world_size(),
            past=[part for part in self.history if part[0] < self.start_step],
            balance=self.balanced,
        )
        config = self.cfg.to_dict()
        if is_main_process():
            described = describe_run(
                self.model,
                config,
                ingredients,
                num_steps=self.num_steps,
                device=self.device,
                base_model=self.base_model,
            )
            write_run_file(self.folder / RUN_FILE, described)
            logger.info("%d parameters are trained, %d frozen", described["num_trainable"], described["num_frozen"])
        names = [ingredient.name for ingredient in ingredients]
        bad = self.run.max_bad_samples
        meter = Meter(num_steps=self.num_steps, max_bad_samples=bad, names=names, chosen=sampler.choices)
        log = RunLog(self.folder, self.run, config, num_steps=self.num_steps, start=self.start_step)
        return iter(self.loader(MixtureDataset(train, seed=self.run.seed), sampler)), meter, log

    def loader(self, dataset: MixtureDataset, sampler: Sampler[list[Draw]]) -> Iterable[Loaded]:
        """Return the loader of a mixture, by this run's options."""
        return build_loader(
            dataset,
            sampler,
            self.model.chat_encoder,
            num_workers=self.run.num_workers,
            prefetch_factor=self.run.prefetch_factor,
            pin_memory=self.device.type == "cuda",
        )

    def autocast(self) -> torch.autocast:
        """Return the context of the run's 16-bit computation, or of none."""
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def _loss(self, loaded: Loaded) -> tuple[Tensor, Tensor]:
        """Return the loss to minimise, and this rank's part of every draw's loss, (world_size,)."""
        world_size = get_world_size()
        batch = loaded.batch.to(self.device, non_blocking=True)
        if self.balanced:
            batch = weigh(batch, loaded, world_size=world_size)
        with self.autocast():
            output = self.task.train_step(self.parallel.module, batch)
        return output["loss"], group_losses(output, batch, loaded, world_size=world_size)

    def _accumulation(self, iteration: int) -> tuple[int, bool]:
        """Return how many steps share this step's update, and whether it ends with this step."""
        accum, per_epoch = self.run.accum_grad_iters, self.run.iters_per_epoch
        first = iteration - iteration % accum
        num_accumulated = min(accum, per_epoch - first)
        return num_accumulated, iteration - first + 1 == num_accumulated

    def _is_to_skip(self, step: int, loss: Tensor, loaded: Loaded) -> bool:
        """Return whether a loss that is not finite is tolerated, so that the update it belongs to is left out."""
        if self.run.max_skipped_steps:
            return self.guard.skips(step, loss, loaded)
        self.guard.watch(step, loss, loaded)
        return False

    def _update(self, step: int, *, finite: bool) -> None:
        if finite:
            self.parallel.reduce_gradients()
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr(step)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _log(self, epoch: int, step: int, meter: Meter, log: RunLog) -> None:
        self.guard.check()
        figures = meter.flush(step, device=self.device)
        figures["mfu"] = utilisation(figures.pop("flops_per_s"), seconds=1.0, device=self.device)
        figures["num_skipped_steps"] = self.guard.num_skipped
        log.write({"epoch": epoch, "step": step, "lr": self.lr(step), **figures})

    def _validate(self, epoch: int, step: int, log: RunLog) -> None:
        """Take the losses of the held-out splits, and keep the best checkpoint."""
        losses = mean_losses(self, list(self.run.valid_splits))
        loss = sum(losses.values()) / len(losses)
        log.write({"epoch": epoch, "step": step, "valid_loss": loss, "valid_loss_by_dataset": losses})
        if loss < self.best_loss:
            self.best_loss = loss
            if is_main_process():
                self.checkpoints.save_best(state_of(self, epoch, step))

    def _is_time_to_save(self, step: int) -> bool:
        """Return whether `save_every_steps` fell due since the last update; inside an update nothing can be saved."""
        every = self.run.save_every_steps
        _, iteration = divmod(step, self.run.iters_per_epoch)
        num_accumulated, _ = self._accumulation(iteration)
        return every is not None and (step + 1) // every > (step + 1 - num_accumulated) // every

    def _save(self, epoch: int, step: int) -> None:
        self.guard.check()
        if is_main_process():
            self.checkpoints.save(state_of(self, epoch, step))
