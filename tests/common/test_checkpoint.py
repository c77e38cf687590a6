"""Checkpoint files: what is read, what is refused, and what a crash leaves."""

from pathlib import Path

import pytest
import torch

from minigpt4.common.checkpoint import read_checkpoint, read_tensors, write_checkpoint

ASSETS = Path(__file__).parents[1] / "golden" / "model" / "assets"


class RunsCode:
    """A pickled object that would create a file on being read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_recorded_checkpoint_is_read_with_its_optimizer_and_config():
    state = read_checkpoint(ASSETS / "minigptv2_tiny_ckpt_after_five_steps.pth")
    assert sorted(state) == ["config", "epoch", "model", "optimizer", "scaler"]
    assert state["epoch"] == 0 and state["config"]["run"]["warmup_steps"] == 2
    assert state["optimizer"]["param_groups"][0]["weight_decay"] == 0.05


def test_what_is_written_comes_back(tmp_path):
    path = tmp_path / "new" / "checkpoint_0.pth"
    write_checkpoint(path, {"model": {"w": torch.tensor([1.5, 2.5])}, "epoch": 3})
    state = read_checkpoint(path)
    assert state["model"]["w"].tolist() == [1.5, 2.5] and state["epoch"] == 3
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint_0.pth"]


def test_a_write_that_fails_leaves_the_old_checkpoint_and_nothing_else(tmp_path):
    path = tmp_path / "checkpoint_0.pth"
    write_checkpoint(path, {"model": {}, "epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        write_checkpoint(path, {"model": {}, "epoch": lambda: 2})
    assert read_checkpoint(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint_0.pth"]


def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(tmp_path):
    torch.save({"model": RunsCode(tmp_path / "ran")}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth: not read, since it is damaged or holds more than tensors"):
        read_checkpoint(tmp_path / "x.pth")
    assert not (tmp_path / "ran").exists()


def test_half_a_file_is_refused_by_name(tmp_path):
    whole = (ASSETS / "minigptv2_tiny_ckpt.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"x\.pth: "):
        read_checkpoint(tmp_path / "x.pth")


def test_an_absent_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"x\.pth: no such file"):
        read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize(("content", "reason"), [([1], "holds a list"), ({"w": 1}, r"has no 'model' but \['w'\]")])
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path, content, reason):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"x\.pth: .*{reason}"):
        read_checkpoint(tmp_path / "x.pth")
