import json

import torch

from tests.runners.test_training_runs import checkpoint
from tests.runners.tiny import DATA, log_lines, tiny_config, train


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
    done = train(tmp_path, config_of(tmp_path, max_epoch=3, init_lr=3e-3))
    assert done.returncode == 0, done.stderr
    valid = [line["valid_loss"] for line in log_lines(tmp_path) if "valid_loss" in line]
    assert len(valid) == 3
    best = torch.load(tmp_path / "out/job/checkpoint_best.pth", weights_only=True)
    assert best["best_loss"] == min(valid)
    expected = checkpoint(tmp_path, valid.index(min(valid)))["model"]
    assert all(torch.equal(best["model"][name], expected[name]) for name in expected)


def test_evaluate_takes_the_losses_and_trains_nothing(tmp_path):
    done = train(tmp_path, config_of(tmp_path, evaluate=True))
    assert done.returncode == 0, done.stderr
    assert "gqa/val: loss" in done.stderr
    assert not list((tmp_path / "out").rglob("*.pth"))


def test_a_split_that_no_dataset_has_is_an_error(tmp_path):
    done = train(tmp_path, tiny_config(valid_splits=["val"], evaluate=True))
    assert done.returncode != 0
    assert "no dataset has one of the splits ['val']" in done.stderr


def test_validation_does_not_change_the_training(tmp_path):
    with_splits = config_of(tmp_path, max_epoch=2)
    assert train(tmp_path, with_splits).returncode == 0
    with_splits["run"]["valid_splits"] = []
    assert train(tmp_path, with_splits, "run.job_id=plain").returncode == 0
    losses = [[line["loss"] for line in log_lines(tmp_path, job) if "loss" in line] for job in ("job", "plain")]
    assert losses[0] == losses[1]
