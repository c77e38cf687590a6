"""The demo: the main job end to end on the sample world, in minutes on two cores.

    minigpt4 demo            # or python -m minigpt4.sample_world.demo, as `make demo` does
    minigpt4 demo --quick    # few scenes and steps, below quick_demo/

It makes the world, fine-tunes the stage-2 checkpoint with the baseline mixture and once more with the engine's data
added, evaluates both with all benchmarks on held-out scenes, and prints the table that the real experiment ends with.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt4.common.user_errors import plain_errors
from minigpt4.sample_world.demo_steps import Step, StepRunner, share_evaluated, share_trained, times_table
from minigpt4.sample_world.demo_tables import Row, rows, tables

LAST_CHECKPOINT = "checkpoint_1.pth"
JOB_ID = "demo"
LOG = "demo.log"
MINIGPT4 = ("python", "-m", "minigpt4")
TWO_PROCESSES = ("python", "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "minigpt4.cli")


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """How much the demo does, and the seconds of its steps on two idle cores.

    The demo writes below `folder`; `world_options` and `train_options` shorten it. `note` says what its numbers mean.
    """

    folder: Path
    note: str
    seconds: Mapping[str, float]
    world_options: tuple[str, ...] = ()
    train_options: tuple[str, ...] = ()


WHOLE = Length(
    folder=Path(),
    note="Its numbers are of this world, not of the real data.",
    seconds={"world": 8, "preview": 6, "train": 185, "evaluate": 35, "convert": 2},
)
QUICK = Length(
    folder=Path("quick_demo"),
    note="This is the quick demo: few scenes and few steps, so its numbers mean little.",
    seconds={"world": 5, "preview": 5, "train": 27, "evaluate": 15, "convert": 2},
    world_options=("--num-train-scenes", "400", "--num-eval-scenes", "300"),
    train_options=("run.iters_per_epoch=100",),
)


@dataclass(frozen=True, slots=True)
class Demo:
    """The commands of a demo and the pages that they write.

    `seed` replaces `run.seed` of both trainings; the world stays the same.
    """

    length: Length
    world: Path
    results: Path
    seed: int | None = None

    def steps(self) -> list[Step]:
        """Return all commands in order."""
        both, seconds = rows(self.results), self.length.seconds
        make = ("python", "-m", "minigpt4.sample_world", "--out", str(self.world), *self.length.world_options)
        look = (*MINIGPT4, "preview", "4", "--cfg-path", str(self.config(both[1])), *self._options(both[1]))
        return [
            Step("make the sample world", make, seconds["world"]),
            Step("write the page of training samples", look, seconds["preview"]),
            *(self._train(row) for row in both),
            *(step for row in both for step in self._evaluate(row)),
        ]

    def config(self, row: Row) -> Path:
        """Return the training file of a row."""
        return self.world / "train_configs" / f"{row.config}.yaml"

    def output(self, row: Row) -> Path:
        """Return the folder of a row's training runs."""
        return self.length.folder / "output" / row.config

    def pages(self) -> dict[str, Path]:
        """Return the pages of the model with the engine's data: curves, wrong answers, samples of its training data."""
        _, engine = rows(self.results)
        return {
            "training": self.output(engine) / JOB_ID / "report.html",
            "evaluation": engine.results / "report.html",
            "samples": self.output(engine) / "preview.html",
        }

    def _options(self, row: Row, *options: str) -> tuple[str, ...]:
        """Return the options of a training file; the shipped files already name the folder of the whole demo."""
        moved = () if self.length.folder == Path() else (f"run.output_dir={self.output(row)}",)
        return ("--options", *options, *moved) if options or moved else ()

    def _train(self, row: Row) -> Step:
        """Fine-tune the stage-2 checkpoint as a row's YAML says."""
        seed = () if self.seed is None else (f"run.seed={self.seed}",)
        options = self._options(row, f"run.job_id={JOB_ID}", *self.length.train_options, *seed)
        command = (*TWO_PROCESSES, "train", "--cfg-path", str(self.config(row)), *options)
        return Step(f"train {_model(row)}", command, self.length.seconds["train"], share_trained)

    def _evaluate(self, row: Row) -> list[Step]:
        """Ask the last checkpoint all questions about the held-out scenes, then convert SEED and MMBench."""
        questions, results, seconds = self.world / "evaluation_dataset", row.results, self.length.seconds
        ask = (
            *(*TWO_PROCESSES, "eval", "--cfg-path", f"{self.world}/eval_configs/sample_world.yaml"),
            *("--ckpt", f"{self.output(row)}/{JOB_ID}/{LAST_CHECKPOINT}", "--resample"),
            *("--options", f"run.save_path={results}"),
        )
        seed = (
            *(*MINIGPT4, "convert", "seed", "--annotation-file", f"{questions}/seed/SEED-Bench-image.json"),
            *("--result-file", f"{results}/seed.jsonl"),
        )
        mmbench = (
            *(*MINIGPT4, "convert", "mmbench", "--annotation-file", f"{questions}/mmbench/mmbench_dev_20230712.tsv"),
            *("--result-file", f"{results}/mmbench.jsonl", "--output-file", f"{results}/mmbench.xlsx"),
        )
        return [
            Step(f"evaluate {_model(row)}", ask, seconds["evaluate"], share_evaluated),
            Step(_seed_title(row), seed, seconds["convert"]),
            Step(f"write MMBench's sheet of {_model(row)}", mmbench, seconds["convert"]),
        ]


