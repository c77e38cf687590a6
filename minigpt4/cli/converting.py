"""`minigpt4 convert seed` and `minigpt4 convert mmbench`."""

from __future__ import annotations

import argparse
import sys

from minigpt4.cli.options import USAGE_ERROR
from minigpt4.evaluation import submissions
from minigpt4.evaluation.benchmarks.choice import MMBench, SeedBench, read_seed, seed_questions
from minigpt4.evaluation.submissions import read_answers, read_results
from minigpt4.evaluation.tables import read_tsv, write_sheet


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
    questions, lines = seed_questions(annotation), submissions.seed_report(annotation, results)
    if args.validate:
        problems = submissions.check_answers(SeedBench(name="seed"), questions, results)
        print("\n".join([*submissions.report(results, questions, problems), *lines[-2:]]))
        return 0 if submissions.is_fit(problems) else 1
    for remark in submissions.remarks([str(question.id) for question in questions], results):
        print(f"{args.result_file}: {remark}", file=sys.stderr)
    print("\n".join(lines))
    return 0


def convert_mmbench(args: argparse.Namespace) -> int:
    """Write MMBench's sheet, or with --validate print what was checked. Raises: ValueError for a file's mistakes."""
    if args.output_file is None and not args.validate:
        raise ValueError("the following arguments are required: --output-file (or --validate)")
    table = read_tsv(args.annotation_file, "the mmbench converter", as_text=args.validate)
    questions = submissions.mmbench_questions(table, str(args.annotation_file)) if args.validate else []
    results, columns = read_answers(args.result_file)
    if args.validate:
        problems = submissions.check_answers(MMBench(name="mmbench"), questions, results)
        problems |= submissions.check_columns(columns, table.columns) if columns else {}
        accuracy = submissions.accuracy_lines(questions, results)
        print("\n".join([*submissions.report(results, questions, problems), *accuracy]))
        return 0 if submissions.is_fit(problems) else 1
    notes = submissions.remarks([str(index) for index in table["index"]], results)
    sheet = submissions.mmbench_table(table, results)
    num_changed = write_sheet(sheet, args.output_file, "the mmbench converter")
    if num_changed:
        notes.append(f"{num_changed} cells lost characters that a sheet cannot hold")
    for note in notes:
        print(f"{args.result_file}: {note}", file=sys.stderr)
    return 0
