"""The loop's own work between two log lines asks the device for nothing."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from minigpt4.common.config import Config
from minigpt4.datasets.mixture import MixtureDataset, MixtureSampler
from minigpt4.runners.gradients import add_gradients
from minigpt4.runners.loader import ingredients_of
from minigpt4.runners.meter import Meter
from minigpt4.runners.runner_base import RunnerBase
from minigpt4.runners.spans import spans
from minigpt4.tasks import setup_task
from tests.runners.tiny import DATA, tiny_config, write_config

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
    run = {"accum_grad_iters": 2, "iters_per_epoch": 6, "max_epoch": 1, "output_dir": str(tmp_path)}
    cfg = Config.load(write_config(tmp_path, tiny_config(**run, max_tokens_per_forward=max_tokens)))
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg, torch.device("cpu"))
    runner = RunnerBase(cfg=cfg, task=task, model=model, datasets=datasets, job_id="job")
    train = {name: sets["train"] for name, sets in datasets.items()}
    ingredients = ingredients_of(train, cfg.datasets_cfg, model.chat_encoder)
    together = [span.num_steps for span in spans(cfg.run_cfg, start=0, num_steps=6)]
    steps = MixtureSampler(ingredients, num_steps=6, seed=0, together=together)
    items = [runner._feeder().send(parts) for parts in runner.loader(MixtureDataset(train, seed=0), steps)]
    names = [one.name for one in ingredients]
    meter = Meter(num_steps=6, max_bad_samples=0, names=names, chosen=steps.choices)
    num_forwards = sum(map(len, items))
    with Recorder() as recorder:
        for span, sent in zip(spans(cfg.run_cfg, start=0, num_steps=6), items, strict=True):
            losses, seconds = add_gradients(runner, span, sent)
            if span.updates:
                runner._update(span.last)
            meter.add(range(span.first, span.last + 1), losses, [one for one, _ in sent], own_seconds=seconds)
    assert recorder.asked == {"_local_scalar_dense": num_forwards - 1}
    assert meter.flush(5, device=torch.device("cpu"))["loss"] > 0
