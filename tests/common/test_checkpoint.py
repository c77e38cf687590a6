"""Checkpoint files: what is read, what is refused, and what a crash leaves."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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


def test_a_written_checkpoint_is_read_back(tmp_path):
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
    with pytest.raises(ValueError, match=r"x\.pth is cut off or no file of weights: "):
        read_checkpoint(tmp_path / "x.pth")


def test_an_absent_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"no file .*x\.pth"):
        read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize(("content", "reason"), [([1], "holds a list"), ({"w": 1}, r"has no 'model' but \['w'\]")])
def test_a_file_that_is_no_checkpoint_is_refused_by_name(tmp_path, content, reason):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=rf"x\.pth:? .*{reason}"):
        read_checkpoint(tmp_path / "x.pth")


TENSORS = {"llama_proj.weight": torch.ones(2, 3), "llama_proj.bias": torch.zeros(2)}


def test_tensors_alone_are_the_model_in_both_formats(tmp_path):
    torch.save(TENSORS, tmp_path / "flat.pth")
    save_file(TENSORS, tmp_path / "flat.safetensors")
    for name in ("flat.pth", "flat.safetensors"):
        state = read_checkpoint(tmp_path / name)
        assert list(state) == ["model"] and torch.equal(state["model"]["llama_proj.weight"], torch.ones(2, 3))


@pytest.mark.parametrize("prefix", ["model.", "model/", "module.", "module.model."])
def test_tensors_under_a_prefix_are_the_model_and_others_are_left_out(tmp_path, prefix):
    wrapped = {f"{prefix}{name}": value for name, value in TENSORS.items()}
    save_file({**wrapped, "optimizer.0.exp_avg": torch.zeros(1)}, tmp_path / "x.safetensors")
    torch.save(wrapped, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        assert set(read_checkpoint(tmp_path / name)["model"]) == set(TENSORS)


def test_the_metadata_of_safetensors_may_carry_the_config(tmp_path):
    metadata = {"config": json.dumps({"model": {"lora_alpha": 64}}), "epoch": "3", "format": "pt", "base_model": "{no"}
    save_file(TENSORS, tmp_path / "x.safetensors", metadata=metadata)
    state = read_checkpoint(tmp_path / "x.safetensors")
    assert state["config"] == {"model": {"lora_alpha": 64}} and state["epoch"] == 3 and "base_model" not in state


def test_a_mapped_file_holds_the_same_and_the_older_format_is_read_whole(tmp_path):
    torch.save({"model": TENSORS}, tmp_path / "new.pth")
    torch.save({"model": TENSORS}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for name in ("new.pth", "old.pth"):
        assert torch.equal(read_checkpoint(tmp_path / name, mmap=True)["model"]["llama_proj.weight"], torch.ones(2, 3))
