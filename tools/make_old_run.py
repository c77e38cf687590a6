"""Write the folders that a checkout of this project leaves behind, for a test that later code continues them.

    python tools/make_old_run.py --checkout ../old --out tests/golden/old_run      # a minute

The recorded tiny model trains and answers on the recorded tiny data. The folder then holds a finished run, a run that
SIGTERM stopped, a finished evaluation and one that SIGKILL ended, and in `expected/` what the same checkout gets when
it finishes the two others. Every path in the configs is relative to the folder that
`workspace` makes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

COPIED = ("output", "evaluation_results")
ANSWERS = ("okvqa.json", "iconvqa.json", "seed.jsonl", "refcocog_val.json", "refcocog_test.json")
"""The result files of the evaluation."""
MODEL = {
    "arch": "minigpt_v2",
    "image_size": 56,
    "vit": {"embed_dim": 32, "depth": 2, "num_heads": 4},
    "vit_ckpt": "model/eva_tiny_28.pth",
    "llama_model": "model/llama_tiny",
    "ckpt": "model/minigptv2_tiny_ckpt.pth",
    "lora_r": 4,
    "chat_template": True,
    "end_sym": "</s>",
}
TRAINING = {
    "model": MODEL,
    "datasets": {
        "gqa": {"batch_size": 2, "sample_ratio": 2},
        "engine_mc": {"batch_size": 2, "sample_ratio": 2},
        "textcaps_caption": {"batch_size": 3, "sample_ratio": 1},
    },
    "run": {
        "device": "cpu",
        "max_epoch": 2,
        "iters_per_epoch": 20,
        "accum_grad_iters": 2,
        "init_lr": 1e-3,
        "warmup_steps": 4,
        "num_workers": 0,
        "log_freq": 1,
        "output_dir": "output",
    },
}
DATA = "evaluation_dataset"
EVALUATION = {
    "model": MODEL,
    "preprocess": {"vis_processor": {"eval": {"image_size": 56}}},
    "evaluation_datasets": {
        "okvqa": {"eval_file_path": f"{DATA}/okvqa", "img_path": f"{DATA}/coco2014_val"},
        "iconvqa": {
            "eval_file_path": f"{DATA}/iconvqa/choose_text_val.json",
            "img_path": f"{DATA}/iconvqa/iconvqa_images",
        },
        "seed": {"eval_file_path": f"{DATA}/seed/seed-bench-image.jsonl", "img_path": f"{DATA}/seed"},
        "refcocog": {"eval_file_path": f"{DATA}/refcocog", "img_path": f"{DATA}/coco2014_train"},
    },
    "run": {"device": "cpu"},
}


def workspace(folder: Path, golden: Path) -> None:
    """Make a folder to work in: the recorded data and model, by links, and the two configs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train_dataset", "evaluation_dataset"):
        (folder / name).symlink_to(golden / "data" / name, target_is_directory=True)
    (folder / "model").symlink_to(golden / "model/assets", target_is_directory=True)
    for name, config in (("train.yaml", TRAINING), ("eval.yaml", EVALUATION)):
        (folder / name).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def training(job: str, *options: str) -> list[str]:
    """Return the words of a training's command."""
    return ["train.py", "--cfg-path", "train.yaml", "--options", f"run.job_id={job}", *options]


def evaluation(job: str, *, script: str = "eval_vqa.py", batch_size: int = 2) -> list[str]:
    """Return the words of the command that evaluates the finished run into a folder."""
    words = [f"eval_scripts/{script}", "--cfg-path", "eval.yaml", "--ckpt", "output/finished/checkpoint_1.pth"]
    words += ["--batch_size", str(batch_size), "--max_new_tokens", "6"]
    words += ["--resample"] if script == "eval_ref.py" else []
    return [*words, "--options", f"run.save_path=evaluation_results/{job}"]


