"""SEED-Bench accuracy of a result file, by question type.

python eval_scripts/convert_seed_for_submission_minigpt4.py \
    --annotation-file evaluation_dataset/seed/SEED-Bench-image.json --result-file evaluation_results/seed.jsonl
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minigpt4.evaluation import validation
from minigpt4.evaluation.seed_annotation import read_seed
from minigpt4.evaluation.submissions import read_results, remarks, seed_report


def main() -> int:
    """Print the accuracies, or with --validate what was checked; return 1 where the file cannot be submitted."""
    parser = argparse.ArgumentParser(description="SEED-Bench accuracy of a result file, by question type")
    parser.add_argument("--annotation-file", type=Path, required=True, help="SEED-Bench-image.json")
    parser.add_argument("--result-file", type=Path, required=True, help="seed.jsonl, as eval_vqa.py writes it")
    parser.add_argument("--validate", action="store_true", help="check the result file instead")
    args = parser.parse_args()
    try:
        annotation, results = read_seed(args.annotation_file), read_results(args.result_file)
    except ValueError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    asked = validation.seed_asked(annotation)
    if args.validate:
        problems = validation.check_answers(asked, results, by_first_letter=True)
        print("\n".join([*validation.report(results, asked, problems), *seed_report(annotation, results)[-2:]]))
        return 0 if validation.is_fit(problems) else 1
    for remark in remarks(list(asked), results):
        print(f"{args.result_file}: {remark}", file=sys.stderr)
    print("\n".join(seed_report(annotation, results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
