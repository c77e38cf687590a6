"""Runs that are stopped, killed or broken, in real processes: no checkpoint is lost, a resumed run is the same run."""

import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from minigpt4.runners.stop import EXIT_CODE
from tests.forked import SECONDS, Script, environment
from tests.runners.test_training_runs import checkpoint
from tests.runners.tiny import (
    DATA,
    ROOT,
    log_lines,
    tiny_config,
    torchrun,
    train,
    train_by_torchrun,
    train_on_ranks,
    words_of,
)


def start(tmp_path, config, *options):
    return Script(words_of(tmp_path, config, *options), cwd=DATA, stdout=tmp_path / "stderr.txt")


def start_torchrun(tmp_path, config):
    with (tmp_path / "stderr.txt").open("a") as log:
        how = {"cwd": DATA, "env": environment(), "start_new_session": True}
        return subprocess.Popen(torchrun(tmp_path, config), stderr=log, stdout=log, **how)


def reaches_step(tmp_path, step, process):
    """Wait until the run has logged a step; return False when it ends before."""
    deadline = time.monotonic() + SECONDS
    log = tmp_path / "out" / "job" / "log.txt"
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) > step:
            return True
        time.sleep(0.05)
    return False


def wait_for_step(tmp_path, step, process, said="stderr.txt"):
    assert reaches_step(tmp_path, step, process), (tmp_path / said).read_text()[-3000:]


def losses(tmp_path):
    """Return the loss of each step; a step that was taken again must have lost the same."""
    found = {}
    for line in log_lines(tmp_path):
        assert found.setdefault(line["step"], line["loss"]) == line["loss"], line["step"]
    return found


def config_of(**run):
    options = {"max_epoch": 2, "iters_per_epoch": 15, "accum_grad_iters": 2, "num_workers": 2, "save_every_steps": 4}
    return tiny_config(**{**options, **run})


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    path = tmp_path_factory.mktemp("unbroken")
    done = train(path, config_of())
    assert done.returncode == 0, done.stderr
    return losses(path), checkpoint(path, 1)["model"]


def is_unbroken(tmp_path, unbroken):
    expected, weights = unbroken
    found = losses(tmp_path)
    assert found == {step: expected[step] for step in found} and max(found) == 29
    ours = checkpoint(tmp_path, 1)["model"]
    assert all(torch.equal(ours[name], weights[name]) for name in weights)


def kill_and_resume(tmp_path, unbroken, rng, num_kills):
    """Kill the run at random moments, also while it saves; each time it continues from its newest checkpoint."""
    kills = 0
    options = ("run.resume_ckpt_path=auto", "run.job_id=job")
    for _ in range(num_kills):
        process = start(tmp_path, config_of(), *options)
        seen = len(log_lines(tmp_path)) if (tmp_path / "out/job/log.txt").exists() else 0
        goes_on = reaches_step(tmp_path, seen + rng.randrange(6), process)
        time.sleep(rng.random() * 0.2)
        if not goes_on or process.poll() is not None:  # a busy machine may be too late to kill it again
            break
        os.killpg(process.pid, signal.SIGKILL)
        kills += process.wait(timeout=SECONDS) == -signal.SIGKILL
    done = train(tmp_path, config_of(), *options)
    assert done.returncode == 0, done.stderr
    is_unbroken(tmp_path, unbroken)
    assert kills >= 1


def test_a_run_killed_three_times_is_the_unbroken_run(tmp_path, unbroken):
    kill_and_resume(tmp_path, unbroken, random.Random(1), 3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(7))
def test_a_run_killed_again_and_again_is_the_unbroken_run(tmp_path, unbroken, seed):
    kill_and_resume(tmp_path, unbroken, random.Random(100 + seed), 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_saves_and_stops_and_the_rest_is_the_same(tmp_path, unbroken, number):
    """The signal goes to the data workers too, as clusters and terminals send it."""
    process = start(tmp_path, config_of(save_every_steps=None))
    wait_for_step(tmp_path, 5, process)
    os.killpg(process.pid, number)
    assert process.wait(timeout=SECONDS) == EXIT_CODE
    done = train(tmp_path, config_of(), "run.resume_ckpt_path=auto")
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stderr
    is_unbroken(tmp_path, unbroken)


def test_sigterm_to_torchrun_saves_on_two_ranks_and_ends_in_time(tmp_path):
    config = tiny_config(max_epoch=1, iters_per_epoch=400, num_workers=1)
    process = start_torchrun(tmp_path, config)
    wait_for_step(tmp_path, 3, process)
    process.terminate()  # torchrun passes it on to the process group of each rank
    process.wait(timeout=SECONDS)
    [saved] = (tmp_path / "out/job").glob("checkpoint_step_*.pth")
    assert torch.load(saved, weights_only=True)["step"] == max(losses(tmp_path)) + 1


def test_another_number_of_ranks_continues_with_a_warning(tmp_path):
    config = tiny_config(max_epoch=2)
    assert train_on_ranks(tmp_path, config).returncode == 0
    path = tmp_path / "out/job/checkpoint_0.pth"
    done = train(tmp_path, config, f"run.resume_ckpt_path={path}", "run.job_id=alone")
    assert done.returncode == 0, done.stderr
    assert "was written by 2 processes, this run has 1" in done.stderr
    assert checkpoint(tmp_path, 1, "alone")["history"] == [(0, 2), (3, 1)]


def children_of(process, *, having="", of="cmdline"):
    """Return the children of a process, or of one of a number, with a word in the command line or the environment."""
    pid = getattr(process, "pid", process)
    pids = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in pids if having in Path(f"/proc/{pid}/{of}").read_text().split("\0")]