class Checkout:
    """The project at some commit; its scripts run in a workspace."""

    def __init__(self, root: Path, work: Path) -> None:
        self.root, self.work = root, work

    def command(self, words: list[str]) -> list[str]:
        """Return the command that runs one of the checkout's scripts."""
        script, *rest = words
        return [sys.executable, str(self.root / script), *rest]

    def environment(self) -> dict[str, str]:
        """Return the environment in which a script imports the checkout, on one thread and without a network."""
        alone = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(self.root)}
        return {**os.environ, **alone}

    def start(self, words: list[str]) -> subprocess.Popen[bytes]:
        """Start one of the checkout's scripts."""
        return subprocess.Popen(self.command(words), cwd=self.work, env=self.environment(), stdout=subprocess.DEVNULL)

    def finish(self, words: list[str]) -> None:
        """Run a script to its end. Raises: RuntimeError when it fails."""
        if code := self.start(words).wait():
            raise RuntimeError(f"{words} ended with {code}")

    def interrupt(self, words: list[str], number: signal.Signals, file: Path, *, num_lines: int) -> None:
        """Run a script and send it a signal once a file that it appends to has a number of lines."""
        process = self.start(words)
        while process.poll() is None:
            if file.is_file() and file.read_bytes().count(b"\n") >= num_lines:
                process.send_signal(number)
                break
            time.sleep(0.001)
        if not process.wait():
            raise RuntimeError(f"{words} ended before the signal reached it; run this again")


def expected_of(work: Path) -> dict[str, Any]:
    """Return what the finished half run came to, and what decides its last bits: torch and the processor."""
    folder = work / "output/half"
    lines = [json.loads(line) for line in (folder / "log.txt").read_text(encoding="utf-8").splitlines()]
    model = torch.load(folder / "checkpoint_1.pth", weights_only=True)["model"]
    return {
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "losses": {line["step"]: line["loss"] for line in lines},
        "weights": {name: sha256_of(value) for name, value in model.items()},
    }


def sha256_of(value: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes."""
    return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()


def copy_folders(work: Path, out: Path) -> None:
    """Copy what the scripts wrote, without pages, pictures and event files."""
    unneeded = shutil.ignore_patterns("tensorboard", "*.png", "*.html")
    for name in COPIED:
        shutil.copytree(work / name, out / name, ignore=unneeded, dirs_exist_ok=True)


def make(checkout: Checkout, out: Path) -> None:
    """Train, evaluate, interrupt and finish; keep the folders as they were before they were finished."""
    work, parts = checkout.work, checkout.work / "evaluation_results/half/parts"
    log = work / "output/half/log.txt"
    checkout.finish(training("finished"))
    checkout.interrupt(training("half", "run.save_every_steps=6"), signal.SIGTERM, log, num_lines=9)
    for script in ("eval_vqa.py", "eval_ref.py"):
        checkout.finish(evaluation("finished", script=script))
    checkout.interrupt(evaluation("half"), signal.SIGKILL, parts / "seed.rank0.jsonl", num_lines=6)
    ref = evaluation("half", script="eval_ref.py")
    checkout.interrupt(ref, signal.SIGKILL, parts / "refcocog_val.rank0.jsonl", num_lines=3)
    for name in (*COPIED, "expected"):
        shutil.rmtree(out / name, ignore_errors=True)
    copy_folders(work, out)
    checkout.finish(training("half", "run.save_every_steps=6", "run.resume_ckpt_path=auto"))
    for script in ("eval_vqa.py", "eval_ref.py"):
        checkout.finish(evaluation("half", script=script))
    expected = out / "expected"
    expected.mkdir()
    (expected / "training.json").write_text(json.dumps(expected_of(work), indent=1) + "\n", encoding="utf-8")
    for name in (*ANSWERS, "results.json"):
        shutil.copy(work / "evaluation_results/half" / name, expected / name)


def main() -> None:
    """Read the command line and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parents[1]
    parser.add_argument("--checkout", type=Path, default=here, help="the project at the commit to run; default: this")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write, over what lies there")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / "work"
        workspace(work, here / "tests/golden")
        make(Checkout(args.checkout.resolve(), work), args.out)


if __name__ == "__main__":
    main()
