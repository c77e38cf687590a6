"""`minigpt4 report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from minigpt4.common.user_errors import plain_errors
from minigpt4.evaluation.report import write_report as write_evaluation_report
from minigpt4.evaluation.results import RESULTS
from minigpt4.reports.metrics_log import METRICS
from minigpt4.reports.run_page import write_run_page


def run(args: argparse.Namespace, prog: str) -> int:
    """Write report.html of a run or of an evaluation. Raises: SystemExit where the folder is neither."""
    with plain_errors(prog):
        print("wrote", write_report(args.folder))
    return 0


def write_report(folder: Path) -> Path:
    """Return the page that was written. Raises: ValueError where the folder is neither a run's nor an evaluation's."""
    if (folder / METRICS).is_file():
        return write_run_page(folder)
    if (folder / RESULTS).is_file():
        return write_evaluation_report(folder)
    raise ValueError(f"{folder} has neither {METRICS}, as the folder of a run, nor {RESULTS}, as that of an evaluation")
