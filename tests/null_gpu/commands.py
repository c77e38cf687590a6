"""Driver: whole commands on a tiny sample world on the null GPU; python -m tests.null_gpu.commands [CASE ...]"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
from pathlib import Path
from unittest import mock

from minigpt4.sample_world.world import WorldSize, write_world
from tests.null_gpu import stand_ins
from tests.null_gpu.driver import Facts, counted, run_cases

ROOT = Path(__file__).parents[2]
ON_CUDA = ["run.device=cuda", "run.amp=True"]


def run(script: str, *words: str) -> Facts:
    """Run a script of the repository to its end; return its launches and waits."""
    facts: Facts = {}
    stand_ins.forget_the_probe()
    with mock.patch.object(sys, "argv", [script, *words]), counted(facts):
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return facts


def train(world: Path) -> Facts:
    """Train four steps with two data workers, and save."""
    out = world / "output"
    steps = ["run.max_epoch=2", "run.iters_per_epoch=2", "run.log_freq=1", "run.num_workers=2"]
    where = [f"run.output_dir={out}", "run.job_id=job"]
    facts = run(
        "train.py", "--cfg-path", str(world / "train_configs/sample_world.yaml"), "--options", *ON_CUDA, *steps, *where
    )
    log = [json.loads(line) for line in (out / "job/log.txt").read_text().splitlines()]
    facts["logged"] = [line["step"] for line in log]
    facts["saved"] = sorted(path.name for path in (out / "job").glob("*.pth"))
    facts["device"] = json.loads((out / "job/run.json").read_text())["device"]
    return facts


def evaluate(world: Path) -> Facts:
    """Have one benchmark's answers written and those of another chosen; say how many there are."""
    results = world / "results"
    words = ["--dataset", "okvqa,iconvqa", "--batch_size", "6", "--max_new_tokens", "4"]
    config = str(world / "eval_configs/sample_world.yaml")
    facts = run(
        "eval_scripts/eval_vqa.py", "--cfg-path", config, *words, "--options", *ON_CUDA, f"run.save_path={results}"
    )
    scores = json.loads((results / "results.json").read_text())
    facts["num_questions"] = {name: score["num_questions"] for name, score in scores.items()}
    return facts


def main() -> None:
    """Run the cases, on one world."""
    stand_ins.install()
    with tempfile.TemporaryDirectory() as folder:
        write_world(Path(folder), WorldSize(num_train_scenes=40, num_eval_scenes=150), seed=3)
        run_cases({"train.py": lambda: train(Path(folder)), "eval_vqa.py": lambda: evaluate(Path(folder))})


if __name__ == "__main__":
    main()
