import pytest
import torch

from minigpt4.conversation.conversation import Batch
from minigpt4.runners.loader import Loaded
from minigpt4.runners.meter import Meter

CPU = torch.device("cpu")


def loaded(*ids, bad=()):
    none = torch.zeros(4, dtype=torch.int64)
    batch = Batch(images=torch.zeros(0, 3, 1, 1), input_ids=none, labels=none, position_ids=none, lengths=none[:1])
    return Loaded(batch=batch, ids=ids, bad=bad)


def test_a_loss_that_is_not_finite_names_step_and_samples():
    meter = Meter(num_steps=900, max_bad_samples=0)
    meter.add(811, torch.tensor(1.5), loaded("gqa[1]"))
    meter.add(812, torch.tensor(float("nan")), loaded("gqa[3]", "gqa[4]"))
    meter.add(813, torch.tensor(float("nan")), loaded("gqa[5]"))
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 812; batch: gqa\[3\], gqa\[4\]"):
        meter.flush(813, device=CPU)


def test_figures_are_means_since_the_last_line():
    meter = Meter(num_steps=10, max_bad_samples=0)
    meter.add(0, torch.tensor(1.0), loaded("a", "b"))
    meter.add(1, torch.tensor(2.0), loaded("c"))
    assert meter.flush(1, device=CPU)["loss"] == 1.5
    meter.add(2, torch.tensor(5.0), loaded("d"))
    assert meter.flush(2, device=CPU)["loss"] == 5.0


def test_bad_samples_are_counted_and_over_the_tolerance_an_error():
    meter = Meter(num_steps=10, max_bad_samples=1)
    batches = iter([loaded("a", bad=("gqa[1]: broken",)), loaded("b", bad=("gqa[2]: broken too",))])
    meter.fetch(batches)
    with pytest.raises(ValueError, match=r"2 bad samples where run.max_bad_samples allows 1; the last: gqa\[2\]"):
        meter.fetch(batches)


def test_a_step_whose_samples_were_all_left_out_does_not_count_in_the_loss():
    meter = Meter(num_steps=10, max_bad_samples=9)
    meter.add(0, torch.tensor(0.0), loaded())
    meter.add(1, torch.tensor(2.0), loaded("a"))
    assert meter.flush(1, device=CPU)["loss"] == 2.0
