import pytest
import torch

from minigpt4.common.config import Config
from minigpt4.common.dist_utils import (
    autocast_dtype,
    broadcast_object,
    get_rank,
    get_world_size,
    make_deterministic,
    pick_device,
    prepare_device,
)


def run_cfg(tmp_path, **options):
    path = tmp_path / "x.yaml"
    path.write_text("run: {}\n")
    return Config.load(path, [f"run.{k}={v}" for k, v in options.items()]).run_cfg


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs in name alone; the numbers of those that were made current."""
    current = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", current.append)
    was = torch.backends.cuda.cudnn_sdp_enabled()
    yield current
    torch.backends.cuda.enable_cudnn_sdp(was)


def test_alone_this_is_rank_0_of_1():
    assert (get_rank(), get_world_size(), broadcast_object("x")) == (0, 1, "x")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_says_how_to_go_on(tmp_path):
    with pytest.raises(ValueError, match=r"run.device is cuda but this machine has none; --options run.device=cpu"):
        pick_device(run_cfg(tmp_path))


@pytest.mark.parametrize("distributed", [True, False])
def test_the_gpu_of_the_run_becomes_the_current_one(tmp_path, monkeypatch, two_gpus, distributed):
    """What names no GPU, as an event or 4-bit weights, would else be on GPU 0."""
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device(run_cfg(tmp_path, distributed=distributed)) == torch.device("cuda", 1)
    assert pick_device(run_cfg(tmp_path, device="cuda:0")) == torch.device("cuda", 0)
    assert two_gpus == [torch.device("cuda", 1), torch.device("cuda", 0)]


def test_a_gpu_without_a_number_is_the_current_one(two_gpus):
    assert prepare_device(torch.device("cuda")) == torch.device("cuda")
    assert two_gpus == []


def test_a_gpu_attends_without_cudnn(tmp_path, two_gpus):
    torch.backends.cuda.enable_cudnn_sdp(True)
    pick_device(run_cfg(tmp_path, device="cpu"))
    assert torch.backends.cuda.cudnn_sdp_enabled()
    pick_device(run_cfg(tmp_path))
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_the_cpu_computes_in_float32_whatever_amp_says(tmp_path):
    assert autocast_dtype(run_cfg(tmp_path, amp=True), torch.device("cpu")) is None


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_that_emulates_bfloat16_computes_in_float16(tmp_path, monkeypatch, native, dtype):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert autocast_dtype(run_cfg(tmp_path, amp=True), torch.device("cuda")) is dtype


def test_a_named_amp_dtype_is_taken_on_a_gpu(tmp_path):
    cfg = run_cfg(tmp_path, amp=True, amp_dtype="float16")
    assert autocast_dtype(cfg, torch.device("cuda")) is torch.float16
    assert autocast_dtype(run_cfg(tmp_path, amp=False), torch.device("cuda")) is None


def test_a_deterministic_run_leaves_new_memory_as_it_is(monkeypatch):
    """Filling it would cost a kernel for each tensor."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    try:
        make_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
    finally:
        torch.use_deterministic_algorithms(False)
