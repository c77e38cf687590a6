"""The demo: the main job end to end on the sample world, in a few minutes on two cores.

    minigpt4 demo     # or python -m minigpt4.sample_world.demo, as `make demo` does

It makes the world, fine-tunes the stage-2 checkpoint with the baseline mixture and once more with the engine's data
added, evaluates both with all benchmarks on held-out scenes, and prints the table that the real experiment ends with.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from minigpt4.common.config import PACKAGE_DIR
from minigpt4.sample_world.demo_tables import Row, rows, tables

LAST_CHECKPOINT = "checkpoint_1.pth"
JOB_ID = "demo"


def run(*command: str | Path) -> str:
    """Run a command from the working directory, show it and what it says, and return its output.

    Raises: SystemExit when it fails.
    """
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    paths = [str(PACKAGE_DIR.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    words[0] = {"python": sys.executable}.get(words[0], words[0])
    start = time.monotonic()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        raise SystemExit(f"failed with status {process.returncode}: {shlex.join(words)}")
    print(f"({time.monotonic() - start:.0f} s)", flush=True)
    return "".join(lines)


def minigpt4(*words: str | Path) -> str:
    """Run a command of the command line."""
    return run("python", "-m", "minigpt4", *words)


def torchrun(*words: str | Path) -> str:
    """Run a command of the command line in two processes."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    return run("python", *launcher, "-m", "minigpt4.cli", *words)


def train(world: Path, row: Row) -> Path:
    """Fine-tune the stage-2 checkpoint as a row's YAML says; return the last checkpoint."""
    config = world / "train_configs" / f"{row.config}.yaml"
    torchrun("train", "--cfg-path", config, "--options", f"run.job_id={JOB_ID}")
    return Path("output") / row.config / JOB_ID / LAST_CHECKPOINT


def evaluate(world: Path, row: Row, checkpoint: Path) -> dict[str, float]:
    """Return a checkpoint's accuracies in percent on the held-out scenes, by benchmark; SEED's is its converter's."""
    questions = world / "evaluation_dataset"
    torchrun(
        "eval", "--cfg-path", world / "eval_configs/sample_world.yaml", "--ckpt", checkpoint, "--resample",
        "--options", f"run.save_path={row.results}",
    )  # fmt: skip
    report = minigpt4(
        "convert", "seed",
        "--annotation-file", questions / "seed/SEED-Bench-image.json", "--result-file", row.results / "seed.jsonl",
    )  # fmt: skip
    minigpt4(
        "convert", "mmbench",
        "--annotation-file", questions / "mmbench/mmbench_dev_20230712.tsv",
        "--result-file", row.results / "mmbench.jsonl", "--output-file", row.results / "mmbench.xlsx",
    )  # fmt: skip
    total = next(line for line in report.splitlines() if line.startswith("Total accuracy: "))
    measured = json.loads((row.results / "results.json").read_text(encoding="utf-8"))
    accuracies = {name: facts["accuracy"] for name, facts in measured.items()}
    return {**accuracies, "seed": float(total.removeprefix("Total accuracy: ").rstrip("%"))}


def main(words: Sequence[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(
        prog="minigpt4 demo",
        description=(__doc__ or "").partition("\n")[0],
        epilog="example: minigpt4 demo --world sample_world",
    )
    parser.add_argument("--world", type=Path, default=Path("sample_world"), help="where to make the sample world")
    parser.add_argument("--results", type=Path, default=Path("evaluation_results"), help="where to put the results")
    args = parser.parse_args(words)
    start = time.monotonic()
    run("python", "-m", "minigpt4.sample_world", "--out", args.world)
    checkpoints = [(row, train(args.world, row)) for row in rows(args.results)]
    scores = [(row, evaluate(args.world, row, checkpoint)) for row, checkpoint in checkpoints]
    print(f"\n{tables(args.world, scores)}\n\nThe sample world, not the real data; {time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()
