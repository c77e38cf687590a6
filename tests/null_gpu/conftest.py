"""The null GPU and what the drivers found on it: once a session, whatever the number of pytest's workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.null_gpu import shim

Facts = dict[str, Any]
Found = Callable[[str, str], Facts]
SECONDS = 600
"""After which the drivers are taken to hang."""


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of this session that all workers have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "null_gpu"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def null_gpu(shared: Path) -> dict[str, str]:
    """Return the variables of a process that finds the null GPU; skips where there can be none."""
    reason = shim.why_not()
    if reason is not None:
        pytest.skip(reason)
    folder = shared / "library"
    with FileLock(shared / "library.lock"):
        if not (folder / "libcuda.so.1").exists():  # written last
            shim.build(folder)
    return shim.environment(folder)


@pytest.fixture(scope="session")
def ended(null_gpu: dict[str, str], shared: Path) -> dict[str, Facts]:
    """Return how each driver ended: `returncode`, `stderr` and `cases`."""
    folder = shared / "drivers"
    with FileLock(shared / "drivers.lock"):
        if not folder.exists():
            folder.mkdir()
            command = [sys.executable, "-m", "tests.null_gpu.drivers", str(folder)]
            done = subprocess.run(command, env=null_gpu, cwd=shim.ROOT, stderr=subprocess.PIPE, timeout=SECONDS)
            (folder / "stderr").write_bytes(done.stderr)
    said = (folder / "stderr").read_text()
    assert not said, said
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.fixture(scope="session")
def found(ended: dict[str, Facts]) -> Found:
    """Return a function from a driver and a case to the case's facts; fails with what went wrong in it."""

    def facts(driver: str, case: str) -> Facts:
        process = ended[driver]
        if case not in process["cases"]:
            pytest.fail(f"{driver} ended with {process['returncode']} before {case!r}:\n{process['stderr']}")
        if "error" in process["cases"][case]:
            pytest.fail(process["cases"][case]["error"])
        return process["cases"][case]

    return facts
