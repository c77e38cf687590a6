"""Which steps come together."""

from omegaconf import OmegaConf

from minigpt4.common.schema import RunConfig
from minigpt4.runners.spans import spans


def taken(*, start=0, num_steps, **run):
    cfg = OmegaConf.merge(OmegaConf.structured(RunConfig), run)
    return list(spans(cfg, start=start, num_steps=num_steps))


def test_by_default_steps_come_one_by_one_and_an_epoch_ends_on_an_update():
    found = taken(num_steps=10, iters_per_epoch=5, accum_grad_iters=2)
    assert [(s.first, s.last) for s in found] == [(step, step) for step in range(10)]
    assert [s.updates for s in found] == [False, True, False, True, True] * 2
    assert [s.num_accumulated for s in found] == [2, 2, 2, 2, 1] * 2
    assert [s.first for s in found if s.ends_epoch] == [4, 9]


def test_with_a_token_limit_the_steps_of_an_update_come_at_once():
    found = taken(num_steps=10, iters_per_epoch=5, accum_grad_iters=2, max_tokens_per_forward=4096)
    assert [(s.first, s.last) for s in found] == [(0, 1), (2, 3), (4, 4), (5, 6), (7, 8), (9, 9)]
    assert all(s.updates for s in found)
    assert [s.num_accumulated for s in found] == [2, 2, 1] * 2
    assert [s.last for s in found if s.ends_epoch] == [4, 9]


def test_a_resumed_run_goes_on_with_the_next_update():
    assert [s.first for s in taken(start=7, num_steps=10, iters_per_epoch=5, accum_grad_iters=2)] == [7, 8, 9]


def test_logs_and_checkpoints_fall_due_where_a_multiple_is_passed():
    found = taken(num_steps=12, iters_per_epoch=12, accum_grad_iters=4, max_tokens_per_forward=1)
    assert [s.completes(5) for s in found] == [False, True, True]
    assert [s.completes_since_update(6) for s in found] == [False, True, True]
    assert not any(s.completes(None) for s in found)


def test_inside_an_update_nothing_is_saved():
    found = taken(num_steps=6, iters_per_epoch=6, accum_grad_iters=3)
    assert [s.completes_since_update(2) for s in found] == [False, False, True, False, False, True]
