import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from minigpt4.common.optims import build_schedule
from minigpt4.common.schema import RunConfig

RECORDED = json.loads((Path(__file__).parents[1] / "golden/model/lr_schedules.json").read_text())
KINDS = {"cosine": "linear_warmup_cosine_lr", "step": "linear_warmup_step_lr"}
# The reference counts warm-up inside each epoch, so these two fall back at every epoch; ours counts global steps.
WARMUP_LONGER_THAN_AN_EPOCH = {"cosine_warmup_exceeds_epoch", "step_warmup_exceeds_epoch"}


def schedule(name):
    kwargs = dict(RECORDED[name]["kwargs"])
    kwargs.setdefault("iters_per_epoch", 20)
    kwargs["warmup_lr"] = kwargs.pop("warmup_start_lr", None)
    kwargs["lr_decay_rate"] = kwargs.pop("decay_rate", None)
    kwargs["lr_sched"] = KINDS[name.split("_")[0]]
    return OmegaConf.merge(OmegaConf.structured(RunConfig), {"warmup_steps": 0, **kwargs})


@pytest.mark.parametrize("name", [n for n, r in RECORDED.items() if n.split("_")[0] in KINDS and "points" in r])
def test_learning_rates_equal_the_recorded_grid(name):
    run_cfg = schedule(name)
    lr = build_schedule(run_cfg)
    points = [p for p in RECORDED[name]["points"] if name not in WARMUP_LONGER_THAN_AN_EPOCH or p[0] == 0]
    assert len(points) >= 9
    for epoch, step, expected in points:
        if isinstance(expected, str):  # the reference raises without a decay rate; ours does not decay then
            expected = run_cfg.init_lr
        assert lr(epoch * run_cfg.iters_per_epoch + step) == pytest.approx(expected, rel=1e-12), (epoch, step)


def test_warm_up_continues_after_the_end_of_an_epoch():
    run_cfg = schedule("cosine_warmup_exceeds_epoch")
    lr = build_schedule(run_cfg)
    assert run_cfg.warmup_steps == 32 > run_cfg.iters_per_epoch == 20
    assert lr(19) < lr(20) < lr(31) < 1e-3
    assert lr(16) == pytest.approx(1e-4 + 9e-4 / 2)


def test_an_unknown_schedule_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'linear_warmup_cosine_lr'"):
        build_schedule(OmegaConf.create({"lr_sched": "linear_warmup_cosin_lr"}))
