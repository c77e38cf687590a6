"""The options of every command, without anything that imports PyTorch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EVAL_VQA, EVAL_REF = "eval_vqa.py", "eval_ref.py"
USAGE_ERROR = 2
"""The exit code for a wrong command line, as in argparse."""


TRAINED, EVALUATED = ("run", "model", "preprocess", "datasets"), ("run", "model", "preprocess", "evaluation_datasets")
"""The sections of a YAML file that a training and an evaluation read."""


class HelpOptions(argparse.Action):
    """`--help-options [TEXT]`: prints the options of the sections in `const` and ends the command."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        """Print the options and exit."""
        from minigpt4.common.option_help import help_text  # other commands start faster without it

        print(help_text(self.const, "" if values is self.const else values))
        parser.exit()


def add_no_options(parser: argparse.ArgumentParser) -> None:
    """Add no options."""


def add_config_options(parser: argparse.ArgumentParser, sections: tuple[str, ...] = TRAINED) -> None:
    """Add the options that name a YAML file, change its values, and list the options that it may have."""
    parser.add_argument("--cfg-path", required=True, help="a YAML file, or the name of one that the package ships")
    parser.add_argument(
        "--options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="override the YAML file: run.max_epoch=9 model.ckpt=x.pth",
    )
    parser.add_argument(
        "--help-options",
        nargs="?",
        const=sections,
        action=HelpOptions,
        metavar="TEXT",
        help="list the options of the YAML file, all or those with TEXT in their name or help, and exit",
    )


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """Add what `minigpt4 train` and train.py take."""
    add_config_options(parser)
    parser.add_argument(
        "--check", nargs="?", const="quick", choices=("quick", "full"), help="only report what is missing or broken"
    )
    parser.add_argument("--preview", type=int, metavar="N", help="only write preview.html: N samples of each dataset")


def add_check_options(parser: argparse.ArgumentParser) -> None:
    """Add what `minigpt4 check` takes."""
    add_config_options(parser)
    parser.add_argument(
        "--full", dest="check", action="store_const", const="full", default="quick", help="open every image as well"
    )
    parser.set_defaults(preview=None)


def add_preview_options(parser: argparse.ArgumentParser) -> None:
    """Add what `minigpt4 preview` takes."""
    add_config_options(parser)
    parser.add_argument("preview", type=int, metavar="N", help="how many samples of each dataset")
    parser.set_defaults(check=None)


def add_eval_options(parser: argparse.ArgumentParser) -> None:
    """Add what `minigpt4 eval` and eval_ref.py take; eval_vqa.py has no --resample."""
    add_config_options(parser, EVALUATED)
    parser.add_argument("--dataset", help="names from evaluation_datasets, with commas between; default: all of them")
    parser.add_argument(
        "--only",
        choices=("infer", "score"),
        help="infer: write the result files and stop; score: score existing result files without a model",
    )
    parser.add_argument("--ckpt", help="overrides model.ckpt")
    parser.add_argument("--lora_r", type=int, help="overrides model.lora_r")
    parser.add_argument("--lora_alpha", type=int, help="overrides model.lora_alpha")
    parser.add_argument("--batch_size", type=int, help="overrides that of every benchmark")
    parser.add_argument("--max_new_tokens", type=int, help="overrides that of every benchmark")
    if parser.prog != EVAL_VQA:
        parser.add_argument(
            "--resample", action="store_true", help="RefCOCO: sample again where an answer holds no box"
        )


def add_convert_options(parser: argparse.ArgumentParser) -> None:
    """Add the two converters, each with its options."""
    converters = parser.add_subparsers(dest="benchmark", required=True, metavar="seed|mmbench")
    for name, summary, annotation in (
        ("seed", "SEED-Bench accuracy of a result file, by question type", "SEED-Bench-image.json"),
        ("mmbench", "MMBench's sheet for its evaluation server", "mmbench_dev_20230712.tsv"),
    ):
        script = parser.prog if parser.prog.endswith(".py") else None  # each published script is one converter
        one = converters.add_parser(name, prog=script, help=summary, description=summary)
        one.add_argument("--annotation-file", type=Path, required=True, help=annotation)
        one.add_argument("--result-file", type=Path, required=True, help="what `minigpt4 eval` wrote")
        if name == "mmbench":
            one.add_argument("--output-file", type=Path, help="the .xlsx to write")
        one.add_argument("--validate", action="store_true", help="check the result file instead")


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add what `minigpt4 report` takes."""
    parser.add_argument("folder", type=Path, help="output/JOB_ID of a run, or run.save_path of an evaluation")
