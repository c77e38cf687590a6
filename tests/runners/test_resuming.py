"""What a resumed run says of options that changed, and what it takes from the checkpoint."""

import copy
import json
import logging

import pytest
import torch
from PIL import Image

from minigpt4.common.config import Config
from minigpt4.runners.resuming import refuse_changes
from minigpt4.tasks import setup_task
from tests.runners.in_process import runner_of
from tests.runners.tiny import DATA, tiny_config, write_config


@pytest.fixture(autouse=True)
def where_the_data_lie(monkeypatch):
    monkeypatch.chdir(DATA)


@pytest.fixture
def mixture(tmp_path):
    """Return a config of one dataset of a user's own, and the options of another one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(folder / name)
    rows = [{"image": name, "question": "What is this?", "answer": "a box"} for name in ("a.png", "b.png")]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    own = {
        "type": "custom",
        "build_info": {"ann_path": str(tmp_path / "a.json"), "image_path": str(folder)},
        "batch_size": 2,
        "sample_ratio": 1,
    }
    config = tiny_config(max_epoch=1, iters_per_epoch=2, log_freq=50)
    config["datasets"] = {"mine": own}
    return config, own


def first_run(tmp_path, config):
    assert not runner_of(tmp_path, config, job_id="first").train().stopped
    return tmp_path / "out/first/checkpoint_0.pth"


def resumed(tmp_path, config, path, *options):
    return runner_of(tmp_path, config, f"run.resume_ckpt_path={path}", *options, job_id="second")


def warnings(caplog):
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


def with_another_mixture(config, own):
    now = copy.deepcopy(config)
    now["run"]["max_epoch"] = 2
    now["datasets"]["mine"]["batch_size"] = 1
    now["datasets"]["other"] = {**own, "batch_size": 3, "sample_ratio": 5}
    return now


def test_another_mixture_is_refused_with_all_that_changed(tmp_path, mixture):
    config, own = mixture
    path = first_run(tmp_path, config)
    with pytest.raises(ValueError) as refused:
        resumed(tmp_path, with_another_mixture(config, own), path)
    assert str(refused.value) == (
        f"{path} was trained with other options (checkpoint -> this run):\n"
        "  run.max_epoch: 1 -> 2\n"
        "  datasets.mine.batch_size: 2 -> 1\n"
        "  datasets.other: (not set) -> {'type': 'custom', 'batch_size': 3, 'sample_ratio': 5.0}\n"
        "this run would not continue that one, because of datasets.mine.batch_size, datasets.other; "
        "to resume all the same: --options run.allow_changes=True"
    )


def test_another_mixture_is_refused_before_the_model_is_built(tmp_path, mixture):
    config, own = mixture
    path = first_run(tmp_path, config)
    now = write_config(tmp_path, with_another_mixture(config, own))
    cfg = Config.load(now, [f"run.resume_ckpt_path={path}"])
    with pytest.raises(ValueError, match=r"because of datasets\.mine\.batch_size, datasets\.other; to resume"):
        refuse_changes(cfg, setup_task(cfg).build_datasets(cfg), "second")


def test_allowed_changes_are_logged_and_kept_in_run_json(tmp_path, mixture, caplog):
    config, own = mixture
    path = first_run(tmp_path, config)
    now = with_another_mixture(config, own)
    runner = resumed(tmp_path, now, path, "run.allow_changes=True")
    assert "run.max_epoch: 1 -> 2" in warnings(caplog) and "datasets.mine.batch_size: 2 -> 1" in warnings(caplog)
    assert "run.allow_changes allows datasets.mine.batch_size, datasets.other" in warnings(caplog)
    runner.train()
    batch_size = {
        "checkpoint": str(path),
        "step": 2,
        "option": "datasets.mine.batch_size",
        "before": 2,
        "now": 1,
        "refused": True,
    }
    recorded = json.loads((tmp_path / "out/second/run.json").read_text())["changed_options"]
    assert batch_size in recorded and len(recorded) == 3
    caplog.clear()
    now["run"]["max_epoch"] = 3
    again = resumed(tmp_path, now, tmp_path / "out/second/checkpoint_1.pth")
    assert [change["option"] for change in again.state.changes] == [
        *("run.max_epoch", "datasets.mine.batch_size", "datasets.other"),
        "run.max_epoch",
    ]
    assert "run.max_epoch: 2 -> 3" in warnings(caplog)


def test_other_rows_in_a_file_of_the_same_name_are_refused(tmp_path, mixture):
    config, _ = mixture
    path = first_run(tmp_path, config)
    rows = json.loads((tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps(rows * 2))
    with pytest.raises(ValueError, match=r"datasets\.mine\.num_rows: 2 -> 4\n.*because of datasets\.mine\.num_rows;"):
        resumed(tmp_path, config, path)


def test_another_lora_rank_is_reported_by_its_option_and_not_by_shapes(tmp_path, mixture):
    config, _ = mixture
    path = first_run(tmp_path, config)
    with pytest.raises(ValueError, match=r"LoRA of rank 4, this run model\.lora_r=8"):
        resumed(tmp_path, config, path, "model.lora_r=8")


def test_rates_and_epochs_may_change_with_a_warning(tmp_path, mixture, caplog):
    config, _ = mixture
    path = first_run(tmp_path, config)
    runner = resumed(tmp_path, config, path, "run.max_epoch=2", "run.init_lr=5e-4", "run.warmup_steps=0")
    assert runner.state.step == 2
    for line in ("run.max_epoch: 1 -> 2", "run.init_lr: 0.001 -> 0.0005", "run.warmup_steps: 2 -> 0"):
        assert line in warnings(caplog)


def test_decay_and_betas_are_those_of_this_run(tmp_path, mixture):
    config, _ = mixture
    path = first_run(tmp_path, config)
    runner = resumed(tmp_path, config, path, "run.weight_decay=0.3", "run.beta2=0.9", "run.max_epoch=2")
    groups = runner.state.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert [group["betas"] for group in groups] == [(0.9, 0.9)] * 2
    assert {int(state["step"]) for state in runner.state.optimizer.state.values()} == {2}


def test_the_same_run_has_no_changes(tmp_path, mixture, caplog):
    config, _ = mixture
    path = first_run(tmp_path, config)
    caplog.clear()
    runner = resumed(tmp_path, config, path)
    assert "other options" not in warnings(caplog) and runner.state.changes == []


@pytest.mark.parametrize("lacking", [["config"], ["num_rows", "changes"], ["config", "num_rows", "changes", "step"]])
def test_a_checkpoint_with_fewer_keys_is_resumed(tmp_path, mixture, lacking):
    config, _ = mixture
    path = first_run(tmp_path, config)
    state = torch.load(path, weights_only=True)
    for key in lacking:
        del state[key]
    torch.save(state, tmp_path / "older.pth")
    assert resumed(tmp_path, config, tmp_path / "older.pth").state.step == 2


def test_an_evaluation_may_have_another_mixture(tmp_path, mixture):
    config, own = mixture
    path = first_run(tmp_path, config)
    now = with_another_mixture(config, own)
    storage = {"storage": str(tmp_path / "a.json")}
    now["datasets"]["mine"]["build_info"]["annotations"] = {"train": storage, "val": storage}
    del now["datasets"]["mine"]["build_info"]["ann_path"]
    runner = resumed(tmp_path, now, path, "run.evaluate=True", "run.valid_splits=[val]")
    assert runner.state.changes == []


def test_fewer_steps_an_epoch_keep_the_number_of_steps_taken(tmp_path, mixture, caplog):
    """Two steps are done; with epochs of one step that is the end of the second, and the third epoch begins."""
    config, _ = mixture
    path = first_run(tmp_path, config)
    runner = resumed(tmp_path, config, path, "run.iters_per_epoch=1", "run.max_epoch=3")
    assert (runner.state.step, runner.num_steps) == (2, 3)
    assert not runner.train().stopped
    assert "run.iters_per_epoch: 2 -> 1" in warnings(caplog)
    saved = torch.load(tmp_path / "out/second/checkpoint_2.pth", weights_only=True)
    assert (saved["epoch"], saved["step"]) == (2, 3)
