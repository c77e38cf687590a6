import logging
from pathlib import Path

import pytest
import torch

from tests.runners.in_process import train_here
from tests.runners.tiny import log_lines, tiny_config, train, train_by_torchrun

PUBLISHED_KEYS = {"model", "optimizer", "config", "scaler", "epoch"}


def checkpoint(tmp_path, number, job="job"):
    return torch.load(tmp_path / "out" / job / f"checkpoint_{number}.pth", weights_only=True)


def test_a_run_logs_saves_and_learns(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = tiny_config(max_epoch=2, iters_per_epoch=20, init_lr=1e-2)
    config["datasets"] = {"engine_mc": {"batch_size": 2}}
    assert not train_here(tmp_path, config).stopped
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == list(range(40))
    assert [line["epoch"] for line in lines] == [0] * 20 + [1] * 20
    assert sum(line["loss"] for line in lines[-5:]) < 0.7 * sum(line["loss"] for line in lines[:5])
    assert {"lr", "samples_per_s", "tokens_per_s", "data_wait", "eta_s"} <= set(lines[0])
    assert "samples/s" in caplog.text and "eta" in caplog.text
    saved = checkpoint(tmp_path, 1)
    assert set(saved) >= PUBLISHED_KEYS
    assert (saved["epoch"], saved["step"]) == (1, 40)
    assert all(not key.endswith("default.weight") for key in saved["model"])


def test_a_resumed_run_is_the_same_run(tmp_path):
    config = tiny_config(num_workers=2, max_epoch=3)
    assert train_here(tmp_path, config).num_steps == 9
    path = tmp_path / "out/job/checkpoint_0.pth"
    assert train_here(tmp_path, config, "run.job_id=again", f"run.resume_ckpt_path={path}").num_steps == 9
    unbroken = [(line["step"], line["loss"], line["lr"]) for line in log_lines(tmp_path)]
    continued = [(line["step"], line["loss"], line["lr"]) for line in log_lines(tmp_path, "again")]
    assert [step for step, _, _ in continued] == [3, 4, 5, 6, 7, 8]
    assert continued == unbroken[3:]
    ours, theirs = checkpoint(tmp_path, 2)["model"], checkpoint(tmp_path, 2, "again")["model"]
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_workers_do_not_change_the_run(tmp_path):
    assert train_here(tmp_path, tiny_config(max_epoch=1)).num_steps == 3
    assert train_here(tmp_path, tiny_config(max_epoch=1, num_workers=2), "run.job_id=workers").num_steps == 3
    alone, workers = ([line["loss"] for line in log_lines(tmp_path, job)] for job in ("job", "workers"))
    assert alone == workers


def test_two_processes_train_under_torchrun(tmp_path):
    config = tiny_config(max_epoch=1)
    config["datasets"]["unnatural_instruction"] = {
        "batch_size": 2,
        "sample_ratio": 3,
        "build_info": {"ann_path": "./train_dataset/nlp/filtered_unnatural_instruction.json"},
    }
    done = train_by_torchrun(tmp_path, config, "run.iters_per_epoch=6")
    assert done.returncode == 0, done.stderr
    lines = log_lines(tmp_path)
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert checkpoint(tmp_path, 0)["history"] == [(0, 2)]


def test_a_bad_image_is_an_error_unless_it_is_tolerated(tmp_path):
    folder = tmp_path / "textcaps"
    folder.mkdir()
    for image in (Path(__file__).parents[1] / "golden/data/train_dataset/textcaps/train_images").iterdir():
        (folder / image.name).write_bytes(b"this is no picture")
    config = tiny_config(max_epoch=1)
    config["datasets"] = {"textcaps_caption": {"batch_size": 1, "build_info": {"image_path": str(folder)}}}
    with pytest.raises(ValueError, match=r"run\.max_bad_samples allows 0") as refused:
        train_here(tmp_path, config)
    assert "textcaps_caption[" in str(refused.value) and "cannot read" in str(refused.value)
    assert train_here(tmp_path, config, "run.max_bad_samples=3").num_steps == 3
    assert log_lines(tmp_path)[-1]["num_bad_samples"] == 3


def test_mistakes_of_the_user_end_in_one_message(tmp_path):
    config = tiny_config(init_lrr=1)
    config["datasets"]["gqa"]["build_info"] = {"images": {"storage": "./nowhere"}}
    wrong_option = train(tmp_path, config)
    assert wrong_option.returncode == 1
    assert "run.init_lrr: no such option; did you mean init_lr?" in wrong_option.stderr
    assert "Traceback" not in wrong_option.stderr
    del config["run"]["init_lrr"]
    config["datasets"]["textcaps_caption"]["build_info"] = {"ann_path": "./missing.json"}
    missing = train(tmp_path, config)
    assert missing.returncode == 1
    assert "nowhere" in missing.stderr and "missing.json" in missing.stderr


def test_a_file_that_is_no_training_checkpoint_cannot_be_resumed(tmp_path):
    torch.save({"model": {}}, tmp_path / "x.pth")
    done = train(tmp_path, tiny_config(), f"run.resume_ckpt_path={tmp_path}/x.pth")
    assert done.returncode == 1
    assert "x.pth cannot be resumed, it has no optimizer, epoch" in done.stderr
