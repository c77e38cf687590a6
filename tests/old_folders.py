"""Copies of the folders that an earlier version wrote, in a workspace where today's code can continue them."""

import shutil
from pathlib import Path

from tools.make_old_run import workspace

ROOT = Path(__file__).parents[1]
OLD = ROOT / "tests/golden/old_run"


def copy_of_old(folder):
    """Make a folder with the data, the model, the configs and the old folders; return it."""
    workspace(folder, ROOT / "tests/golden")
    for name in ("output", "evaluation_results"):
        shutil.copytree(OLD / name, folder / name)
    return folder
