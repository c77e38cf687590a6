"""The training loop: batches, gradient, update; every step a function of (config, step)."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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
from minigpt4.common.weight_identity import identity_of
from minigpt4.datasets.mixture import MixtureDataset, MixtureSampler, SampleRef
from minigpt4.runners.checkpoints import RUN_FILE, Checkpoints
from minigpt4.runners.frozen_dtype import check_frozen_dtype
from minigpt4.runners.graphs import takes_graphs
from minigpt4.runners.loader import BatchSource, PackedBatch, build_loader, components_of, iterating
from minigpt4.runners.meter import Meter
from minigpt4.runners.profile import TRACE, profiled
from minigpt4.runners.resuming import num_rows_of, resume
from minigpt4.runners.run_log import RunLog, write_run_file
from minigpt4.runners.stop import StopRequest
from minigpt4.runners.strategy import wrap
from minigpt4.runners.train_state import TrainState
from minigpt4.runners.train_step import LossGuard, TrainStep
from minigpt4.runners.update import (
    AccumulationWindow,
    DevicePrefetcher,
    Update,
    accumulation_windows,
    steps_at_once,
    updates,
)
from minigpt4.runners.validation import mean_losses
from minigpt4.tasks.base_task import BaseModel, BaseTask, Datasets

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a training ended; the same on every rank.

    folder: the job's folder; checkpoint: the last one that was saved, or None; figures: the latest value of each metric
    of log.txt and metrics.jsonl, with `run.evaluate` the loss of each dataset and split; stopped: whether a signal
    ended the run before its last step; num_steps: the steps that are done, also those before the run was resumed.
    """

    folder: Path
    checkpoint: Path | None
    figures: Mapping[str, Any]
    stopped: bool
    num_steps: int


