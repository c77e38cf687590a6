"""Training steps of a model that many cases share, measured by the trainer's own loop."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gpu_runner import MeasuredRunner, rounded, synchronize
from train_step import (
    build,
    make_config,
    make_datasets,
    parse_args,
    published_trainer,
)
from variants import VARIANTS, PartTimer, put_back

from minigpt4.common.config import Config
from minigpt4.common.schema import ModelConfig, RunConfig
from minigpt4.conversation.conversation import Batch
from minigpt4.runners.runner_base import RunnerBase
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask

STEPS = {"real": (24, 48), "small": (10, 10), "tiny": (2, 2)}
"""Updates that are timed, and those before. The first half of these comes again and again: what a shape
takes for the first time, and the capture of its graph, are over when the clock starts."""


class NotAvailable(Exception):
    """What a case needs is not here."""


def arguments(size: str, device: torch.device, workers: int, settings: dict[str, Any]) -> argparse.Namespace:
    """Return a case's settings as the command line of train_step.py has them."""
    steps, warmup = STEPS[size]
    if size == "real":
        steps, warmup = settings.get("steps", steps), settings.get("warmup", warmup)
    line = ["--size", size, "--device", str(device)]
    line += ["--workers", str(workers), "--accum", str(settings.get("accum", 1))]
    line += ["--max-tokens", str(settings.get("max_tokens", 0)), "--without", *settings.get("without", ())]
    args: argparse.Namespace = parse_args([*line, "--with", *settings.get("with_", ())])
    args.steps, args.warmup = steps, warmup
    return args


def check_options(options: Sequence[str]) -> None:
    """Raise NotAvailable where the trainer does not have an option."""
    known: dict[str, Any] = {"run": RunConfig, "model": ModelConfig}
    for option in options:
        section, _, key = option.partition("=")[0].partition(".")
        if key not in known[section].__dataclass_fields__:
            raise NotAvailable(f"{section}.{key} is no option here")


