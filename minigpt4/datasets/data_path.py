"""Where a dataset's files are looked for, and what to tell the user when they are not there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from minigpt4.common.paths import wrong_path


@dataclass(frozen=True)
class DataPath:
    """One file or folder: the paths where it may lie (the first that exists counts), and the YAML key that sets it."""

    key: str
    paths: Sequence[str]
    address: str = ""
    folder: bool = False

    def find(self) -> str | None:
        """Return the first path that is there, or None."""
        exists = os.path.isdir if self.folder else os.path.isfile
        return next((path for path in self.paths if exists(path)), None)

    def problem(self) -> str | None:
        """Return what is wrong, in words for the user, or None."""
        there = next((path for path in self.paths if os.path.lexists(path)), None)
        if there is not None:
            wrong = wrong_path(self.find() or there, folder=self.folder)
            return f"{self.key}: {wrong}" if wrong else None
        kind = "folder" if self.folder else "file"
        where = " or ".join(self.paths) if self.paths else "is set"
        return f"{self.key}: no {kind} {where}" + (f"; to be had from {self.address}" if self.address else "")