@registry.register_runner("runner_base")
class RunnerBase:
    """Trains a model on the mixture of datasets for max_epoch * iters_per_epoch steps.

    A step is one micro-batch a rank; an update follows every `accum_grad_iters` steps and the last step of an epoch.
    """

    def __init__(self, *, cfg: Config, task: BaseTask, model: BaseModel, datasets: Datasets, job_id: str) -> None:
        self.cfg, self.run, self.model, self.datasets = cfg, cfg.run_cfg, model, datasets
        self.folder = Path(self.run.output_dir) / job_id
        self.num_steps = self.run.max_epoch * self.run.iters_per_epoch
        self.device = pick_device(self.run)
        if self.run.deterministic:
            make_deterministic()
        for module in (module for part in self.run.compile for module in model.compilable(part)):
            module.compile(dynamic=True)
        amp_dtype = autocast_dtype(self.run, self.device)
        check_frozen_dtype(self.run, cfg.model_cfg, self.device, amp_dtype)
        graphed = takes_graphs(self.run, cfg.model_cfg, self.device, amp_dtype, model=model)
        self.parallel = wrap(model, strategy=self.run.strategy, device=self.device, overlap=not graphed)
        groups = model.optimizer_groups(self.run.weight_decay)
        self.state = TrainState(
            model=model,
            optimizer=torch.optim.AdamW(groups, lr=self.run.init_lr, betas=(0.9, self.run.beta2), fused=True),
            scaler=torch.amp.GradScaler(self.device.type, enabled=amp_dtype is torch.float16),
            config=cfg.to_dict(),
            num_rows=num_rows_of(datasets),
            frozen_weights_hash=identity_of(cfg.model_cfg) if is_main_process() else {},  # rank 0 saves it
            max_grad_norm=self.run.max_grad_norm,
            keeps_gradients=graphed,
        )
        self.guard = LossGuard(self.folder, max_skipped_steps=self.run.max_skipped_steps)
        self.step = TrainStep(
            self.run,
            task=task,
            model=model,
            parallel=self.parallel,
            scaler=self.state.scaler,
            guard=self.guard,
            device=self.device,
            amp_dtype=amp_dtype,
            graphed=graphed,
        )
        self.learning_rate = build_schedule(self.run)
        self.last_checkpoint = resume(self.state, cfg, datasets, self.folder)
        self.checkpoints = Checkpoints(
            self.folder, iters_per_epoch=self.run.iters_per_epoch, keep_last=self.run.keep_last
        )
        if is_main_process() and not self.run.evaluate:
            self.checkpoints.check_room(self.state.num_bytes(), step=self.state.step)

    def train(self) -> RunResult:
        """Train to the end, or until a signal stops the run; save after every epoch.

        With `run.evaluate` nothing is trained, and the result has the losses of the other splits.
        """
        if self.run.evaluate:
            return self._result(self.evaluate(), stopped=False)
        with contextlib.ExitStack() as stack:
            all_updates, meter, log = self._begin(stack)
            stop = stack.enter_context(contextlib.closing(StopRequest()))
            self.model.train()
            stopped = False
            for update in all_updates:
                stop.ask()
                window, result = update.window, self.step(update)
                lr = self.learning_rate(window.last)
                grad_norm = self.state.advance(window.num_steps, lr=lr, is_finite=result.is_finite)
                stopped = stop.agreed()
                log.advance(window.num_steps)
                for line in meter.record(window, result, grad_norm, stopped=stopped):
                    log.write(line)
                if window.ends_epoch and self.run.valid_splits:
                    self._validate(log)
                if window.ends_epoch or stopped or window.completes_since_update(self.run.save_every_steps):
                    self._save()
                if stopped:
                    break
            return self._result(log.last_line, stopped=stopped and self.state.step < self.num_steps)

    def evaluate(self) -> dict[str, float]:
        """Return the mean loss of every dataset over `valid_splits` and `test_splits`."""
        return self._mean_losses([*self.run.valid_splits, *self.run.test_splits])

    def loader(self, dataset: MixtureDataset, sampler: Sampler[list[SampleRef]]) -> Iterable[list[PackedBatch]]:
        """Return the loader of a mixture, by this run's options."""
        packs = isinstance(sampler, MixtureSampler)  # in a validation all ranks have the same number of batches
        return build_loader(
            dataset,
            sampler,
            self.model.chat_encoder,
            num_workers=self.run.num_workers,
            prefetch_factor=self.run.prefetch_factor,
            pin_memory=self.device.type == "cuda",
            max_tokens=self.run.max_tokens_per_forward if packs else None,
        )

    def _begin(self, stack: contextlib.ExitStack) -> tuple[Generator[Update], Meter, RunLog]:
        """Return the updates of the run, their meter and the log; `stack` closes them."""
        train = {name: splits["train"] for name, splits in self.datasets.items()}
        components = components_of(train, self.cfg.datasets_cfg, self.model.chat_encoder)
        windows = list(accumulation_windows(self.run, start=self.state.step, num_steps=self.num_steps))
        sampler = MixtureSampler(
            components,
            num_steps=self.num_steps,
            seed=self.run.seed,
            start_step=self.state.step,
            rank=get_rank(),
            world_size=get_world_size(),
            past=[part for part in self.state.world_size_log if part[0] < self.state.step],
            balance=self.run.balance_ranks and get_world_size() > 1,
            steps_per_batch=steps_at_once(windows),
        )
        if is_main_process():
            path = self.folder / RUN_FILE
            written = write_run_file(path, self.state, components, num_steps=self.num_steps, device=self.device)
            logger.info("%d parameters are trained, %d frozen", written["num_trainable"], written["num_frozen"])
        batches = stack.enter_context(iterating(self.loader(MixtureDataset(train, seed=self.run.seed), sampler)))
        source = BatchSource(batches, max_bad_samples=self.run.max_bad_samples)
        all_updates = self._updates(source, windows)
        stack.callback(all_updates.close)
        meter = Meter(
            self.run,
            names=[component.name for component in components],
            chosen=sampler.choices,
            source=source,
            guard=self.guard,
            learning_rate=self.learning_rate,
            device=self.device,
            streams={name: dataset for name, dataset in train.items() if dataset.is_stream},
        )
        log = RunLog(self.folder, self.run, self.state.config, num_steps=self.num_steps, start=self.state.step)
        stack.callback(log.close)
        return all_updates, meter, log

    def _updates(self, source: BatchSource, windows: Sequence[AccumulationWindow]) -> Generator[Update]:
        """Return the updates whose batches come from `source`; with `run.profile` rank 0 profiles some of them."""
        prefetcher = DevicePrefetcher(
            source,
            self.device,
            look_ahead=self.run.look_ahead,
            encode_vision=self.model.encode_vision if self.run.look_ahead and self.model.freeze_vit else None,
            context=self.step.autocast,
        )
        found = updates(windows, prefetcher)
        is_profiled = self.run.profile and is_main_process()
        return profiled(found, self.run.profile, self.folder / TRACE) if is_profiled else found

    def _validate(self, log: RunLog) -> None:
        """Compute the losses of the held-out splits, and save the best checkpoint."""
        losses = self._mean_losses(list(self.run.valid_splits))
        loss = sum(losses.values()) / len(losses)
        at = {"epoch": self.state.epoch, "step": self.state.step - 1}
        log.write({**at, "valid_loss": loss, "valid_loss_by_dataset": losses})
        if loss < self.state.best_loss:
            self.state.best_loss = loss
            if is_main_process():
                self.checkpoints.save_best(self.state.state_dict())

    def _save(self) -> None:
        """Save a checkpoint, unless a loss is not finite."""
        self.guard.check()
        self.last_checkpoint = self.checkpoints.path_of(epoch=self.state.epoch, step=self.state.step)
        if is_main_process():
            self.checkpoints.save(self.state.state_dict())

    def _mean_losses(self, splits: list[str]) -> dict[str, float]:
        self.model.eval()
        try:
            with pulse.during("validating"):
                return mean_losses(
                    self.step.forward,
                    self.loader,
                    self.datasets,
                    splits,
                    batch_sizes={str(name): body.batch_size for name, body in self.cfg.datasets_cfg.items()},
                    seed=self.run.seed,
                    device=self.device,
                )
        finally:
            self.model.train()

    def _result(self, figures: Mapping[str, Any], *, stopped: bool) -> RunResult:
        return RunResult(
            folder=self.folder,
            checkpoint=self.last_checkpoint,
            figures=figures,
            stopped=stopped,
            num_steps=self.state.step,
        )