class Trainings:
    """Trains one model of a size again and again, each time from the same weights."""

    def __init__(self, size: str, device: torch.device, *, workers: int) -> None:
        self.size, self.device, self.workers = size, device, workers
        self.model: Any = None
        self.initial: dict[str, torch.Tensor] = {}
        self.dtype = torch.float32
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self.num_runs = 0
        self.rebuild = False
        self.datasets: dict[str, Any] = {}

    def prepare(self, cfg: Config, dtype: torch.dtype, *, rebuild: bool = False) -> None:
        """Have a model in a type, as it was in the beginning; with `rebuild` one that no other case shares."""
        if self.model is not None and (rebuild or self.rebuild or self.dtype != dtype):
            self.model = None
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        self.rebuild = rebuild  # what a case changed for good must not reach the next
        if self.model is None:
            self.model, self.dtype = build(cfg, self.device, dtype), dtype
            self.initial = {name: value.cpu().clone() for name, value in self.model.trainable_state().items()}
            self.datasets = make_datasets(cfg, self.folder)
        self.model.load_trainable_state(self.initial)
        self.model.zero_grad(set_to_none=True)

    def train(self, settings: dict[str, Any], profiler: Any = None) -> tuple[dict[str, Any], Any]:
        """Return the figures of one run with a case's settings, and the runner."""
        check_options(settings.get("options", ()))
        self.num_runs += 1
        args = arguments(self.size, self.device, self.workers, settings)
        cfg = make_config(args, self.folder, [*settings.get("options", ()), f"run.job_id=run{self.num_runs}"])
        self.prepare(cfg, self._dtype(settings), rebuild=settings.get("rebuild", False))
        with put_back(self.model):
            runner = self._runner(cfg, args)
            cycle = args.warmup // 2 if settings.get("cycle", True) else None
            runner.begin(num_warmup=args.warmup, cudnn=settings.get("cudnn", False), cycle=cycle, profiler=profiler)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            runner.train()
        lines = [json.loads(line) for line in (runner.folder / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss"] for line in lines[1:]]
        return {**runner.figures(), **memory(self.device), "loss": rounded(sum(losses) / len(losses))}, runner

    def _dtype(self, settings: dict[str, Any]) -> torch.dtype:
        if self.device.type != "cuda":
            return torch.float32
        chosen: torch.dtype = getattr(torch, settings.get("dtype", "bfloat16"))
        return chosen

    def _runner(self, cfg: Config, args: argparse.Namespace) -> MeasuredRunner:
        model = self.model
        for name in args.without:
            VARIANTS[name](model)
        if "recompute" in args.with_:
            how = {"use_reentrant": False}
            model.language_model.causal_lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        splits = {name: {"train": dataset} for name, dataset in self.datasets.items()}
        task = ImageTextPretrainTask()
        runner = MeasuredRunner(cfg=cfg, task=task, model=model, datasets=splits, job_id=str(cfg.run_cfg.job_id))
        if "fused" in args.without:
            groups = model.optimizer_groups(cfg.run_cfg.weight_decay)
            foreach = self.device.type == "cuda"
            runner.state.optimizer = torch.optim.AdamW(groups, lr=cfg.run_cfg.init_lr, foreach=foreach)
        return runner

    def measure(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return a case's figures; with `twice` those of a second run, and speed and memory of the first, fresh one.

        Reserved memory says something only of a run that began with none: with `twice` or `fresh`.
        """
        if settings.get("twice") or settings.get("fresh"):
            torch.cuda.empty_cache()
        if not settings.get("twice"):
            figures = self.train(settings)[0]
            if not settings.get("fresh"):
                figures.pop("peak_reserved_gib", None)
            return figures
        first = self.train(settings)[0]
        keys = ("samples_per_s", "peak_allocated_gib", "peak_reserved_gib")
        return {**self.train(settings)[0], **{f"first_{key}": first[key] for key in keys if key in first}}

    def host_alone(self) -> dict[str, Any]:
        """Return the milliseconds of a step of one short text: what the host takes to launch the language model."""
        if self.model is None:
            self.measure({})
        ids = torch.arange(3, 35)
        labels = ids.clone()
        labels[:8] = -100
        batch = Batch(
            images=torch.empty(0, 3, 1, 1),
            input_ids=ids,
            labels=labels,
            position_ids=torch.arange(len(ids)),
            lengths=torch.tensor([len(ids)]),
        ).to(self.device)
        optimizer = torch.optim.AdamW(self.model.optimizer_groups(0.05), lr=0.0, fused=True)
        enabled = self.device.type == "cuda"
        steps, warmup = STEPS[self.size]
        for number in range(warmup + steps):
            if number == warmup:
                synchronize(self.device)
                began = time.perf_counter()
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled):
                loss = self.model(batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        synchronize(self.device)
        return {"step_ms": rounded(1000 * (time.perf_counter() - began) / steps)}

    def same(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return whether six steps, or three and three after resuming, end with the weights of six."""
        options = ["run.max_epoch=2", "run.iters_per_epoch=3", "run.init_lr=1e-3"]
        deterministic = settings["deterministic"]
        ends = [self._weights_after([*options, f"run.deterministic={deterministic}"])]
        resumed = [f"run.resume_ckpt_path={ends[0][1] / 'checkpoint_0.pth'}"] if settings.get("resumed") else []
        ends.append(self._weights_after([*options, f"run.deterministic={deterministic}", *resumed]))
        torch.use_deterministic_algorithms(False)
        one, other = (weights for weights, _ in ends)
        largest = max(float((one[name] - other[name]).abs().max()) for name in one)
        moved = max(float((one[name] - self.initial[name]).abs().max()) for name in one)
        digests = [_digest(weights) for weights in (one, other)]
        return {"bit_equal": digests[0] == digests[1], "largest_difference": largest, "largest_change": moved}

    def _weights_after(self, options: Sequence[str]) -> tuple[dict[str, torch.Tensor], Path]:
        self.num_runs += 1
        size = "small" if self.size == "real" else self.size
        args = arguments(size, self.device, self.workers, {})
        cfg = make_config(args, self.folder, [*options, f"run.job_id=run{self.num_runs}"])
        self.prepare(cfg, self._dtype({}))
        splits = {name: {"train": dataset} for name, dataset in self.datasets.items()}
        task = ImageTextPretrainTask()
        runner = RunnerBase(cfg=cfg, task=task, model=self.model, datasets=splits, job_id=str(cfg.run_cfg.job_id))
        torch.backends.cuda.enable_cudnn_sdp(False)
        runner.train()
        return {name: value.cpu().clone() for name, value in self.model.trainable_state().items()}, runner.folder


def _digest(weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b()
    for name in sorted(weights):
        digest.update(weights[name].numpy().tobytes())
    return digest.hexdigest()


def memory(device: torch.device) -> dict[str, float]:
    """Return the peaks of allocated and reserved device memory."""
    if device.type != "cuda":
        return {}
    peaks = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return {f"peak_{name}_gib": rounded(value / 2**30) for name, value in peaks.items()}


def published(size: str, device: torch.device, workers: int) -> dict[str, Any]:
    """Return the figures of the published recipe on the batches of `ours`, once it has taken all of them before."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    args = arguments(size, device, workers, {})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cfg = make_config(args, folder)
        timer = PartTimer(device, enabled=False)
        trainer, loader = published_trainer(cfg, make_datasets(cfg, folder), args, timer)
        batches = list(itertools.islice(iter(loader), args.steps))
        trainer.run(iter(batches), num_steps=args.steps)
        first = memory(device)
        began = time.perf_counter()
        figures = trainer.run(iter(batches), num_steps=args.steps)
        seconds = time.perf_counter() - began
        dist.destroy_process_group()
    values = {key: None if value is None else rounded(value) for key, value in figures.items()}
    return {**values, "step_ms": rounded(1000 * seconds / args.steps), **first}
