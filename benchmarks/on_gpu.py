"""Measure this project on a GPU, in slices that fit a time budget.

    python benchmarks/on_gpu.py --out DIR --budget 540                      # continues where the last call stopped
    python benchmarks/on_gpu.py --out DIR --only ours "with look_ahead"     # these cases, or groups, again
    python benchmarks/on_gpu.py --out DIR --retry                           # also those that failed or were absent
    python benchmarks/on_gpu.py --out DIR --report                          # Markdown of what there is
    python benchmarks/on_gpu.py --out DIR --size tiny --device cpu          # a dry run

Every case appends one line to DIR/results.jsonl: case, device, versions, commit, settings, seconds, figures, or the
error in one line. Cases of a group share a process, and where they can a model; the next group's process imports while
one measures. What a process prints is in DIR/GROUP.log.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_cases import CASES, GROUPS, IMPORT, SCALE, Case, Group, due, read_results, write_result
from gpu_report import report

ROOT = Path(__file__).resolve().parents[1]
SECONDS_TO_START = 120
LATE = 5
"""Seconds at the end of the budget in which nothing is started."""


class Process:
    """A worker: it imports as soon as it is made, and begins when it is given cases."""

    def __init__(self, group: Group, args: argparse.Namespace) -> None:
        self.group, self.log = group, args.out / f"{group.name}.log"
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        line = [sys.executable, str(Path(__file__).with_name("gpu_worker.py")), args.size, args.device, str(args.out)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*line, str(args.workers), "no-cudnn" if args.no_cudnn else "cudnn", args.commit],
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path, **group.env},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.about: dict[str, Any] = {}
        self.events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.put(json.loads(line))
        self.events.put(None)

    def give(self, cases: Sequence[Case], *, deadline: float) -> None:
        """Have the worker begin."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({"cases": [case.name for case in cases], "deadline": deadline}) + "\n")
            self.process.stdin.close()

    def next_event(self, *, seconds: float) -> dict[str, Any] | None:
        """Return what happens next, None when the worker is gone. Raises: queue.Empty when nothing does in time."""
        return self.events.get(timeout=max(seconds, 0.1))

    def end(self) -> int:
        """End the worker with all that it started; return its exit status."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def last_words(self) -> str:
        """Return the last line of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        stacks = [number for number, line in enumerate(lines) if line.startswith("Current thread")]
        return " ".join(lines[stacks[-1] :][:6] if stacks else lines[-1:])[:600]


def run_group(process: Process, cases: Sequence[Case], args: argparse.Namespace, *, deadline: float) -> list[Case]:
    """Have a worker take cases; return those that remain because it died, which the one it died of does not."""
    process.give(cases, deadline=deadline - LATE)
    left, running, limit = list(cases), None, SECONDS_TO_START
    began = time.time()
    while True:
        try:
            event = process.next_event(seconds=min(began + limit, deadline) - time.time())
        except queue.Empty:
            process.end()
            if time.time() >= deadline - 1:
                _write_failure(process, running or left[0], "the budget ended", args, status="cut")
                return []
            _write_failure(process, running or left[0], f"took longer than {limit:.0f} s", args)
            return _without(left, running or left[0])
        if event is None:
            status = process.end()
            if running is None and not left:
                return []
            if running is None and status == 3:  # CUDA was unusable after a case that is written down
                return left
            _write_failure(process, running or left[0], f"the process ended ({status}): {process.last_words()}", args)
            return _without(left, running or left[0])
        if "about" in event:
            process.about = event["about"]
            continue
        name = next(iter(event.values()))
        case = next(one for one in cases if one.name == name)
        if "begins" in event:
            running, limit, began = case, event["limit"], time.time()
            continue
        took = f"{time.time() - began:6.1f} s" if "ends" in event else "        "
        print(f"{took}  {event.get('status', 'left for the next call'):6}  {name}", flush=True)
        running, left = None, _without(left, case)
        limit, began = SECONDS_TO_START, time.time()


def _without(cases: Sequence[Case], case: Case) -> list[Case]:
    return [one for one in cases if one.name != case.name]


def _write_failure(process: Process, case: Case, why: str, args: argparse.Namespace, *, status: str = "error") -> None:
    print(f"          {status:6}  {case.name}: {why}", flush=True)
    result = {"case": case.name, "group": case.group, "status": status, "error": why, "size": args.size}
    result |= {"settings": {"kind": case.kind, **case.settings}, "commit": args.commit or None, **process.about}
    write_result(args.out, {**result, "time": round(time.time())})


def measure(args: argparse.Namespace) -> None:
    """Run the groups that have cases left, one after the other, until the budget ends."""
    deadline = time.time() + args.budget
    cases = due(args.out, only=args.only, retry=args.retry)
    plan = [(group, [case for case in cases if case.group == group.name]) for group in GROUPS]
    plan = [(group, own) for group, own in plan if own]
    waiting: Process | None = None
    try:
        while plan:
            group, own = plan.pop(0)
            scale = SCALE[args.size]
            least = scale * (IMPORT * (waiting is None) + group.build) + min(case.estimate(args.size) for case in own)
            if time.time() + least > deadline - LATE:
                print(f"                 {group.name}: {len(own)} cases left for the next call", flush=True)
                continue
            if waiting is None or waiting.group is not group:
                if waiting is not None:
                    waiting.end()
                waiting = Process(group, args)
            process, waiting = waiting, Process(plan[0][0], args) if plan and args.standby else None
            remaining = run_group(process, own, args, deadline=deadline)
            if remaining:
                plan.insert(0, (group, remaining))
    finally:
        if waiting is not None:
            waiting.end()


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("on_gpu"), help="folder of results.jsonl and logs")
    parser.add_argument("--budget", type=float, default=540, help="seconds")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cases or groups, to run again")
    parser.add_argument("--retry", action="store_true", help="run again what failed or was not available")
    parser.add_argument("--list", action="store_true", help="name the cases, and whether each has a result")
    parser.add_argument("--report", action="store_true", help="print the results as Markdown, and write results.md")
    parser.add_argument("--size", choices=SCALE, default="real")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, help="that load data; 8 at real size, else none")
    parser.add_argument("--no-cudnn", action="store_true", help="where cuDNN cannot run")
    parser.add_argument("--no-standby", dest="standby", action="store_false", help="import a group when it begins")
    parser.add_argument("--commit", help="of the code, where git does not tell it")
    args = parser.parse_args(argv)
    if args.commit is None:
        asked = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
        with contextlib.suppress(OSError):
            args.commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    args.commit = args.commit or ""
    args.out = args.out.resolve()
    if args.workers is None:
        args.workers = 8 if args.size == "real" else 0
    return args


def main() -> None:
    """Measure, list or report."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.list:
        status = {result["case"]: result["status"] for result in read_results(args.out)}
        for case in CASES:
            print(f"{case.group:10} {case.estimate(args.size):5.0f} s  {status.get(case.name, '-'):7} {case.name}")
        return
    if not args.report:
        measure(args)
    text = report(read_results(args.out))
    (args.out / "results.md").write_text(text, encoding="utf-8")
    if args.report:
        print(text)


if __name__ == "__main__":
    main()
