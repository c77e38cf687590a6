"""Time training on the published mixture, our way and the published one, in one run on one machine.

    python benchmarks/train_step.py --size real --device cuda --steps 50           # a GPU with 60 GB or more
    python benchmarks/train_step.py --size small --steps 20 --parts                # anywhere
    python benchmarks/train_step.py --size small --recipe ours --without lora      # what one idea brings

Weights are random, samples made up (benchmarks/made_up_mixture.py says how long their texts are); pictures are JPEG
files that the workers read and resize. Ours is the trainer itself: `RunnerBase.train()`, and what its metrics.jsonl
says behind the warm-up. `--accum 8 --max-tokens 16384` puts eight draws through together. `--parts` takes further steps
with the device waited for between parts. Model FLOPs, and so MFU, go by the formula of minigpt4/runners/flops.py; the
published recipe's are counted for the same samples without its padding.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from made_up_mixture import MadeUpDataset, write_pictures
from published_recipe import PublishedTrainer, examples_of
from torch.utils.data import DataLoader
from variants import VARIANTS, PartTimer, TimedRunner, TimedTask

from minigpt4.common.config import PACKAGE_DIR, Config
from minigpt4.common.registry import registry
from minigpt4.common.seeds import seed_torch
from minigpt4.datasets.mixture import MixtureDataset, MixtureSampler
from minigpt4.runners.loader import components_of
from minigpt4.runners.strategy import init_from_meta

MIXTURE = PACKAGE_DIR.parent / "train_configs" / "minigptv2_finetune_dataengine.yaml"
SIZES: dict[str, list[str]] = {
    "real": [],
    "small": [
        *("model.image_size=224", "model.lora_r=16"),
        *("model.vit.embed_dim=384", "model.vit.depth=6", "model.vit.num_heads=6"),
        *("model.llama_config.hidden_size=512", "model.llama_config.intermediate_size=1376"),
        *("model.llama_config.num_hidden_layers=8", "model.llama_config.num_attention_heads=8"),
    ],
    "tiny": [
        *("model.image_size=56", "model.lora_r=4"),
        *("model.vit.embed_dim=64", "model.vit.depth=2", "model.vit.num_heads=4"),
        *("model.llama_config.hidden_size=64", "model.llama_config.intermediate_size=172"),
        *("model.llama_config.num_hidden_layers=2", "model.llama_config.num_attention_heads=4"),
    ],
}
NUM_PICTURES = 64
OPTIONS = ("look_ahead", "compile_vit", "compile_llm", "recompute")


def make_config(args: argparse.Namespace, folder: Path, options: Sequence[str] = ()) -> Config:
    """Return the shipped training file at a size, without any weight file, with further options over it."""
    run = {
        **{"device": args.device, "num_workers": args.workers, "output_dir": folder, "job_id": "bench"},
        **{"max_epoch": 1, "iters_per_epoch": (args.warmup + args.steps) * args.accum, "wandb_log": False},
        **{"log_freq": args.warmup * args.accum, "accum_grad_iters": args.accum, "warmup_steps": 0},
        **{"max_tokens_per_forward": args.max_tokens or "null", "look_ahead": "look_ahead" in args.with_},
        "compile": "[" + ",".join(part for part in ("vit", "llm") if f"compile_{part}" in args.with_) + "]",
    }
    model = ["model.random_weights=True", "model.vit_ckpt=null", "model.ckpt=null"]
    model.append(f"model.use_grad_checkpoint_llm={'recompute' in args.with_}")
    given = [f"run.{key}={value}" for key, value in run.items()]
    return Config.load(MIXTURE, [*model, *given, *SIZES[args.size], *options])


def make_datasets(cfg: Config, folder: Path) -> dict[str, Any]:
    """Return the made-up datasets of a config, and write their pictures."""
    pictures = write_pictures(folder, count=NUM_PICTURES)
    size = cfg.model_cfg.image_size
    return {name: MadeUpDataset(name, pictures, image_size=size) for name in map(str, cfg.datasets_cfg)}


def build(cfg: Config, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the model with random weights, the same for every recipe."""
    with torch.device("meta"):
        model = registry.get_model_class(cfg.model_cfg.arch).from_config(cfg.model_cfg, dtype=dtype)
    seed_torch("bench", 0)
    init_from_meta(model, device)
    return model.to(device).train()


