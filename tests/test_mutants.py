"""The tests notice faults: each mutant of tests/mutants.py makes its test fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import MUTANTS

ROOT = Path(__file__).parents[1]
FAILED = 1
"""pytest's exit code when tests ran and some failed; a test that cannot be collected has another one."""
by_name = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


@by_name
def test_the_line_of_a_mutant_occurs_once_and_its_test_exists(mutant):
    assert (ROOT / "minigpt4" / mutant.file).read_text().count(mutant.line) == 1
    path, name = mutant.test.split("::")
    assert f"def {name}(" in (ROOT / path).read_text()


def run(folder, *tests):
    """Run tests on the package in a folder; return pytest's exit code and output."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """Return a folder with a copy of the package, beside links to all that a test needs; all tests pass there."""
    folder = tmp_path_factory.mktemp("copied")
    for path in ROOT.iterdir():
        if path.name in ("tests", "train.py", "pyproject.toml", "train_configs", "eval_configs", "benchmarks", "tools"):
            (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / "minigpt4", folder / "minigpt4", ignore=shutil.ignore_patterns("__pycache__"))
    code, said = run(folder, *dict.fromkeys(mutant.test for mutant in MUTANTS))
    assert code == 0, said
    return folder


@pytest.mark.slow
@by_name
def test_a_mutant_makes_its_test_fail(copied, mutant):
    path = copied / "minigpt4" / mutant.file
    sound = path.read_text()
    path.write_text(sound.replace(mutant.line, mutant.fault))
    try:
        code, said = run(copied, mutant.test)
    finally:
        path.write_text(sound)
    assert code == FAILED, said
