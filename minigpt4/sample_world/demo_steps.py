"""Runs the demo's commands one after the other, with progress and the time left on the screen."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from minigpt4.common.config import PACKAGE_DIR
from minigpt4.common.tables import as_table
from minigpt4.sample_world.demo_tables import BENCHMARKS

START_SECONDS = 7.0
"""From the start of a command that loads a model to its first line of progress, on two idle cores."""
SAMPLE_SECONDS = 30.0
"""The estimate of the time left trusts the expected seconds for about as long as this."""
POLL_SECONDS, LINE_SECONDS = 0.5, 30.0
"""How often the progress is renewed on a terminal, and how often a file gets a line."""
NUM_LINES_OF_FAILURE = 30
_TRAINED = re.compile(r"\bstep (\d+)/(\d+) ")
_SCORED = re.compile(r"^(\S+): .* of \d+ questions.*\n", re.MULTILINE)
_ANSWERED = re.compile(r" (\S+): (\d+) of (\d+) answered by this process\n")


def share_trained(text: str) -> float:
    """Return the share of steps that a training has done, read from its log lines."""
    found = _TRAINED.findall(text)
    return int(found[-1][0]) / int(found[-1][1]) if found else 0.0


def share_evaluated(text: str) -> float:
    """Return the share of benchmarks that an evaluation has done, read from its lines."""
    scored = set(_SCORED.findall(text)) & set(BENCHMARKS)
    now = [int(done) / int(whole) for name, done, whole in _ANSWERED.findall(text) if name not in scored]
    return (len(scored) + (now[-1] if now else 0.0)) / len(BENCHMARKS)


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the demo, and its seconds on two idle cores.

    `read_share` returns the share of the work that is done, from all that the command has printed.
    """

    title: str
    command: tuple[str, ...]
    seconds: float
    read_share: Callable[[str], float] | None = None

    def share(self, seconds: float, text: str) -> float:
        """Return the share of the step that is done after `seconds`, when it has printed `text`."""
        quiet = 0.95 * self.seconds if self.read_share is None else min(START_SECONDS, self.seconds)
        reported = 0.0 if self.read_share is None else self.read_share(text)
        return (min(seconds, quiet) + reported * (self.seconds - quiet)) / self.seconds


def progress(steps: Sequence[Step], taken: Sequence[float], seconds: float = 0.0, share: float = 0.0) -> str:
    """Return how much of all steps is done and how long the rest takes at the pace so far.

    Args:
        taken: the seconds of each finished step
        seconds: those of the step that runs now
        share: what is done of it
    """
    expected = [step.seconds for step in steps]
    done = sum(expected[: len(taken)]) + share * expected[len(taken)]
    pace = (SAMPLE_SECONDS + sum(taken) + seconds) / (SAMPLE_SECONDS + done)
    left = (sum(expected) - done) * pace
    return f"{100 * done / sum(expected):.0f} % done, about {as_minutes(left)} left"


def as_minutes(seconds: float) -> str:
    """Return seconds as 4:05."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02}"


def times_table(steps: Sequence[Step], taken: Sequence[float]) -> str:
    """Return a table of the time of each step and of all."""
    rows = [(step.title, as_minutes(seconds)) for step, seconds in zip(steps, taken, strict=True)]
    return as_table([("step", "time"), *rows, ("all", as_minutes(sum(taken)))], right=[1])


class StepRunner:
    """Runs steps from the working directory. Their output goes to the file `log`, their progress to `screen`.

    A terminal shows the progress in one line; any other screen gets a line now and then. `taken` has the seconds of
    each finished step.
    """

    def __init__(self, steps: Sequence[Step], log: Path, screen: TextIO = sys.stdout) -> None:
        self.steps, self.log, self.screen = steps, log, screen
        self.taken: list[float] = []
        paths = [str(PACKAGE_DIR.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}

    def run(self) -> dict[str, str]:
        """Run all steps; return what each has printed, by its title.

        Raises: SystemExit when a command fails, after the end of its output is shown.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("", encoding="utf-8")
        printed = {}
        for number, step in enumerate(self.steps, 1):
            self._say(f"\n[{number}/{len(self.steps)}] {step.title} .. {progress(self.steps, self.taken)}")
            self._say(f"$ {shlex.join(step.command)}")
            start = time.monotonic()
            printed[step.title] = self._run(step, start)
            self.taken.append(time.monotonic() - start)
            self._say(f"took {as_minutes(self.taken[-1])}")
        return printed

    def _run(self, step: Step, start: float) -> str:
        words = [{"python": sys.executable}.get(word, word) for word in step.command]
        text, shown_at = "", start
        with self.log.open("a", encoding="utf-8") as log, self.log.open(encoding="utf-8", errors="replace") as reader:
            log.write(f"\n$ {shlex.join(step.command)}\n")
            log.flush()
            reader.seek(0, os.SEEK_END)
            with subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=self._environment) as process:
                while _runs(process):
                    text += reader.read()
                    now = time.monotonic()
                    if self.screen.isatty() or now - shown_at > LINE_SECONDS:
                        self._renew(progress(self.steps, self.taken, now - start, step.share(now - start, text)))
                        shown_at = now
            text += reader.read()
        if process.returncode:
            self._say("\n".join(text.splitlines()[-NUM_LINES_OF_FAILURE:]))
            raise SystemExit(f"failed with status {process.returncode}: {shlex.join(step.command)}; more in {self.log}")
        return text

    def _renew(self, line: str) -> None:
        """Show the progress, on a terminal over the last one."""
        if self.screen.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{line[:width]}", end="", file=self.screen, flush=True)
        else:
            print(line, file=self.screen, flush=True)

    def _say(self, text: str) -> None:
        """Print lines, on a terminal over the progress."""
        print(f"\r\033[K{text}" if self.screen.isatty() else text, file=self.screen, flush=True)


def _runs(process: subprocess.Popen[bytes]) -> bool:
    """Wait a moment for a process; return whether it still runs."""
    try:
        process.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False
