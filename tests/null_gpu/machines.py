"""Drivers: other machines than one with an H100; each takes its variables before it asks for a GPU."""

from __future__ import annotations

import os
from unittest import mock

import torch

from minigpt4.common.config import Config
from minigpt4.common.dist_utils import autocast_dtype
from tests.null_gpu import stand_ins
from tests.null_gpu.driver import Facts, run_cases
from tests.null_gpu.training import CONFIG, train


def old_gpu() -> None:
    """Run the cases of a GPU that has no bfloat16."""
    os.environ["NULL_SM"] = "75"
    stand_ins.install()
    run_cases({"bfloat16": _autocast})


def second_gpu() -> None:
    """Run the cases of a process that is given the second of two GPUs."""
    os.environ["NULL_DEVICES"] = "2"
    stand_ins.install()
    run_cases({"cuda:1": _events})


def _autocast() -> Facts:
    return {"dtype": str(autocast_dtype(Config.load(CONFIG).run_cfg, torch.device("cuda")))}


def _events() -> Facts:
    """Train on the second GPU; return where events were recorded."""
    record, places = torch.cuda.Event.record, set()

    def noted(event: torch.cuda.Event, stream: torch.cuda.Stream | None = None) -> None:
        record(event, stream)
        places.add(str(event.device))

    with mock.patch.object(torch.cuda.Event, "record", noted):
        facts = train("run.device=cuda:1")
    return {**facts, "events": sorted(places)}
