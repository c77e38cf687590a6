"""The command line: `minigpt4 train|check|preview|eval|convert|chat|export|report|demo|env`.

The same commands run by `python -m minigpt4 COMMAND`, and in several processes by
`torchrun .. -m minigpt4.cli COMMAND`. PyTorch is imported after the command line is parsed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from minigpt4 import __version__
from minigpt4.cli import options
from minigpt4.cli.options import USAGE_ERROR
from minigpt4.common.registry import did_you_mean


@dataclass(frozen=True, slots=True)
class Command:
    """A command of `minigpt4`: what it does, an example, and the module that runs it.

    With `add_options`, `run(args, prog)` of the module gets the parsed options, and messages begin with `prog`.
    Without, `main(argv)` of the module parses them.
    """

    summary: str
    example: str
    module: str
    add_options: Callable[[argparse.ArgumentParser], None] | None = None

    def run(self, argv: Sequence[str], prog: str) -> int:
        """Read the options, import the module, run it; return the exit code."""
        if self.add_options is None:
            return import_module(self.module).main(argv) or 0
        args = self.parser(prog).parse_args(argv)
        return import_module(self.module).run(args, prog) or 0

    def parser(self, prog: str) -> argparse.ArgumentParser:
        """Return the parser of its options."""
        parser = argparse.ArgumentParser(
            prog=prog,
            description=self.summary,
            epilog=f"example:\n  {self.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if self.add_options is not None:
            self.add_options(parser)
        return parser


TRAINING, EVALUATION = "train_configs/minigptv2_finetune_dataengine.yaml", "eval_configs/minigptv2_eval.yaml"
COMMANDS = {
    "train": Command(
        "Train on the mixture of datasets that a YAML file describes.",
        f"torchrun --nproc_per_node 8 -m minigpt4.cli train --cfg-path {TRAINING}\n"
        "  minigpt4 train --cfg-path my.yaml --options run.device=cpu run.max_epoch=1      # one process",
        "minigpt4.cli.training",
        options.add_train_options,
    ),
    "check": Command(
        "Report missing rows, images and weights, and wrong options. Exit code 1: training cannot start.",
        f"minigpt4 check --cfg-path {TRAINING}\n"
        "  minigpt4 check --full --cfg-path my.yaml      # opens every image too",
        "minigpt4.cli.training",
        options.add_check_options,
    ),
    "preview": Command(
        "Write preview.html: samples of each dataset as the model gets them.",
        f"minigpt4 preview 4 --cfg-path {TRAINING}",
        "minigpt4.cli.training",
        options.add_preview_options,
    ),
    "eval": Command(
        "Evaluate a checkpoint on the benchmarks that a YAML file lists.",
        "minigpt4 eval --cfg-path eval_configs/minigptv2_benchmark_evaluation.yaml --dataset seed,refcoco --resample",
        "minigpt4.cli.evaluation",
        options.add_eval_options,
    ),
    "convert": Command(
        "Score a result file of SEED-Bench by question type, or write MMBench's sheet for its server.",
        "minigpt4 convert seed --annotation-file SEED-Bench-image.json --result-file seed.jsonl\n"
        "  minigpt4 convert mmbench --annotation-file mmbench_dev_20230712.tsv --result-file mmbench.jsonl "
        "--output-file mmbench.xlsx",
        "minigpt4.cli.converting",
        options.add_convert_options,
    ),
    "chat": Command(
        "Chat with a model about a picture in a terminal.",
        f"minigpt4 chat --cfg-path {EVALUATION} --image x.jpg",
        "minigpt4.chat",
    ),
    "export": Command(
        "Write a trained model for transformers and peft.",
        f"minigpt4 export --cfg-path {EVALUATION} --ckpt checkpoint_29.pth --out exported",
        "minigpt4.export",
    ),
    "report": Command(
        "Write report.html again, of a run or of an evaluation.",
        "minigpt4 report output/JOB_ID\n  minigpt4 report evaluation_results",
        "minigpt4.cli.reporting",
        options.add_report_options,
    ),
    "demo": Command(
        "Make the sample world, train a tiny model on it twice, evaluate, print the table.",
        "minigpt4 demo\n  minigpt4 demo --quick",
        "minigpt4.sample_world.demo",
    ),
    "env": Command(
        "Print versions and devices, for a bug report.",
        "minigpt4 env",
        "minigpt4.cli.environment",
        options.add_no_options,
    ),
}


def overview() -> str:
    """Return what `minigpt4 --help` prints."""
    lines = [f"  {name:8} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: minigpt4 [--help] [--version] COMMAND ...",
            "",
            "Train and evaluate MiniGPT-v2 with the data of MLLM-DataEngine.",
            "",
            *lines,
            "",
            "minigpt4 COMMAND --help shows the options of a command and an example.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command of `argv`, by default that of the command line; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help"):
        print(overview())
        return 0 if argv else USAGE_ERROR
    if name == "--version":
        print(f"minigpt4 {__version__}")
        return 0
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(f"minigpt4: no such command: {name}{did_you_mean(name, COMMANDS)} (there are {known})", file=sys.stderr)
        return USAGE_ERROR
    return COMMANDS[name].run(argv[1:], f"minigpt4 {name}")


def run_script(name: str, script: str, *first: str) -> None:
    """Run a command under the name of a published script, with `first` and the arguments of the command line.

    Raises: SystemExit when the exit code is not 0.
    """
    if code := COMMANDS[name].run([*first, *sys.argv[1:]], script):
        raise SystemExit(code)