def train_ours(cfg: Config, datasets: Any, args: argparse.Namespace, timer: PartTimer) -> dict[str, Any]:
    """Train with the trainer itself; return what it measured behind the warm-up."""
    device = torch.device(args.device)
    model = build(cfg, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    for name in args.without:
        VARIANTS[name](model)
    splits = {name: {"train": dataset} for name, dataset in datasets.items()}
    runner = TimedRunner(timer, cfg=cfg, task=TimedTask(timer), model=model, datasets=splits, job_id="bench")
    if "fused" in args.without:
        groups = model.optimizer_groups(cfg.run_cfg.weight_decay)
        runner.state.optimizer = torch.optim.AdamW(groups, lr=cfg.run_cfg.init_lr, foreach=device.type == "cuda")
    runner.train()
    lines = [json.loads(line) for line in (runner.folder / "metrics.jsonl").read_text().splitlines()]
    times = [line["time"] for line in lines]
    shares = [(later - earlier) / (times[-1] - times[0]) for earlier, later in pairwise(times)]
    figures: dict[str, Any] = {}
    for key in ("samples_per_s", "tokens_per_s", "data_wait", "mfu"):
        values = [line[key] for line in lines[1:]]
        figures[key] = None if None in values else sum(s * v for s, v in zip(shares, values, strict=True))
    return figures


def published_trainer(
    cfg: Config, datasets: Any, args: argparse.Namespace, timer: PartTimer
) -> tuple[PublishedTrainer, Any]:
    """Return the published trainer, in a separate process group, and the loader of all its steps."""
    device = torch.device(args.device)
    model = build(cfg, device, torch.float16 if device.type == "cuda" else torch.float32)
    components = components_of(datasets, cfg.datasets_cfg, model.chat_encoder)
    num_steps = (args.warmup + args.steps) * args.accum
    sampler = MixtureSampler(components, num_steps=num_steps, seed=cfg.run_cfg.seed)
    mixture = MixtureDataset(datasets, seed=cfg.run_cfg.seed)
    loader: Any = DataLoader(mixture, batch_sampler=sampler, collate_fn=examples_of, num_workers=args.workers)
    return PublishedTrainer(model, device, timer), loader


def train_published(cfg: Config, datasets: Any, args: argparse.Namespace, timer: PartTimer) -> dict[str, Any]:
    """Train the published way; return what was measured behind the warm-up."""
    trainer, loader = published_trainer(cfg, datasets, args, timer)
    batches = iter(loader)
    trainer.run(batches, num_steps=args.warmup * args.accum)
    figures: dict[str, Any] = trainer.run(batches, num_steps=args.steps * args.accum)
    dist.destroy_process_group()
    return figures


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one recipe, which has this process to itself."""
    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    train = {"ours": train_ours, "published": train_published}[args.recipe[0]]
    timer = PartTimer(device, enabled=args.timed_parts)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        cfg = make_config(args, Path(folder))
        figures = train(cfg, make_datasets(cfg, Path(folder)), args, timer)
    if args.timed_parts:
        num_timed = (args.warmup + args.steps) * args.accum - 3
        return {"parts_ms": timer.milliseconds(num_steps=num_timed)} if num_timed > 0 else {}
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rounded = {key: None if value is None else float(f"{value:.4g}") for key, value in figures.items()}
    return {
        **rounded,
        "peak_memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else process, 2),
        "seconds_in_all": round(time.perf_counter() - began, 1),
    }


def in_a_process(args: argparse.Namespace, recipe: str, *options: str) -> dict[str, Any]:
    """Return the figures of one recipe, measured in a separate process."""
    kept = [word for key in ("size", "device", "steps", "warmup", "workers", "accum", "threads")
            for word in (f"--{key}", str(getattr(args, key)))]  # fmt: skip
    if recipe == "ours":
        kept += ["--max-tokens", str(args.max_tokens), "--without", *args.without, "--with", *args.with_]
    command = [sys.executable, __file__, "--recipe", recipe, "--bare", *kept, *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return a command line, this process's own unless one is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--recipe", nargs="+", choices=("published", "ours"), default=["published", "ours"])
    parser.add_argument("--steps", type=int, default=20, help="updates that are timed")
    parser.add_argument("--warmup", type=int, default=5, help="updates before; a divisor of --steps")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="of the training process on a CPU")
    parser.add_argument("--accum", type=int, default=1, help="draws an update")
    parser.add_argument("--max-tokens", type=int, default=0, help="run.max_tokens_per_forward of ours")
    parser.add_argument("--without", nargs="*", choices=VARIANTS, default=[], help="ideas to take out of ours")
    parser.add_argument("--with", nargs="*", dest="with_", choices=OPTIONS, default=[], help="options of ours")
    parser.add_argument("--parts", action="store_true", help="time the parts too, in further runs")
    parser.add_argument("--timed-parts", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.steps % args.warmup:
        parser.error("--steps should be a multiple of --warmup")
    return args


def main() -> None:
    """Run each recipe in a separate process, one after the other; print one JSON object a recipe."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.bare:
        print(json.dumps(run(args)))
        return
    keys = ("size", "steps", "accum", "max_tokens", "without", "with_", "threads", "workers")
    device = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "cpu"
    print(json.dumps({"device": device, "torch": torch.__version__, **{key: getattr(args, key) for key in keys}}))
    rates = {}
    for recipe in args.recipe:
        figures = in_a_process(args, recipe)
        if args.parts:
            figures |= in_a_process(args, recipe, "--timed-parts")
        rates[recipe] = figures["samples_per_s"]
        print(json.dumps({"recipe": recipe, **figures}), flush=True)
    if len(rates) == 2:
        print(json.dumps({"times_the_published_rate": round(rates["ours"] / rates["published"], 2)}))


if __name__ == "__main__":
    main()
