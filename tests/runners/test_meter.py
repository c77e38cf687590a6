from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from omegaconf import OmegaConf
from torch.testing._internal.distributed.fake_pg import FakeStore

from minigpt4.conversation.conversation import Batch
from minigpt4.runners.loader import BatchSource, PackedBatch, SkippedSample
from minigpt4.runners.meter import Meter
from minigpt4.runners.train_step import LossGuard, StepResult
from minigpt4.runners.update import AccumulationWindow

CPU = torch.device("cpu")


def packed(*ids, bad=(), too_long=()):
    none = torch.zeros(4, dtype=torch.int64)
    batch = Batch(images=torch.zeros(0, 3, 1, 1), input_ids=none, labels=none, position_ids=none, lengths=none[:1])
    skipped = [SkippedSample("gqa", reason) for reason in bad]
    skipped += [SkippedSample("coco", reason, too_long=True) for reason in too_long]
    return PackedBatch(batch=batch, ids=ids, micro_batch_ids=none, skipped=tuple(skipped))


def meter(*items, max_bad_samples=0, names=("gqa", "coco"), chosen=((0,), (1,), (1,)), **options):
    """Return a meter whose source has items, each of one packed batch."""
    source = BatchSource([[item] for item in items], max_bad_samples=max_bad_samples)
    run_cfg = OmegaConf.create({"max_epoch": 2, "iters_per_epoch": 5, "log_freq": 2})
    how = {"guard": LossGuard(Path("unused"), max_skipped_steps=0), "learning_rate": lambda step: 0.1 * step}
    return Meter(run_cfg, names=names, chosen=chosen, source=source, device=CPU, **how, **options)


def result(*losses, num_samples=1, seconds=0.1):
    """Return what an update of one step a loss gives."""
    return StepResult(
        losses=torch.tensor(losses)[:, None],
        is_finite=True,
        compute_seconds=seconds,
        num_samples=num_samples,
        num_tokens=4,
        flops=0.0,
    )


def test_figures_are_means_since_the_last_line():
    one = meter()
    one.add(0, result(1.0))
    one.add(1, result(2.0))
    [figures] = one.flush([1])
    assert figures["loss"] == 1.5
    assert figures["loss_by_dataset"] == {"coco": 2.0, "gqa": 1.0}
    one.add(2, result(5.0))
    assert one.flush([2])[0]["loss_by_dataset"] == {"coco": 5.0}


def test_a_line_inside_an_update_has_the_losses_up_to_its_step():
    one = meter(chosen=[(0,), (0,), (1,), (1,)])
    one.add(0, result(1.0, 2.0, 3.0))
    lines = one.flush([0, 1])
    assert [line["loss"] for line in lines] == [1.0, 2.0]
    assert lines[0]["samples_per_s"] == lines[1]["samples_per_s"] > 0
    one.add(3, result(5.0))
    [figures] = one.flush([3])
    assert (figures["loss"], figures["loss_by_dataset"]) == (4.0, {"coco": 4.0})


def test_the_gradient_norm_is_the_mean_of_those_that_are_finite():
    one = meter()
    for step, norm in enumerate((torch.tensor(1.0), torch.tensor(float("inf")), torch.tensor(2.0))):
        one.add(step, result(1.0), norm)
    assert one.flush([2])[0]["grad_norm"] == 1.5


@pytest.mark.parametrize(
    ("first", "last", "how", "steps"),
    [
        (0, 0, {}, []),
        (1, 1, {}, [1]),
        (0, 2, {}, [1]),
        (0, 3, {}, [1, 3]),
        (4, 4, {"ends_epoch": True}, [4]),
        (5, 5, {"ends_epoch": True}, [5]),
        (0, 3, {"is_packed": True}, [3]),
    ],
)
def test_a_line_is_due_every_second_step_and_at_the_end_of_an_epoch(first, last, how, steps):
    one = meter(chosen=[(0,)] * 6)
    window = AccumulationWindow(first=first, last=last, num_accumulated=last + 1 - first, **how)
    lines = one.record(window, result(*[1.0] * window.num_steps), torch.tensor(1.0))
    assert [line["step"] for line in lines] == steps
    assert [(line["epoch"], line["lr"]) for line in lines] == [(step // 5, 0.1 * step) for step in steps]


def test_a_line_is_due_when_a_signal_stops_the_run():
    window = AccumulationWindow(first=0, last=0, num_accumulated=1)
    assert [line["step"] for line in meter().record(window, result(1.0), None, stopped=True)] == [0]


def test_without_an_update_there_is_no_gradient_norm():
    one = meter()
    one.add(0, result(1.0), None)
    assert one.flush([0])[0]["grad_norm"] is None


def test_bad_samples_are_counted_by_dataset_and_over_the_tolerance_an_error():
    one = meter(packed("a", bad=("gqa[1]: broken",)), packed("b", bad=("gqa[2]: broken too",)), max_bad_samples=1)
    next(one.source)
    one.add(0, result(1.0))
    assert one.flush([0])[0]["num_bad_samples"] == {"gqa": 1}
    with pytest.raises(ValueError, match=r"2 bad samples where run\.max_bad_samples allows 1; the last: gqa\[2\]"):
        next(one.source)


def test_a_sample_that_is_too_long_is_counted_but_not_held_against_the_data():
    one = meter(packed("a", too_long=("coco[7]: too long",)))
    next(one.source)
    one.add(0, result(1.0))
    [figures] = one.flush([0])
    assert (figures["num_too_long"], figures["num_bad_samples"]) == ({"coco": 1}, {})


def test_what_streams_skip_is_counted_by_dataset():
    class Stream:
        num_skipped = 3

    one = meter(names=["gqa", "laion"], chosen=[[1]], streams={"laion": Stream(), "cc": Stream()})
    Stream.num_skipped = 4
    one.add(0, result(1.0))
    assert one.flush([0])[0]["num_skipped_in_streams"] == {"laion": 4, "cc": 4}


def test_the_share_of_waiting_for_data_is_the_mean_over_the_ranks():
    """The other one of two ranks is lacking here, so its waiting counts as none."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        one = meter(packed("a"), names=["gqa"], chosen=[[0, 0]])
        next(one.source)
        one.add(0, StepResult(**{**as_dict(result(1.0)), "losses": torch.ones(1, 2)}))
        waited = one.source.seconds_waited
        [figures] = one.flush([0])
    finally:
        dist.destroy_process_group()
    seconds = 1 / figures["samples_per_s"]
    assert figures["data_wait"] == pytest.approx(waited / seconds / 2)


def as_dict(given):
    return {name: getattr(given, name) for name in StepResult.__slots__}
