import pytest
import torch

from minigpt4.common.config import Config
from minigpt4.common.dist_utils import autocast_dtype, broadcast_object, get_rank, get_world_size, pick_device


def run_cfg(tmp_path, **options):
    path = tmp_path / "x.yaml"
    path.write_text("run: {}\n")
    return Config.load(path, [f"run.{k}={v}" for k, v in options.items()]).run_cfg


def test_alone_this_is_rank_0_of_1():
    assert (get_rank(), get_world_size(), broadcast_object("x")) == (0, 1, "x")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_says_how_to_go_on(tmp_path):
    with pytest.raises(ValueError, match=r"run.device is cuda but this machine has none; --options run.device=cpu"):
        pick_device(run_cfg(tmp_path))


def test_the_cpu_computes_in_float32_whatever_amp_says(tmp_path):
    assert autocast_dtype(run_cfg(tmp_path, amp=True), torch.device("cpu")) is None


def test_a_named_amp_dtype_is_taken_on_a_gpu(tmp_path):
    cfg = run_cfg(tmp_path, amp=True, amp_dtype="float16")
    assert autocast_dtype(cfg, torch.device("cuda")) is torch.float16
    assert autocast_dtype(run_cfg(tmp_path, amp=False), torch.device("cuda")) is None
