"""A run continues with the model of its checkpoint, or reports the difference."""

import json

import pytest
import torch

from minigpt4.common.checkpoint import read_checkpoint, write_checkpoint
from minigpt4.common.config import Config
from minigpt4.common.weight_identity import difference, identity_of
from minigpt4.runners.runner_base import RunnerBase
from minigpt4.tasks import setup_task
from tests.runners.tiny import DATA, tiny_config, write_config


def runner_of(tmp_path, *options):
    """Return the runner of one step on the recorded data, in this process."""
    config = tiny_config(max_epoch=1, iters_per_epoch=1, output_dir=str(tmp_path))
    config["datasets"] = {"gqa": {"batch_size": 2}}
    cfg = Config.load(write_config(tmp_path, config), options)
    task = setup_task(cfg)
    datasets = task.build_datasets(cfg)
    model = task.build_model(cfg, torch.device("cpu"))
    return RunnerBase(cfg=cfg, task=task, model=model, datasets=datasets, job_id="job")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Return the checkpoint of one step."""
    monkeypatch.chdir(DATA)
    assert not runner_of(tmp_path).train().stopped
    return tmp_path / "job" / "checkpoint_0.pth"


def test_a_checkpoint_holds_the_identity_of_its_base_model(trained, tmp_path):
    state, now = read_checkpoint(trained), identity_of(Config.load(tmp_path / "tiny.yaml").model_cfg)
    assert all(difference(state["base_model"][part], now[part]) is None for part in ("llama", "tokenizer", "vit"))
    run = json.loads((tmp_path / "job" / "run.json").read_text())
    assert run["fingerprint"].startswith("llama: weights ") and run["mismatches"] == []


def test_another_model_is_not_resumed_unless_that_is_allowed_and_then_run_json_says_so(trained, tmp_path):
    options = (f"run.resume_ckpt_path={trained}", "model.end_sym=<end>")
    message = r"checkpoint_0\.pth was trained with model\.end_sym='</s>', this run has '<end>'"
    with pytest.raises(ValueError, match=rf"training cannot start:\n  - run\.resume_ckpt_path: .*{message}"):
        runner_of(tmp_path, *options)
    with pytest.raises(
        ValueError, match=r"model\.end_sym: '</s>' -> '<end>'"
    ):  # found by the job's name, which the check does not read
        runner_of(tmp_path, "run.resume_ckpt_path=auto", "model.end_sym=<end>")
    runner = runner_of(tmp_path, *options, "model.allow_mismatch=True", "run.max_epoch=2")
    assert runner.state.step == 1
    runner.train()
    run = json.loads((tmp_path / "job" / "run.json").read_text())
    assert run["mismatches"] == ["checkpoint_0.pth was trained with model.end_sym='</s>', this run has '<end>'"]


def test_a_run_that_a_former_version_wrote_is_resumed_with_a_line(trained, tmp_path, caplog):
    write_checkpoint(trained, {**read_checkpoint(trained), "base_model": "0123456789abcdef"})
    assert runner_of(tmp_path, f"run.resume_ckpt_path={trained}").state.step == 1
    assert "its fingerprint of the base model has an older format" in caplog.text
