import json
import logging

import pytest
import torch

from tests.runners.in_process import train_here
from tests.runners.test_training_runs import checkpoint
from tests.runners.tiny import DATA, log_lines, tiny_config


def config_of(tmp_path, **run):
    """Hold two rows of GQA out of training."""
    rows = json.loads((DATA / "train_dataset/gqa/train_balanced_questions.json").read_text())
    (tmp_path / "train.json").write_text(json.dumps(rows[2:]))
    (tmp_path / "val.json").write_text(json.dumps(rows[:2]))
    config = tiny_config(valid_splits=["val"], **run)
    annotations = {split: {"storage": [str(tmp_path / f"{split}.json")]} for split in ("train", "val")}
    config["datasets"] = {"gqa": {"batch_size": 2, "build_info": {"annotations": annotations}}}
    return config


def test_held_out_losses_are_logged_and_the_best_checkpoint_is_kept(tmp_path):
    assert not train_here(tmp_path, config_of(tmp_path, max_epoch=3, init_lr=3e-3)).stopped
    valid = [line["valid_loss"] for line in log_lines(tmp_path) if "valid_loss" in line]
    assert len(valid) == 3
    best = torch.load(tmp_path / "out/job/checkpoint_best.pth", weights_only=True)
    assert best["best_loss"] == min(valid)
    expected = checkpoint(tmp_path, valid.index(min(valid)))["model"]
    assert all(torch.equal(best["model"][name], expected[name]) for name in expected)


def test_evaluate_takes_the_losses_and_trains_nothing(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert set(train_here(tmp_path, config_of(tmp_path, evaluate=True)).figures) == {"gqa/val"}
    assert "gqa/val: loss" in caplog.text
    assert not list((tmp_path / "out").rglob("*.pth"))


def test_a_split_that_no_dataset_has_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no dataset has one of the splits \['val'\]"):
        train_here(tmp_path, tiny_config(valid_splits=["val"], evaluate=True))


def test_validation_does_not_change_the_training(tmp_path):
    with_splits = config_of(tmp_path, max_epoch=2)
    assert train_here(tmp_path, with_splits).num_steps == 6
    with_splits["run"]["valid_splits"] = []
    assert train_here(tmp_path, with_splits, "run.job_id=plain").num_steps == 6
    losses = [[line["loss"] for line in log_lines(tmp_path, job) if "loss" in line] for job in ("job", "plain")]
    assert losses[0] == losses[1]
