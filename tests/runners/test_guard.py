import pytest
import torch

from minigpt4.runners.train_step import LossGuard
from tests.runners.test_meter import packed

NAN, FINE = torch.tensor(float("nan")), torch.tensor(1.5)


def test_a_loss_that_is_not_finite_names_step_and_samples_and_keeps_the_batch(tmp_path):
    guard = LossGuard(tmp_path, max_skipped_steps=0)
    guard.watch(811, FINE, packed("gqa[1]"))
    guard.watch(812, NAN, packed("gqa[3]", "gqa[4]"))
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 812; batch: gqa\[3\], gqa\[4\]"):
        guard.watch(813, FINE, packed("gqa[5]"))
    kept = torch.load(tmp_path / "not_finite_step812_rank0.pt", weights_only=True)
    assert (kept["ids"], kept["step"]) == (["gqa[3]", "gqa[4]"], 812)
    assert kept["batch"]["input_ids"].shape == (4,)


def test_the_last_loss_is_checked_before_a_checkpoint_is_written(tmp_path):
    guard = LossGuard(tmp_path, max_skipped_steps=0)
    guard.watch(5, NAN, packed("gqa[3]"))
    with pytest.raises(FloatingPointError, match="step 5"):
        guard.check()


def test_max_skipped_steps_may_be_skipped_and_no_more(tmp_path):
    guard = LossGuard(tmp_path, max_skipped_steps=1)
    assert not guard.skips(0, [FINE], [packed("a")])
    assert guard.skips(1, [FINE, NAN], [packed("a"), packed("b")])
    with pytest.raises(FloatingPointError, match=r"step 2; batch: c .*run\.max_skipped_steps allows 1"):
        guard.skips(2, [NAN], [packed("c")])


class LossOnAGpu:
    """A loss on GPU 1 that is on its way to the CPU until the stream of that GPU is waited for."""

    device = torch.device("cuda", 1)

    def __init__(self):
        self.value = torch.tensor(0.0)

    def detach(self):
        return self

    def to(self, device, *, non_blocking):
        assert (device, non_blocking) == ("cpu", True)
        return self.value

    def stream_of(self, device):
        return Stream(self, device)


class Stream:
    def __init__(self, loss, device):
        self.loss, self.device = loss, device

    def record_event(self):
        return self

    def synchronize(self):
        self.loss.value.fill_(float("nan") if self.device == self.loss.device else 0.0)


def test_the_loss_of_another_gpu_than_the_first_is_waited_for(tmp_path, monkeypatch):
    guard, loss = LossGuard(tmp_path, max_skipped_steps=0), LossOnAGpu()
    monkeypatch.setattr("torch.cuda.current_stream", loss.stream_of)
    guard.watch(3, loss, packed("gqa[3]"))
    with pytest.raises(FloatingPointError, match="loss is nan at step 3"):
        guard.check()
