"""Writes report.html of a training's job folder or an evaluation's folder again.

python -m minigpt4.report output/JOB_ID
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minigpt4.evaluation.report import write_report as write_evaluation_report
from minigpt4.evaluation.results import RESULTS
from minigpt4.reports.metrics_log import METRICS
from minigpt4.reports.run_page import write_run_page


def write_report(folder: Path) -> Path:
    """Write the page of a folder; return its path. Raises: ValueError where the folder is of neither kind."""
    if (folder / METRICS).is_file():
        return write_run_page(folder)
    if (folder / RESULTS).is_file():
        return write_evaluation_report(folder)
    raise ValueError(f"there is no {METRICS} and no {RESULTS} in {folder}")


def main() -> None:
    """Write the page of a folder and print its path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder with metrics.jsonl or results.json")
    try:
        print(write_report(parser.parse_args().folder.resolve()))
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
