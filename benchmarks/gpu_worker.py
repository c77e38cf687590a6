"""The process of a group of cases: imports, waits for its orders, takes the cases, appends each result at once.

It reads one JSON line, {"cases": [..], "deadline": seconds since 1970}, and writes one as each case begins and ends.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib.util
import json
import os
import platform
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from gpu_cases import CASES, GROUPS, SCALE, Case, write_result
from gpu_training import NotAvailable, Trainings, published

PACKAGES = ("torch", "transformers", "timm", "peft")
POISONED = 3
"""The exit status after an error that leaves CUDA unusable for this process."""


class Worker:
    """Takes cases on one device, keeping the models that they share."""

    def __init__(self, *, size: str, device: str, out: Path, workers: int, commit: str = "") -> None:
        self.size, self.device, self.out, self.workers = size, torch.device(device), out, workers
        self.commit = commit or None
        self._trainings: Trainings | None = None
        self._answers: Any = None

    def run(self, case: Case) -> dict[str, Any]:
        """Take a case, append its result, and return it; whatever it dies of is written down."""
        began = time.perf_counter()
        result: dict[str, Any] = {"case": case.name, "group": case.group, "status": "ok"}
        try:
            result["figures"] = self._figures(case)
        except NotAvailable as error:
            result |= {"status": "absent", "error": f"not available: {error}"}
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split())[:600]
            where = f"{Path(place.filename).name}:{place.lineno}"
            result |= {"status": "error", "error": f"{type(error).__name__}: {text} ({where})"}
            traceback.print_exc()
        gc.collect()
        result |= {"seconds": round(time.perf_counter() - began, 1), "size": self.size}
        result |= {"settings": {"kind": case.kind, **case.settings}, "commit": self.commit, **about(self.device)}
        write_result(self.out, result)
        return result

    def _figures(self, case: Case) -> dict[str, Any]:
        settings, device = dict(case.settings), self.device
        torch.backends.cuda.enable_cudnn_sdp(bool(settings.get("cudnn", False)))
        if case.kind in ("ceiling", "attention", "parts", "golden", "golden_answers"):
            return self._numbers(case.kind, settings)
        if case.kind == "published":
            return published(self.size, device, self.workers)
        if case.kind in ("evaluation", "decoding"):
            if self._answers is None:
                from gpu_answers import Answers

                self._answers = Answers(self.size, device)
            found: dict[str, Any] = getattr(self._answers, case.kind)(settings)
            return found
        if self._trainings is None:
            self._trainings = Trainings(self.size, device, workers=self.workers)
        if case.kind == "profile":
            from gpu_profile import profiled

            return profiled(self._trainings, settings)
        if case.kind == "host_alone":
            return self._trainings.host_alone()
        return self._trainings.same(settings) if case.kind == "same" else self._trainings.measure(settings)

    def _numbers(self, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
        import gpu_numerics
        from gpu_profile import ceiling

        if kind == "golden":
            if settings.get("bits") and importlib.util.find_spec("bitsandbytes") is None:
                raise NotAvailable("bitsandbytes is not installed")
            return gpu_numerics.golden(self.device, **settings)
        if kind == "golden_answers":
            return gpu_numerics.golden_answers(self.device)
        return {"ceiling": ceiling, "attention": gpu_numerics.attention, "parts": gpu_numerics.parts}[kind](
            self.device, self.size
        )


def about(device: torch.device) -> dict[str, Any]:
    """Return what every result says of where it was taken."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    versions: dict[str, Any] = {package: metadata.version(package) for package in PACKAGES}
    versions |= {"python": platform.python_version(), "cuda": torch.version.cuda}
    cudnn = torch.backends.cudnn.version() if device.type == "cuda" and torch.backends.cudnn.enabled else None
    return {
        "device": name,
        "versions": {**versions, "cudnn": cudnn},
        "time": round(time.time()),
    }


def main() -> None:
    """Take the orders and carry them out."""
    size, device, out, workers, cudnn, commit = sys.argv[1:]
    faulthandler.enable()
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no event
    torch.backends.cudnn.enabled = cudnn == "cudnn"
    orders = json.loads(sys.stdin.readline() or '{"cases": []}')
    worker = Worker(size=size, device=device, out=Path(out), workers=int(workers), commit=commit)
    by_name = {case.name: case for case in CASES}
    print(json.dumps({"about": about(worker.device)}), file=events)
    build = next(
        (group.build for group in GROUPS for name in orders["cases"][:1] if by_name[name].group == group.name), 0
    )
    for name in orders["cases"]:
        case = by_name[name]
        left = orders["deadline"] - time.time()
        if case.estimate(size) + build * SCALE[size] > left:
            print(json.dumps({"leaves": name}), file=events)
            continue
        print(json.dumps({"begins": name, "limit": case.limit(size) + 3 * build}), file=events)
        build = 0
        result = worker.run(case)
        print(json.dumps({"ends": name, "status": result["status"]}), file=events)
        if "CUDA error" in result.get("error", "") or "AcceleratorError" in result.get("error", ""):
            os._exit(POISONED)
    events.close()
    sys.stderr.flush()
    os._exit(0)  # without taking apart what the process holds, which takes seconds


if __name__ == "__main__":
    main()
