"""What the driver processes share: they run named cases and print one JSON line for each."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from tests.null_gpu import counters

Facts = dict[str, Any]


def run_cases(cases: Mapping[str, Callable[[], Facts]]) -> None:
    """Run the cases named on the command line, or all; print each one's facts, or as `error` how it failed."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    for name in sys.argv[1:] or cases:
        began = time.perf_counter()
        try:
            facts = cases[name]()
        except (Exception, SystemExit):
            facts = {"error": traceback.format_exc()}
        facts["seconds"] = round(time.perf_counter() - began, 2)
        print(json.dumps({"case": name, **facts}), file=lines, flush=True)
        gc.collect()
        torch.cuda.empty_cache()


@contextlib.contextmanager
def counted(facts: Facts) -> Iterator[None]:
    """Put the launches and waits of its context into `facts`."""
    launches, waits = counters.launches(), counters.waits()
    yield
    facts["launches"] = counters.launches() - launches
    facts["waits"] = dict(counters.waits() - waits)
