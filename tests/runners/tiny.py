"""A whole training run in seconds: the recorded tiny model on the recorded tiny datasets."""

import json
import subprocess
import sys
from pathlib import Path

import yaml

from tests.forked import SECONDS, environment, run_ranks, run_script

ROOT = Path(__file__).parents[2]
ASSETS = ROOT / "tests/golden/model/assets"
DATA = ROOT / "tests/golden/data"


def tiny_config(**run):
    return {
        "model": {
            "arch": "minigpt_v2",
            "image_size": 56,
            "vit": {"embed_dim": 32, "depth": 2, "num_heads": 4},
            "vit_ckpt": str(ASSETS / "eva_tiny_28.pth"),
            "llama_model": str(ASSETS / "llama_tiny"),
            "ckpt": str(ASSETS / "minigptv2_tiny_ckpt.pth"),
            "lora_r": 4,
            "chat_template": True,
            "end_sym": "</s>",
        },
        "datasets": {
            "gqa": {"batch_size": 2, "sample_ratio": 2},
            "engine_mc": {"batch_size": 2, "sample_ratio": 2},
            "textcaps_caption": {"batch_size": 3, "sample_ratio": 1},
        },
        "run": {
            "device": "cpu",
            "max_epoch": 2,
            "iters_per_epoch": 3,
            "init_lr": 1e-3,
            "warmup_steps": 2,
            "num_workers": 0,
            "log_freq": 1,
            "job_id": "job",
            **run,
        },
    }


def write_config(tmp_path, config):
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def words_of(tmp_path, config, *options):
    """Return train.py and the arguments that have it write below tmp_path."""
    words = [str(ROOT / "train.py"), "--cfg-path", str(write_config(tmp_path, config))]
    return [*words, "--options", f"run.output_dir={tmp_path / 'out'}", *options]


def torchrun(tmp_path, config, *options):
    """Return the command that runs train.py on two ranks."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return [*launcher, *words_of(tmp_path, config, *options)]


def train(tmp_path, config, *options):
    """Run train.py where the data lie; return the finished process."""
    return run_script(words_of(tmp_path, config, *options), cwd=DATA)


def train_by_torchrun(tmp_path, config, *options):
    """Run train.py on two ranks that torchrun starts; return the finished torchrun."""
    command = torchrun(tmp_path, config, *options)
    return subprocess.run(command, cwd=DATA, env=environment(), capture_output=True, text=True, timeout=SECONDS)


def train_on_ranks(tmp_path, config, *options, num_ranks=2):
    """Run train.py on ranks that meet by a file, without torchrun; return the finished process of rank 0."""
    return run_ranks(words_of(tmp_path, config, *options), cwd=DATA, num_ranks=num_ranks)


def log_lines(tmp_path, job="job"):
    return [json.loads(line) for line in (tmp_path / "out" / job / "log.txt").read_text().splitlines()]
