"""The order, flags and options that RunnerBase joins its parts by."""

import math
from contextlib import ExitStack, contextmanager

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from tests.runners.in_process import NotFiniteOnce, runner_of
from tests.runners.tiny import DATA, log_lines, tiny_config


@pytest.fixture(autouse=True)
def where_the_data_lie(monkeypatch):
    monkeypatch.chdir(DATA)


@contextmanager
def as_rank(rank):
    """Be one of two ranks; the other one's part of every collective is lacking."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=2)
    try:
        yield
    finally:
        dist.destroy_process_group()


def one_row(tmp_path, **run):
    """Return a config whose every step has the same sample, with dropout."""
    rows = tmp_path / "rows.json"
    rows.write_text('[{"instances": [{"instruction_with_input": "Say yes.", "constraints": null, "output": "yes"}]}]')
    config = tiny_config(max_epoch=1, iters_per_epoch=1, balance_ranks=False, **run)
    config["model"]["lora_dropout"] = 0.5
    config["datasets"] = {"unnatural_instruction": {"build_info": {"ann_path": str(rows)}}}
    return config


def first_loss(runner):
    """Return the loss of the first micro-batch in training mode, on the rank that this process is."""
    with ExitStack() as stack:
        all_updates, *_ = runner._begin(stack)
        runner.model.train()
        return runner.step(next(all_updates)).losses.sum().item()


def test_ranks_draw_other_dropout_masks(tmp_path):
    """All have the same sample and the same weights, and each its own masks."""
    runner = runner_of(tmp_path, one_row(tmp_path))
    losses = []
    for rank in (0, 1, 0):
        with as_rank(rank):
            losses.append(first_loss(runner))
    assert losses[0] == losses[2] != losses[1]


def test_a_loss_that_is_not_finite_is_never_saved(tmp_path):
    """A checkpoint follows every step, a log line only the fiftieth."""
    config = tiny_config(max_epoch=1, iters_per_epoch=3, save_every_steps=1, log_freq=50)
    runner = runner_of(tmp_path, config)
    with torch.no_grad():
        runner.model.projector.linear.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        runner.train()
    assert not list((tmp_path / "out/job").glob("checkpoint*"))


def test_updates_go_on_after_one_is_left_out(tmp_path):
    config = tiny_config(max_epoch=1, iters_per_epoch=4, max_skipped_steps=1)
    runner = runner_of(tmp_path, config, task=NotFiniteOnce())
    assert not runner.train().stopped
    assert {int(state["step"]) for state in runner.state.optimizer.state.values()} == {3}
    assert [line["num_skipped_steps"] for line in log_lines(tmp_path)] == [0, 1, 1, 1]


def test_a_trained_vision_encoder_gets_its_gradient_also_with_look_ahead(tmp_path):
    config = tiny_config(max_epoch=1, iters_per_epoch=1, warmup_steps=0, look_ahead=True)
    config["model"]["freeze_vit"] = False
    config["datasets"] = {"textcaps_caption": {"batch_size": 2}}
    runner = runner_of(tmp_path, config)
    before = {name: weight.detach().clone() for name, weight in runner.model.vision_tower.vit.named_parameters()}
    assert not runner.train().stopped
    changed = [
        name for name, weight in runner.model.vision_tower.vit.named_parameters() if not weight.equal(before[name])
    ]
    assert "patch_embed.proj.weight" in changed
