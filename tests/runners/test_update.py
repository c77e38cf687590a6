"""Which steps share an update, and how the loop takes their batches."""

import pytest
import torch
from omegaconf import OmegaConf

from minigpt4.common.schema import RunConfig
from minigpt4.runners.update import DevicePrefetcher, accumulation_windows, steps_at_once, updates
from tests.runners.test_meter import packed

CPU = torch.device("cpu")


def windows(*, start=0, num_steps, **run):
    cfg = OmegaConf.merge(OmegaConf.structured(RunConfig), run)
    return list(accumulation_windows(cfg, start=start, num_steps=num_steps))


def test_by_default_steps_come_one_by_one_and_an_epoch_ends_on_an_update():
    found = windows(num_steps=10, iters_per_epoch=5, accum_grad_iters=2)
    assert [(w.first, w.last) for w in found] == [(0, 1), (2, 3), (4, 4), (5, 6), (7, 8), (9, 9)]
    assert steps_at_once(found) == [1] * 10
    assert [w.num_accumulated for w in found] == [2, 2, 1] * 2
    assert [w.last for w in found if w.ends_epoch] == [4, 9]


def test_with_a_token_limit_the_steps_of_an_update_come_at_once():
    found = windows(num_steps=10, iters_per_epoch=5, accum_grad_iters=2, max_tokens_per_forward=4096)
    assert [(w.first, w.last) for w in found] == [(0, 1), (2, 3), (4, 4), (5, 6), (7, 8), (9, 9)]
    assert steps_at_once(found) == [2, 2, 1] * 2
    assert [w.num_accumulated for w in found] == [2, 2, 1] * 2
    assert [w.last for w in found if w.ends_epoch] == [4, 9]


@pytest.mark.parametrize(("start", "first", "at_once"), [(7, [7, 9], [1, 1, 1]), (6, [6, 7, 9], [1, 1, 1, 1])])
def test_a_resumed_run_continues_with_the_next_update(start, first, at_once):
    """An old checkpoint may lie inside a window, of which the run then takes the rest."""
    found = windows(start=start, num_steps=10, iters_per_epoch=5, accum_grad_iters=2)
    assert [w.first for w in found] == first
    assert steps_at_once(found) == at_once
    assert [w.num_accumulated for w in found] == [2, 2, 1][-len(first) :]


def test_logs_and_checkpoints_fall_due_where_a_multiple_is_passed():
    found = windows(num_steps=12, iters_per_epoch=12, accum_grad_iters=4, max_tokens_per_forward=1)
    assert [w.completed(5) for w in found] == [[], [7], [11]]
    assert [w.completes_since_update(6) for w in found] == [False, True, True]
    assert not any(w.completes_since_update(None) for w in found)


def test_a_log_line_may_fall_due_inside_an_update():
    found = windows(num_steps=6, iters_per_epoch=6, accum_grad_iters=3)
    assert [w.completed(2) for w in found] == [[1], [3, 5]]


def test_inside_an_update_nothing_is_saved():
    found = windows(num_steps=6, iters_per_epoch=6, accum_grad_iters=3)
    assert [w.completes_since_update(2) for w in found] == [True, True]
    assert [w.last + 1 for w in found] == [3, 6]


class Source:
    """Yields an item for each step, and keeps which it yielded."""

    def __init__(self, num_items):
        self.left = list(range(num_items))
        self.fetched = []

    def __iter__(self):
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        self.fetched.append(self.left.pop(0))
        return [packed(str(self.fetched[-1]))]


@pytest.mark.parametrize(("look_ahead", "counts"), [(False, [1, 2, 4]), (True, [1, 3, 4])])
def test_batches_are_fetched_as_they_are_taken_with_look_ahead_one_step_before(look_ahead, counts):
    """Counted when the first update is given, and after the steps of each update."""
    source, seen = Source(4), []
    two = windows(num_steps=4, iters_per_epoch=4, accum_grad_iters=2)
    for update in updates(two, DevicePrefetcher(source, CPU, look_ahead=look_ahead)):
        if update.window.first == 0:
            seen.append(len(source.fetched))
        assert [(step, [p.ids for p in items]) for step, items in update] == [
            (step, [(str(step),)]) for step in (update.window.first, update.window.last)
        ]
        seen.append(len(source.fetched))
    assert seen == counts
    assert source.fetched == [0, 1, 2, 3]
