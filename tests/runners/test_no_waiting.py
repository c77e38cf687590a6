"""The loop's own work between two log lines asks the device for nothing."""

from collections import Counter
from contextlib import ExitStack

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minigpt4.runners.update import DevicePrefetcher, accumulation_windows, steps_at_once, updates
from tests.runners.in_process import runner_of
from tests.runners.tiny import DATA, tiny_config

ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")
"""Operators whose result the host must see; `.item()`, `float()`, `if tensor:` are the first of them."""


class Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.asked = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::").rstrip("0123456789")
        if name in ASKING:
            self.asked[name] += 1
        return func(*args, **(kwargs or {}))


def test_the_recorder_sees_what_asks():
    with Recorder() as recorder:
        float(torch.ones(()))
        torch.ones(2).nonzero()
    assert recorder.asked == {"_local_scalar_dense": 1, "nonzero": 1}


@pytest.mark.parametrize("max_tokens", [None, 150])
def test_steps_ask_only_for_the_loss_of_the_forward_before(tmp_path, monkeypatch, max_tokens):
    """That loss is on its way to the host since then: the guard's event says when it is there."""
    monkeypatch.chdir(DATA)
    run = {"accum_grad_iters": 2, "iters_per_epoch": 12, "max_epoch": 1, "log_freq": 50, "max_grad_norm": 0.5}
    runner = runner_of(tmp_path, tiny_config(**run, max_tokens_per_forward=max_tokens))
    windows = list(accumulation_windows(runner.run, start=0, num_steps=6))
    with ExitStack() as stack:
        _, meter, _ = runner._begin(stack)
        items = list(meter.source)[: len(steps_at_once(windows))]
        num_forwards = sum(map(len, items))
        with Recorder() as recorded:
            for update in updates(windows, DevicePrefetcher(iter(items), torch.device("cpu"))):
                result = runner.step(update)
                norm = runner.state.advance(update.window.num_steps, lr=1e-3, is_finite=result.is_finite)
                assert meter.record(update.window, result, norm) == []
        assert recorded.asked == {"_local_scalar_dense": num_forwards - 1}
        [figures] = meter.flush([5])
    assert figures["loss"] > 0 and figures["grad_norm"] > 0
