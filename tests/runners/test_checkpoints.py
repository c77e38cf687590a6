import json
import os
import time

import pytest
import torch

from minigpt4.common.config import Config
from minigpt4.common.files import NotWrittenError, free_bytes
from minigpt4.runners.checkpoints import Checkpoints, choose_job, newest_first, read_newest
from tests.forked import Script


def state(step, epoch):
    return {"model": {"w": torch.ones(1)}, "step": step, "epoch": epoch}


def run_cfg(tmp_path, **options):
    path = tmp_path / "x.yaml"
    path.write_text("run: {}\n")
    return Config.load(path, [f"run.output_dir={tmp_path}", *(f"run.{k}={v}" for k, v in options.items())]).run_cfg


def test_the_end_of_an_epoch_and_a_step_inside_have_different_names(tmp_path):
    checkpoints = Checkpoints(tmp_path, iters_per_epoch=10, keep_last=None)
    assert checkpoints.save(state(10, 0)).name == "checkpoint_0.pth"
    assert checkpoints.save(state(14, 1)).name == "checkpoint_step_14.pth"
    names = [path.name for path in newest_first(tmp_path, iters_per_epoch=10)]
    assert names == ["checkpoint_step_14.pth", "checkpoint_0.pth"]


def test_keep_last_deletes_the_oldest_but_never_the_best(tmp_path):
    checkpoints = Checkpoints(tmp_path, iters_per_epoch=10, keep_last=2)
    checkpoints.save_best(state(5, 0))
    for step in (5, 10, 15, 20):
        checkpoints.save(state(step, (step - 1) // 10))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint_1.pth",
        "checkpoint_best.pth",
        "checkpoint_step_15.pth",
    ]


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path):
    checkpoints = Checkpoints(tmp_path, iters_per_epoch=10, keep_last=None)
    checkpoints.save(state(10, 0))
    (tmp_path / "checkpoint_1.pth").write_bytes(b"cut off")
    path, content = read_newest(tmp_path, iters_per_epoch=10)
    assert (path.name, content["step"]) == ("checkpoint_0.pth", 10)


def test_a_half_written_checkpoint_is_not_a_checkpoint(tmp_path):
    (tmp_path / ".checkpoint_3.pth.123.part").write_bytes(b"half")
    assert read_newest(tmp_path, iters_per_epoch=10) is None


SAVES_FOR_LONG = """
import sys
from pathlib import Path
import torch
from minigpt4.runners.checkpoints import Checkpoints
state = {"model": {"w": torch.ones(1 << 26)}, "step": 20, "epoch": 1}  # 256 MiB
Checkpoints(Path(sys.argv[1]), iters_per_epoch=10, keep_last=1).save(state)
"""


def test_a_process_killed_while_it_saves_leaves_the_checkpoint_before_and_nothing_for_long(tmp_path):
    checkpoints = Checkpoints(tmp_path, iters_per_epoch=10, keep_last=1)
    checkpoints.save(state(10, 0))
    script = tmp_path.parent / "saves_for_long.py"
    script.write_text(SAVES_FOR_LONG)
    process = Script([script, tmp_path], cwd=tmp_path, stdout=tmp_path.parent / "said.txt")
    while not list(tmp_path.glob(".checkpoint_1.pth.*.part")):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    [half] = tmp_path.glob(".*.part")
    path, content = read_newest(tmp_path, iters_per_epoch=10)
    assert (path.name, content["step"]) == ("checkpoint_0.pth", 10)
    checkpoints.save(state(20, 1))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint_1.pth"], half


@pytest.fixture
def jobs(tmp_path):
    for number, (job, name) in enumerate((("old", "mine"), ("new", "mine"), ("empty", "mine"), ("other", "theirs"))):
        folder = tmp_path / job
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"config": {"run": {"job_name": name}}}))
        if job != "empty":
            (folder / "checkpoint_0.pth").write_bytes(b"x")
        os.utime(folder, (1000 + number, 1000 + number))
    return tmp_path


def test_auto_takes_the_newest_job_of_the_name_that_has_a_checkpoint(jobs):
    assert choose_job(run_cfg(jobs, resume_ckpt_path="auto", job_name="mine")) == "new"


def test_auto_continues_the_named_job(jobs):
    assert choose_job(run_cfg(jobs, resume_ckpt_path="auto", job_id="old")) == "old"


def test_without_auto_a_job_gets_a_new_folder(jobs):
    assert choose_job(run_cfg(jobs, job_name="mine")).isdigit()


def test_a_disk_without_room_for_one_checkpoint_is_an_error_and_for_two_a_warning(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path / "job", iters_per_epoch=10, keep_last=None)
    checkpoints.check_room(1000, step=0)
    assert caplog.text == ""
    free = free_bytes(tmp_path)
    checkpoints.check_room(free * 3 // 4, step=0)
    assert "/job: the disk has " in caplog.text and "run.keep_last deletes older ones" in caplog.text
    with pytest.raises(NotWrittenError, match=r"checkpoint_2\.pth cannot be written: No space left on device \(needs "):
        checkpoints.check_room(free * 2, step=20)
