"""train.py ends with one line that names the option, before anything is loaded, and without a traceback."""

import shutil
import sys

import pytest
import yaml

import train
from tests.runners.tiny import ASSETS, tiny_config


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return a function that runs train.py in this process with options; it returns what it ends with."""
    (tmp_path / "a.json").write_text('[{"question": "What?", "answer": "this"}]')

    def make(*options, name="mine"):
        config = tiny_config(output_dir=str(tmp_path / "out"))
        body = {"type": "custom", "build_info": {"ann_path": str(tmp_path / "a.json")}, "batch_size": 2}
        config["datasets"] = {name: body}
        (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
        words = ["train.py", "--cfg-path", str(tmp_path / "my.yaml"), "--options", *options]
        monkeypatch.setattr(sys, "argv", words)
        try:
            train.main()
        except SystemExit as end:
            return end.code
        return 0

    return make


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("datasets.mine.batch_size=0", "datasets.mine.batch_size: expected at least 1, got 0"),
        ("datasets.mine.sample_ratio=0", "datasets: at least one sample_ratio should be above 0"),
        ("datasets.mine.sample_ratio=-1", "datasets.mine.sample_ratio: expected at least 0, got -1.0"),
        ("run.device=gpu", "run.device: torch knows no device 'gpu'; did you mean 'cuda'? (cuda, cuda:0, cpu)"),
    ],
)
def test_a_value_out_of_range_ends_the_command_in_one_line(run, tmp_path, option, message):
    assert run(option) == f"train.py: {tmp_path}/my.yaml: these options are wrong: {message}"


def test_a_device_that_is_not_here_ends_the_command_in_one_line(run):
    end = run("run.device=xpu")
    assert end.startswith("train.py: run.device is xpu, which does not work here: ") and "\n" not in end


def test_weights_that_are_damaged_end_the_command_before_they_are_loaded(run, tmp_path):
    shutil.copytree(ASSETS / "llama_tiny", tmp_path / "llama")
    (tmp_path / "llama/model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    end = run(f"model.llama_model={tmp_path}/llama")
    wrong = "model.safetensors is a pointer of git-lfs, not the file itself; run `git lfs pull`"
    assert end == f"train.py: training cannot start:\n  - model.llama_model: {tmp_path}/llama: {wrong}"


def test_options_may_be_given_in_several_groups(run):
    end = run("run.max_epoch=0", "--options", "model.lora_r=-1")
    assert "run.max_epoch: expected at least 1, got 0" in end and "model.lora_r: expected at least 0" in end


def test_check_of_a_dataset_whose_name_is_a_number(run, capsys):
    assert run("run.seed=1", "--check", name=2024) == 0
    assert capsys.readouterr().out.endswith("training could start\n")
