"""The training loop: batch, loss, gradient, update; every step a function of (config, step)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
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
from minigpt4.common.liveness import pulse
from minigpt4.common.optims import build_schedule
from minigpt4.common.registry import registry
from minigpt4.common.seeds import seed_torch
from minigpt4.common.weight_identity import identity_of
from minigpt4.conversation.conversation import Batch, Losses
from minigpt4.datasets.mixture import ENDLESS, Draw, MixtureDataset, MixtureSampler
from minigpt4.runners.checkpoints import RUN_FILE, Checkpoints
from minigpt4.runners.feeding import Feeder
from minigpt4.runners.flops import model_flops, utilisation
from minigpt4.runners.frozen_dtype import check_frozen_dtype
from minigpt4.runners.gradients import add_gradients
from minigpt4.runners.graphs import GraphedSteps, takes_graphs
from minigpt4.runners.guard import LossGuard
from minigpt4.runners.loader import Loaded, build_loader, ingredients_of
from minigpt4.runners.meter import Meter
from minigpt4.runners.resuming import resume, state_of
from minigpt4.runners.run_file import describe_run, write_run_file
from minigpt4.runners.run_log import RunLog
from minigpt4.runners.spans import Span, spans
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
        self.base_model = identity_of(cfg.model_cfg) if is_main_process() else {}  # the main process saves it
        for module in (module for part in self.run.compile for module in model.compilable(part)):
            module.compile(dynamic=True)
        self.amp_dtype = autocast_dtype(self.run, self.device)
        check_frozen_dtype(self.run, cfg.model_cfg, self.device, self.amp_dtype)
        graphed = takes_graphs(self.run, cfg.model_cfg, self.device, self.amp_dtype, model=model)
        self.parallel = wrap(model, strategy=self.run.strategy, device=self.device, overlap=not graphed)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.amp_dtype is torch.float16)
        self.optimizer = torch.optim.AdamW(
            model.optimizer_groups(self.run.weight_decay), lr=self.run.init_lr, betas=(0.9, self.run.beta2), fused=True
        )
        self.graphs = self._graphed_steps() if graphed else None
        self.lr = build_schedule(self.run)
        self.start_step = 0
        self.best_loss = float("inf")
        self.history: list[tuple[int, int]] = [(0, get_world_size())]  # (first step, number of ranks) of each part
        self.changes: list[dict[str, Any]] = []  # options that differed when a checkpoint was resumed
        resume(self)
        self.balanced = self.run.balance_ranks and get_world_size() > 1
        self.checkpoints = Checkpoints(
            self.folder, iters_per_epoch=self.run.iters_per_epoch, keep_last=self.run.keep_last
        )
        if is_main_process() and not self.run.evaluate:
            # a moment of each order beside every trained number
            trained = sum(parameter.numel() * parameter.element_size() for _, parameter in model.trainable())
            self.checkpoints.check_room(3 * trained, step=self.start_step)
        self.guard = LossGuard(self.folder, max_skipped_steps=self.run.max_skipped_steps)
        self.finite = True  # all losses of the update under way

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

    def _train(self, batches: Iterator[list[Loaded]], meter: Meter, log: RunLog, stop: StopRequest) -> bool:
        """Take the steps; return whether the last one was taken."""
        flops = model_flops(self.model)
        feeder = self._feeder()
        ahead: list[tuple[Loaded, Batch]] | None = None
        self.model.train()
        for span in spans(self.run, start=self.start_step, num_steps=self.num_steps):
            pulse.step = span.first
            sent = ahead or feeder.send(meter.fetch(batches))
            stop.ask()
            feeder.arrive(sent)
            losses, own_seconds = self._take(span, sent)
            ahead = None
            if self.run.look_ahead and span.last + 1 < self.num_steps:
                ahead = feeder.send(meter.fetch(batches))
            if span.updates:
                self._update(span.last)
            parts = [loaded for loaded, _ in sent]
            work = sum(flops(loaded.batch) for loaded in parts) if flops else 0.0
            meter.add(range(span.first, span.last + 1), losses, parts, own_seconds=own_seconds, flops=work)
            log.advance(span.num_steps)
            stopped = span.updates and stop.agreed()
            self._look_back(span, meter, log, stopped=stopped)
            if stopped:
                return span.last + 1 == self.num_steps
        return True

    def _take(self, span: Span, sent: Sequence[tuple[Loaded, Batch]]) -> tuple[Tensor, float]:
        """Add the gradients of a span's batches, which are on the device; return what `add_gradients` returns."""
        seed_torch("step", self.run.seed, get_rank(), span.first)  # dropout masks
        return add_gradients(self, span, sent)

    def _look_back(self, span: Span, meter: Meter, log: RunLog, *, stopped: bool) -> None:
        """Log, validate and save where that fell due with a span's steps."""
        epoch = span.last // self.run.iters_per_epoch
        ends = span.ends_epoch
        if ends or stopped or span.completes(self.run.log_freq):
            self._log(epoch, span.last, meter, log)
        if ends and self.run.valid_splits:
            self._validate(epoch, span.last, log)
        if ends or stopped or span.completes_since_update(self.run.save_every_steps):
            self.guard.check()
            if is_main_process():
                self.checkpoints.save(state_of(self, epoch, span.last))

    def evaluate(self) -> dict[str, float]:
        """Return the mean loss of every dataset over `valid_splits` and `test_splits`."""
        with pulse.during("validating"):
            return mean_losses(self, [*self.run.valid_splits, *self.run.test_splits])

    def _begin(self) -> tuple[Iterator[list[Loaded]], Meter, RunLog]:
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
            together=[s.num_steps for s in spans(self.run, start=self.start_step, num_steps=self.num_steps)],
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
                changes=self.changes,
            )
            write_run_file(self.folder / RUN_FILE, described)
            logger.info("%d parameters are trained, %d frozen", described["num_trainable"], described["num_frozen"])
        names = [ingredient.name for ingredient in ingredients]
        bad = self.run.max_bad_samples
        streams = {name: dataset for name, dataset in train.items() if len(dataset) == ENDLESS}
        meter = Meter(
            num_steps=self.num_steps, max_bad_samples=bad, names=names, chosen=sampler.choices, streams=streams
        )
        log = RunLog(self.folder, self.run, config, num_steps=self.num_steps, start=self.start_step)
        return iter(self.loader(MixtureDataset(train, seed=self.run.seed), sampler)), meter, log

    def loader(self, dataset: MixtureDataset, sampler: Sampler[list[Draw]]) -> Iterable[list[Loaded]]:
        """Return the loader of a mixture, by this run's options."""
        return build_loader(
            dataset,
            sampler,
            self.model.chat_encoder,
            num_workers=self.run.num_workers,
            prefetch_factor=self.run.prefetch_factor,
            pin_memory=self.device.type == "cuda",
            max_tokens=self.run.max_tokens_per_forward,
        )

    def autocast(self) -> torch.autocast:
        """Return the context of the run's 16-bit computation, or of none."""
        return torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None)

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of a batch on the device."""
        with self.autocast():
            return self.task.train_step(self.parallel.module, batch)

    def backward(self, losses: Losses, num_accumulated: int) -> None:
        """Add the gradient of a loss that shares its update with others."""
        self.scaler.scale(losses.loss / num_accumulated).backward()

    def _graphed_steps(self) -> GraphedSteps:
        """Return what replays steps from CUDA graphs."""

        def step(batch: Batch, num_accumulated: int) -> Losses:
            losses = self.forward(batch)
            self.backward(losses, num_accumulated)
            return losses

        trained = [parameter for _, parameter in self.model.trainable()]
        return GraphedSteps(step, trained, self.device)

    def _feeder(self) -> Feeder:
        """Return what brings batches to the device, with `run.look_ahead` their images already seen."""
        encode_vision = self.model.encode_vision if self.run.look_ahead and self.model.freeze_vit else None
        return Feeder(self.device, encode_vision=encode_vision, context=self.autocast)

    def _update(self, step: int) -> None:
        if self.finite:
            self.parallel.reduce_gradients()
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr(step)
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.optimizer.zero_grad(set_to_none=self.graphs is None)  # a graph knows gradients by their addresses
        self.finite = True

    def _log(self, epoch: int, step: int, meter: Meter, log: RunLog) -> None:
        self.guard.check()
        figures = meter.flush(step, device=self.device)
        figures["mfu"] = utilisation(figures.pop("flops_per_s"), seconds=1.0, device=self.device)
        figures["num_skipped_steps"] = self.guard.num_skipped
        log.write({"epoch": epoch, "step": step, "lr": self.lr(step), **figures})

    def _validate(self, epoch: int, step: int, log: RunLog) -> None:
        """Take the losses of the held-out splits, and keep the best checkpoint."""
        with pulse.during("validating"):
            losses = mean_losses(self, list(self.run.valid_splits))
        loss = sum(losses.values()) / len(losses)
        log.write({"epoch": epoch, "step": step, "valid_loss": loss, "valid_loss_by_dataset": losses})
        if loss < self.best_loss:
            self.best_loss = loss
            if is_main_process():
                self.checkpoints.save_best(state_of(self, epoch, step))
