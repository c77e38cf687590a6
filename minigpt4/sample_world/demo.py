"""The demo: the main job end to end on the sample world, in a few minutes on two cores.

    python -m minigpt4.sample_world.demo     # from the repository's root, as `make demo` does

It makes the world, fine-tunes the stage-2 checkpoint with the baseline mixture and once more with the engine's data
added, evaluates both on held-out scenes, and prints the table that the real experiment ends with.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ENGINE_FILE = "train_dataset/data_engine/dataengine_minigpt4.json"
LAST_CHECKPOINT = "checkpoint_1.pth"
JOB_ID = "demo"


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the results table: which training run it is, and where its results go."""

    title: str
    config: str
    results: Path
    has_engine: bool


def rows(results: Path) -> tuple[Row, Row]:
    """Return the two rows of the table; the engine's results lie where evaluation puts them by default."""
    return (
        Row("None (baseline)", "sample_world", results / "baseline", has_engine=False),
        Row("MLLM-DataEngine", "sample_world_dataengine", results, has_engine=True),
    )


def run(*command: str | Path) -> str:
    """Run a command from the working directory, show it and what it says, and return its output.

    Raises: SystemExit when it fails.
    """
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
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


def torchrun(*command: str | Path) -> str:
    """Run a script in two processes."""
    return run("python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command)


def train(world: Path, row: Row) -> Path:
    """Fine-tune the stage-2 checkpoint as a row's YAML says; return the last checkpoint."""
    config = world / "train_configs" / f"{row.config}.yaml"
    torchrun(REPOSITORY / "train.py", "--cfg-path", config, "--options", f"run.job_id={JOB_ID}")
    return Path("output") / row.config / JOB_ID / LAST_CHECKPOINT


def evaluate(world: Path, row: Row, checkpoint: Path) -> dict[str, float]:
    """Return a checkpoint's accuracies in percent on the held-out scenes."""
    scripts, questions = REPOSITORY / "eval_scripts", world / "evaluation_dataset"
    config = world / "eval_configs/sample_world.yaml"
    torchrun(
        scripts / "eval_vqa.py", "--cfg-path", config, "--dataset", "seed,mmbench", "--ckpt", checkpoint,
        "--options", f"run.save_path={row.results}",
    )  # fmt: skip
    report = run(
        "python", scripts / "convert_seed_for_submission_minigpt4.py",
        "--annotation-file", questions / "seed/SEED-Bench-image.json", "--result-file", row.results / "seed.jsonl",
    )  # fmt: skip
    run(
        "python", scripts / "convert_mmbench_for_submission.py",
        "--annotation-file", questions / "mmbench/mmbench_dev_20230712.tsv",
        "--result-file", row.results / "mmbench.jsonl", "--output-file", row.results / "mmbench.xlsx",
    )  # fmt: skip
    total = next(line for line in report.splitlines() if line.startswith("Total accuracy: "))
    scores = json.loads((row.results / "results.json").read_text(encoding="utf-8"))
    return {"SEED": float(total.removeprefix("Total accuracy: ").rstrip("%")), "MMB": scores["mmbench"]["accuracy"]}


def table(world: Path, scores: list[tuple[Row, dict[str, float]]]) -> str:
    """Return the results as a table, with what guessing would give."""
    amount = f"{len(json.loads((world / ENGINE_FILE).read_text(encoding='utf-8'))):,}"
    lines = ["| Incremental Dataset | Data Amount | SEED | MMB |", "| :--: | :--: | :--: | :--: |"]
    for row, score in scores:
        shown = amount if row.has_engine else "-"
        lines.append(f"| {row.title} | {shown} | {score['SEED']:.2f} | {score['MMB']:.2f} |")
    chance = chance_levels(world)
    lines.append(f"| (guessing a letter) | - | {chance['SEED']:.2f} | {chance['MMB']:.2f} |")
    return "\n".join(lines)


def chance_levels(world: Path) -> dict[str, float]:
    """Return the accuracies in percent of guessing among the options of each question."""
    import pandas

    path = world / "evaluation_dataset/mmbench/mmbench_dev_20230712.tsv"
    num_options = pandas.read_csv(path, sep="\t")[list("ABCD")].notna().sum(axis=1)
    return {"SEED": 25.0, "MMB": 100 * float((1 / num_options).mean())}


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", type=Path, default=Path("sample_world"), help="where to make the sample world")
    parser.add_argument("--results", type=Path, default=Path("evaluation_results"), help="where to put the results")
    args = parser.parse_args()
    start = time.monotonic()
    run("python", "-m", "minigpt4.sample_world", "--out", args.world)
    checkpoints = [(row, train(args.world, row)) for row in rows(args.results)]
    scores = [(row, evaluate(args.world, row, checkpoint)) for row, checkpoint in checkpoints]
    print(f"\n{table(args.world, scores)}\n\nThe sample world, not the real data; {time.monotonic() - start:.0f} s.")


if __name__ == "__main__":
    main()
