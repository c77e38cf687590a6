"""What other programs call: `train`, `evaluate` and `load_model`.

They print nothing, and leave handlers, process groups, threads and random generators as they were.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from minigpt4.assistant import Assistant, Chat, open_picture
from minigpt4.common import dist_utils
from minigpt4.common.config import Config
from minigpt4.common.dist_utils import pick_device
from minigpt4.common.liveness import pulse
from minigpt4.common.process_state import joined_group, process_restored
from minigpt4.common.registry import registry
from minigpt4.common.seeds import seed_torch
from minigpt4.evaluation.benchmark import Benchmark
from minigpt4.evaluation.evaluator import INFER, SCORE, BenchmarkResult, Evaluator, Results, choose, image_processor
from minigpt4.evaluation.results import weights_name
from minigpt4.evaluation.worker import GenerativeModel
from minigpt4.processors.pictures import AS_SEEN
from minigpt4.runners import RunnerBase
from minigpt4.runners.checkpoints import choose_job
from minigpt4.runners.resuming import refuse_changes
from minigpt4.runners.runner_base import RunResult
from minigpt4.tasks import setup_task

__all__ = [
    "Assistant",
    "BenchmarkResult",
    "Chat",
    "Results",
    "RunResult",
    "build_model",
    "build_runner",
    "evaluate",
    "load_model",
    "open_picture",
    "train",
]

ModelLoader = Callable[[Config, torch.device, torch.dtype], GenerativeModel]
"""Loads the model of a config on a device, frozen weights in a type; see `build_model`."""


def train(cfg: Config) -> RunResult:
    """Train as train.py does with a config, and return how the training ended.

    It may be called again and from any thread. Log lines go to `logging`, nothing is printed. Signals stop a run only
    in the main thread. The process group of torchrun is joined and left again, unless the caller has joined it before.
    Handlers of signals, random generators, and the flags of PyTorch are afterwards those of the caller.
    Raises: ValueError when an option or a file of the user is wrong; FloatingPointError when a loss is not finite.
    """
    with process_restored(), joined_group(cfg.run_cfg):
        return build_runner(cfg).train()


def build_runner(cfg: Config) -> RunnerBase:
    """Return the runner of a config: its datasets, model and optimizer, resumed where `run.resume_ckpt_path` says so.

    Raises: ValueError when an option or a file of the user is wrong.
    """
    seed_torch("init", cfg.run_cfg.seed)  # the same new LoRA weights on every rank
    device = pick_device(cfg.run_cfg)
    task = setup_task(cfg)
    pulse.doing = "looking at the data"
    datasets = task.build_datasets(cfg)
    job_id = choose_job(cfg.run_cfg)
    refuse_changes(cfg, datasets, job_id)  # before the model's weights are read
    pulse.doing = "loading the model"
    model = task.build_model(cfg, device)
    runner_class: type[RunnerBase] = registry.get_runner_class(cfg.run_cfg.runner)
    return runner_class(cfg=cfg, task=task, model=model, datasets=datasets, job_id=job_id)


def load_model(
    cfg_path: str | Path, *, options: Sequence[str] = (), ckpt: str | Path | None = None, device: str | None = None
) -> Assistant:
    """Return the model of a YAML file, as the evaluation scripts use it, ready to answer.

    `options` ("key=value") are laid over the YAML; `device` is a GPU where there is one and nothing else is said.
    Raises: ValueError when an option is wrong, or a device or a weight file is missing.
    """
    cfg = Config.load(cfg_path, options)
    if ckpt is not None:
        cfg.model_cfg.ckpt = str(ckpt)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    cfg.run_cfg.device = device or cfg.run_cfg.device
    cfg.check_values()
    where = dist_utils.pick_device(cfg.run_cfg)
    dtype = dist_utils.autocast_dtype(cfg.run_cfg, where)
    model = _seeded_model(cfg, where, dtype or torch.float32, build_model)
    return Assistant(model, image_processor(cfg), dtype=dtype, pictures=cfg.model_cfg.pictures or AS_SEEN)


def evaluate(
    cfg: Config,
    model: GenerativeModel | Assistant | ModelLoader | None = None,
    benchmarks: Sequence[str | Benchmark] = (),
    *,
    only: Literal["infer", "score"] | None = None,
    num_tries: int = 0,
    run_name: str | None = None,
    on_score: Callable[[BenchmarkResult], None] | None = None,
) -> Results:
    """Return predictions, scores and mistakes of a model, saved once below `run.save_path`.

    `model` is what `load_model` gives, or a model, or a function that loads the one of `cfg` (None: `build_model`).
    `benchmarks` are names of `evaluation_datasets` (default: all of them) or a user's own objects. `only` and
    `num_tries` are `--only` and `--resample`. `on_score` gets each benchmark's result as soon as it is scored.
    Answers that a stopped run left in the folder are reused by a run of the same name alone. The name covers `cfg`
    and the questions; for a given model also `run_name`. Its default is a hash of the model's trainable weights.
    A model without such weights gets a new name in each call, so that its answers are never reused.
    It may be called again and from any thread, also with a model in eval mode that other threads use.
    Under torchrun each rank asks its share, and rank 0 has the results.
    Raises: ValueError that lists what is missing or misspelt, before a model is loaded.
    """
    if only not in (None, INFER, SCORE):
        raise ValueError(f"only: expected {INFER!r}, {SCORE!r} or None, got {only!r}")
    if odd := [one for one in benchmarks if not isinstance(one, str | Benchmark)]:
        raise ValueError(f"benchmarks: expected names and Benchmark objects, got {odd[0]!r}")
    names = [one for one in benchmarks if isinstance(one, str)]
    chosen = choose(cfg, names) if names or not benchmarks else []
    chosen += [one for one in dict.fromkeys(benchmarks) if not isinstance(one, str)]
    given: Any = model.model if isinstance(model, Assistant) else model
    is_loaded = hasattr(given, "generate")  # an nn.Module can be called, too
    if not (is_loaded or given is None or callable(given)):
        raise ValueError(f"model: expected a model or a function that loads one, got {given!r}; a file is model.ckpt")

    def load() -> Any:
        if is_loaded:
            return given
        device = dist_utils.pick_device(cfg.run_cfg)
        dtype = dist_utils.autocast_dtype(cfg.run_cfg, device) or torch.float32
        with pulse.during("loading the model"):
            return _seeded_model(cfg, device, dtype, given or build_model)

    with process_restored(), joined_group(cfg.run_cfg):
        if is_loaded and run_name is None and only != SCORE:
            run_name = dist_utils.broadcast_object(weights_name(given) or uuid.uuid4().hex)
        evaluator = Evaluator(cfg=cfg, load_model=load, only=only, num_tries=num_tries, run_name=run_name)
        return evaluator.run(chosen, on_score=on_score)


def _seeded_model(cfg: Config, device: torch.device, dtype: torch.dtype, load: ModelLoader) -> Any:
    """Return the configured model, whose random weights are the same on every rank; generators stay as they were."""
    with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
        seed_torch(cfg.run_cfg.seed, "weights")
        return load(cfg, device, dtype)


def build_model(cfg: Config, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the configured model in eval mode on its device, frozen weights in `dtype`.

    Raises: ValueError when CUDA graphs are asked for elsewhere, or as the model's `from_config`.
    """
    if cfg.run_cfg.cuda_graphs and device.type != "cuda":
        raise ValueError(f"run.cuda_graphs: {device.type} has no CUDA graphs; --options run.cuda_graphs=False")
    model = registry.get_model_class(cfg.model_cfg.arch).from_config(cfg.model_cfg, dtype=dtype)
    if cfg.run_cfg.cuda_graphs:
        model.use_cuda_graphs()
    return model.to(device).eval()
