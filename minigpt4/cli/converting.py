"""`minigpt4 convert seed` and `minigpt4 convert mmbench`."""

from __future__ import annotations

import argparse
import sys

from minigpt4.cli.options import USAGE_ERROR
from minigpt4.evaluation import validation
from minigpt4.evaluation.seed_annotation import read_seed
from minigpt4.evaluation.submissions import mmbench_table, read_mmbench, read_results, remarks, seed_report
from minigpt4.evaluation.tables import write_sheet


def run(args: argparse.Namespace, prog: str) -> int:
    """Convert a result file, or check it; return 1 where it cannot be submitted, 2 where a file cannot be read."""
    try:
        return {"seed": convert_seed, "mmbench": convert_mmbench}[args.benchmark](args)
    except ValueError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return USAGE_ERROR


def convert_seed(args: argparse.Namespace) -> int:
    """Print SEED-Bench's accuracies, or with --validate what was checked. Raises: ValueError for a file's mistakes."""
    annotation, results = read_seed(args.annotation_file), read_results(args.result_file)
    asked = validation.seed_asked(annotation)
    if args.validate:
        problems = validation.check_answers(asked, results, by_first_letter=True)
        print("\n".join([*validation.report(results, asked, problems), *seed_report(annotation, results)[-2:]]))
        return 0 if validation.is_fit(problems) else 1
    for remark in remarks(list(asked), results):
        print(f"{args.result_file}: {remark}", file=sys.stderr)
    print("\n".join(seed_report(annotation, results)))
    return 0


def convert_mmbench(args: argparse.Namespace) -> int:
    """Write MMBench's sheet, or with --validate print what was checked. Raises: ValueError for a file's mistakes."""
    if args.output_file is None and not args.validate:
        raise ValueError("the following arguments are required: --output-file (or --validate)")
    table = read_mmbench(args.annotation_file, as_text=args.validate)
    asked = validation.mmbench_asked(table, str(args.annotation_file)) if args.validate else {}
    results, columns = validation.read_answers(args.result_file)
    if args.validate:
        problems = validation.check_answers(asked, results, by_first_letter=False)
        problems |= validation.check_columns(columns, table.columns) if columns else {}
        print("\n".join([*validation.report(results, asked, problems), *validation.accuracy_lines(asked, results)]))
        return 0 if validation.is_fit(problems) else 1
    notes = remarks([str(index) for index in table["index"]], results)
    num_changed = write_sheet(mmbench_table(table, results), args.output_file, "the mmbench converter")
    if num_changed:
        notes.append(f"{num_changed} cells lost characters that a sheet cannot hold")
    for note in notes:
        print(f"{args.result_file}: {note}", file=sys.stderr)
    return 0
