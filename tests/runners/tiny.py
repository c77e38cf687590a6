"""A whole training run in seconds: the recorded tiny model on the recorded tiny datasets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

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


def command_of(tmp_path, config, *options, num_processes=1):
    """Return the command that runs train.py with its output below tmp_path."""
    launcher = [sys.executable]
    if num_processes > 1:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_processes}"]
    command = [*launcher, str(ROOT / "train.py"), "--cfg-path", str(write_config(tmp_path, config))]
    return [*command, "--options", f"run.output_dir={tmp_path / 'out'}", *options]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


def train(tmp_path, config, *options, num_processes=1):
    """Run train.py where the data lie; return the finished process."""
    command = command_of(tmp_path, config, *options, num_processes=num_processes)
    return subprocess.run(command, cwd=DATA, env=environment(), capture_output=True, text=True, timeout=600)


def log_lines(tmp_path, job="job"):
    return [json.loads(line) for line in (tmp_path / "out" / job / "log.txt").read_text().splitlines()]
