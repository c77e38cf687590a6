"""MMBench's sheet for its evaluation server, from a result file.

python eval_scripts/convert_mmbench_for_submission.py \
    --annotation-file evaluation_dataset/mmbench/mmbench_dev_20230712.tsv \
    --result-file evaluation_results/mmbench.jsonl --output-file evaluation_results/mmbench.xlsx
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from minigpt4.evaluation import validation
from minigpt4.evaluation.submissions import mmbench_table, read_mmbench, remarks
from minigpt4.evaluation.tables import write_sheet


def main() -> int:
    """Write the sheet, or with --validate print what was checked; return 1 where the file cannot be submitted."""
    parser = argparse.ArgumentParser(description="MMBench's sheet for its evaluation server")
    parser.add_argument("--annotation-file", type=Path, required=True, help="mmbench_dev_20230712.tsv")
    parser.add_argument("--result-file", type=Path, required=True, help="mmbench.jsonl of eval_vqa.py, or a sheet")
    parser.add_argument("--output-file", type=Path, help="the .xlsx to write")
    parser.add_argument("--validate", action="store_true", help="check the result file instead of writing the sheet")
    args = parser.parse_args()
    if args.output_file is None and not args.validate:
        parser.error("the following arguments are required: --output-file (or --validate)")
    try:
        table = read_mmbench(args.annotation_file, as_text=args.validate)
        asked = validation.mmbench_asked(table, str(args.annotation_file)) if args.validate else {}
        results, columns = validation.read_answers(args.result_file)
    except ValueError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
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


if __name__ == "__main__":
    sys.exit(main())
