import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from minigpt4.conversation.conversation import Batch
from minigpt4.runners.loader import LeftOut, Loaded
from minigpt4.runners.meter import Meter

CPU = torch.device("cpu")


def loaded(*ids, bad=()):
    none = torch.zeros(4, dtype=torch.int64)
    batch = Batch(images=torch.zeros(0, 3, 1, 1), input_ids=none, labels=none, position_ids=none, lengths=none[:1])
    left_out = tuple(LeftOut("gqa", reason) for reason in bad)
    return Loaded(batch=batch, ids=ids, groups=none[: len(ids)], num_targets=none[: len(ids)], left_out=left_out)


def meter(max_bad_samples=0):
    return Meter(num_steps=10, max_bad_samples=max_bad_samples, names=["gqa", "coco"], chosen=[[0], [1], [1]])


def add(one, step, loss, batch):
    one.add([step], torch.tensor([[loss]]), [batch], own_seconds=0.1)


def test_figures_are_means_since_the_last_line():
    one = meter()
    add(one, 0, 1.0, loaded("a", "b"))
    add(one, 1, 2.0, loaded("c"))
    figures = one.flush(1, device=CPU)
    assert figures["loss"] == 1.5
    assert figures["loss_by_dataset"] == {"coco": 2.0, "gqa": 1.0}
    add(one, 2, 5.0, loaded("d"))
    assert one.flush(2, device=CPU)["loss_by_dataset"] == {"coco": 5.0}


def test_bad_samples_are_counted_by_dataset_and_over_the_tolerance_an_error():
    one = meter(max_bad_samples=1)
    batches = iter([[loaded("a", bad=("gqa[1]: broken",))], [loaded("b", bad=("gqa[2]: broken too",))]])
    one.fetch(batches)
    add(one, 0, 1.0, loaded("a"))
    assert one.flush(0, device=CPU)["num_bad_samples"] == {"gqa": 1}
    with pytest.raises(ValueError, match=r"2 bad samples where run\.max_bad_samples allows 1; the last: gqa\[2\]"):
        one.fetch(batches)


def test_a_sample_that_is_too_long_is_counted_but_not_held_against_the_data():
    one = meter()
    too_long = Loaded(**{**as_dict(loaded("a")), "left_out": (LeftOut("coco", "coco[7]: too long", too_long=True),)})
    one.fetch(iter([[too_long]]))
    add(one, 0, 1.0, too_long)
    figures = one.flush(0, device=CPU)
    assert (figures["num_too_long"], figures["num_bad_samples"]) == ({"coco": 1}, {})


def as_dict(item):
    return {name: getattr(item, name) for name in ("batch", "ids", "groups", "num_targets", "left_out")}


def test_what_streams_skip_is_counted_by_dataset():
    class Stream:
        num_skipped = 3

    one = Meter(
        num_steps=10,
        max_bad_samples=0,
        names=["gqa", "laion"],
        chosen=[[1]],
        streams={"laion": Stream(), "cc": Stream()},
    )
    Stream.num_skipped = 4
    add(one, 0, 1.0, loaded("a"))
    assert one.flush(0, device=CPU)["num_skipped_in_streams"] == {"laion": 4, "cc": 4}


def test_the_share_of_waiting_for_data_is_the_mean_over_the_ranks():
    """The other one of two ranks is lacking here, so its waiting counts as none."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    try:
        one = Meter(num_steps=10, max_bad_samples=0, names=["gqa"], chosen=[[0, 0]])
        one.fetch(iter([[loaded("a")]]))
        one.add([0], torch.ones(1, 2), [loaded("a")], own_seconds=0.1)
        waited = one._window.waiting
        figures = one.flush(0, device=CPU)
    finally:
        dist.destroy_process_group()
    seconds = 1 / figures["samples_per_s"]
    assert figures["data_wait"] == pytest.approx(waited / seconds / 2)