def test_a_killed_worker_ends_the_run(tmp_path):
    process = start(tmp_path, tiny_config(max_epoch=1, iters_per_epoch=2000, num_workers=2))
    wait_for_step(tmp_path, 3, process)
    os.kill(children_of(process)[0], signal.SIGKILL)
    assert process.wait(timeout=SECONDS) not in (0, EXIT_CODE)
    said = (tmp_path / "stderr.txt").read_text()
    # PyTorch's own handler raises wherever the loop is; our words stand where the broken pipe is found first
    assert "a data worker died" in said or "is killed by signal: Killed" in said


def test_a_killed_worker_of_one_rank_ends_the_job_with_the_traceback_of_that_rank(tmp_path):
    process = start_torchrun(tmp_path, tiny_config(max_epoch=1, iters_per_epoch=4000, num_workers=1))
    wait_for_step(tmp_path, 3, process)
    [second] = children_of(process, having="RANK=1", of="environ")
    [worker] = children_of(second, having="--cfg-path")
    os.kill(worker, signal.SIGKILL)
    assert process.wait(timeout=SECONDS) not in (0, EXIT_CODE)
    last = (tmp_path / "stderr.txt").read_text().split("Root Cause")[1]
    assert "rank      : 1" in last
    assert "runner.train()" in last
    assert "a data worker died" in last or "is killed by signal: Killed" in last


RAISES_ON_RANK_1 = """
import torch.distributed as dist
from minigpt4.common.registry import registry
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask

@registry.register_task("raises_on_rank_1")
class RaisesOnRank1(ImageTextPretrainTask):
    num_steps = 0

    def train_step(self, model, batch):
        self.num_steps += 1
        if dist.get_rank() == 1 and self.num_steps == 3:
            raise RuntimeError("the third step of rank 1 fails")
        return super().train_step(model, batch)

import train
train.main()
"""


def test_a_rank_that_raises_ends_the_job_with_its_traceback(tmp_path):
    script = tmp_path / "raises.py"
    script.write_text(RAISES_ON_RANK_1)
    config = tiny_config(max_epoch=1, iters_per_epoch=4000, task="raises_on_rank_1")
    command = torchrun(tmp_path, config)
    command[command.index(str(ROOT / "train.py"))] = str(script)
    done = subprocess.run(command, cwd=DATA, env=environment(), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode not in (0, EXIT_CODE)
    last = done.stderr.split("Root Cause")[1]
    assert "rank      : 1" in last
    assert "runner.train()" in last and "the third step of rank 1 fails" in last


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_leaves_the_checkpoint_before_usable(tmp_path, unbroken):
    out = tmp_path / "out"
    out.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(out)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        full = train(tmp_path, config_of())
        assert full.returncode != 0
        assert "No space left on device" in full.stderr or "unexpected pos" in full.stderr
        saved = sorted((out / "job").glob("checkpoint_*.pth"))
        assert saved
        subprocess.run(["mount", "-o", "remount,size=50m", str(out)], check=True)
        done = train(tmp_path, config_of(), "run.resume_ckpt_path=auto")
        assert done.returncode == 0, done.stderr
        is_unbroken(tmp_path, unbroken)
    finally:
        subprocess.run(["umount", str(out)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_ends_two_ranks_with_the_path_and_the_bytes_as_last_words(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(out)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        full = train_by_torchrun(tmp_path, config_of())
    finally:
        subprocess.run(["umount", str(out)], check=True)
    assert full.returncode != 0
    [line] = re.findall(r"^train\.py: \S+/checkpoint_\S+\.pth cannot be written: .*", full.stderr, re.MULTILINE)
    assert re.search(r"No space left on device \(needs [\d.]+ MB, [\d.]+ MB are free\)$", line)
    assert line in full.stderr.split("Root Cause")[1]
