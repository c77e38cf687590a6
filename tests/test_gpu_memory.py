"""Every command line asks PyTorch for memory that grows in place, unless the user asked for something else."""

import os
import subprocess
import sys

import pytest
import torch

import train
from minigpt4 import chat, cli, export

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


def evaluate():
    cli.run_script("eval", "eval_vqa.py")


@pytest.fixture(params=[train.main, chat.main, export.main, evaluate], ids=["train", "chat", "export", "eval"])
def run(request, tmp_path, monkeypatch):
    """Run a command line up to its mistake, a YAML that is not there."""
    for name in NAMES:
        monkeypatch.setenv(name, "")  # put back after
        monkeypatch.delenv(name)
    out = ["--out", str(tmp_path / "out")] if request.param is export.main else []
    monkeypatch.setattr(sys, "argv", ["command", "--cfg-path", str(tmp_path / "none.yaml"), *out])

    def to_its_end():
        with pytest.raises((SystemExit, ValueError)):
            request.param()
        return {name: os.environ[name] for name in NAMES if name in os.environ}

    return to_its_end


def test_memory_grows_in_place(run):
    assert run() == {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}


@pytest.mark.parametrize("name", NAMES)
def test_a_setting_of_the_user_stays(run, monkeypatch, name):
    monkeypatch.setenv(name, "max_split_size_mb:512")
    assert run() == {name: "max_split_size_mb:512"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the memory is a GPU's")
def test_pytorch_follows_though_it_is_imported_already():
    code = (
        "import torch; from minigpt4.common.dist_utils import use_expandable_segments; use_expandable_segments();"
        "torch.ones(1, device='cuda'); print([one['is_expandable'] for one in torch.cuda.memory_snapshot()])"
    )
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.strip() == "[True]"