def _model(row: Row) -> str:
    return "the model with the engine's data" if row.has_engine else "the baseline model"


def _seed_title(row: Row) -> str:
    return f"score SEED-Bench of {_model(row)}"


def accuracies(row: Row, seed_report: str) -> dict[str, float]:
    """Return the accuracies in percent, by benchmark, from results.json; SEED's from the output of its converter."""
    total = next(line for line in seed_report.splitlines() if line.startswith("Total accuracy: "))
    measured = json.loads((row.results / "results.json").read_text(encoding="utf-8"))
    scores = {name: facts["accuracy"] for name, facts in measured.items()}
    return {**scores, "seed": float(total.removeprefix("Total accuracy: ").rstrip("%"))}


def opening(demo: Demo, steps: Sequence[Step]) -> str:
    """Return what the demo says first."""
    minutes = math.ceil(sum(step.seconds for step in steps) / 60)
    lines = [
        "The demo draws a small world and fine-tunes a tiny model on it twice: without and with the engine's data.",
        f"Then it evaluates both on new scenes. It takes about {minutes} minutes on two idle cores.",
        demo.length.note,
        f"All output of the commands goes to {demo.results / LOG}.",
    ]
    return "\n".join(lines)


def addresses(demo: Demo) -> str:
    """Return the addresses of the demo's pages for a browser.

    Raises: SystemExit when a page is absent.
    """
    pages = demo.pages()
    if missing := [str(page) for page in pages.values() if not page.is_file()]:
        raise SystemExit(f"not written: {', '.join(missing)}; the reason is in {demo.results / LOG}")
    width = max(map(len, pages))
    lines = (f"  {name:{width}}  {page.resolve().as_uri()}" for name, page in pages.items())
    return "\n".join(["Open in a browser:", *lines])


def main(words: Sequence[str] | None = None) -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(
        prog="minigpt4 demo",
        description=(__doc__ or "").partition("\n")[0],
        epilog="example: minigpt4 demo --quick",
    )
    parser.add_argument("--quick", action="store_true", help="few scenes and steps; the numbers then mean little")
    parser.add_argument("--world", type=Path, help="where to make the sample world (default: sample_world)")
    parser.add_argument("--results", type=Path, help="where to put the results (default: evaluation_results)")
    parser.add_argument("--seed", type=int, help="run.seed of both trainings; the world stays the same")
    args = parser.parse_args(words)
    length = QUICK if args.quick else WHOLE
    world, results = args.world or length.folder / "sample_world", args.results or length.folder / "evaluation_results"
    with plain_errors(parser.prog):
        run(Demo(length, world, results, args.seed))


def run(demo: Demo) -> None:
    """Run all steps, then print the tables, the time of each step and the addresses of the pages."""
    steps = demo.steps()
    print(opening(demo, steps), flush=True)
    runner = StepRunner(steps, demo.results / LOG)
    printed = runner.run()
    scores = [(row, accuracies(row, printed[_seed_title(row)])) for row in rows(demo.results)]
    print("", tables(demo.world, scores), demo.length.note, times_table(steps, runner.taken), sep="\n\n", end="\n\n")
    print(addresses(demo))


if __name__ == "__main__":
    main()
