"""Jobs on two machines: network namespaces with a switch between them, whose link is cut while they train."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from minigpt4.common.liveness import EXIT_CODE
from tests.runners.test_stopping import wait_for_step
from tests.runners.test_training_runs import checkpoint
from tests.runners.test_validation import config_of
from tests.runners.tiny import DATA, ROOT, environment, log_lines, tiny_config, train_by_torchrun, write_config

ADDRESSES = ("10.77.0.1", "10.77.0.2")
LIMIT = 150
"""Seconds in which both machines end after the link is cut."""

pytestmark = pytest.mark.slow


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Machines:
    """Two machines at a switch, which no other process of this computer is connected to."""

    def __init__(self, name):
        self.names = [f"{name}a", f"{name}b", f"{name}s"]
        switch = self.names[2]
        for machine in self.names:
            ip("netns", "add", machine)
            ip("-n", machine, "link", "set", "lo", "up")
        ip("-n", switch, "link", "add", "switch0", "type", "bridge")
        ip("-n", switch, "link", "set", "switch0", "up")
        for number, (machine, address) in enumerate(zip(self.names, ADDRESSES, strict=False)):
            port = f"port{number}"
            ip("-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", machine)
            ip("-n", machine, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", machine, "link", "set", "eth0", "up")
            ip("-n", switch, "link", "set", port, "master", "switch0")
            ip("-n", switch, "link", "set", port, "up")

    def cut(self):
        """Take a port off the switch: both machines see a link that is up and carries nothing."""
        ip("-n", self.names[2], "link", "set", "port1", "nomaster")

    def start(self, number, tmp_path, config, *options, rendezvous="static", script=ROOT / "train.py"):
        """Start torchrun with one rank on a machine, each with its own folder for what it says."""
        meeting = ["--node_rank", str(number), "--master_addr", ADDRESSES[0], "--master_port", "29511"]
        if rendezvous == "c10d":
            endpoint = f"{ADDRESSES[0]}:29511"
            meeting = ["--rdzv_backend", "c10d", "--rdzv_endpoint", endpoint, "--rdzv_id", "job"]
            meeting += ["--rdzv_conf", f"is_host={int(number == 0)}", "--local_addr", ADDRESSES[number]]
        command = ["ip", "netns", "exec", self.names[number], sys.executable, "-m", "torch.distributed.run"]
        command += ["--nnodes", "2", "--nproc_per_node", "1", *meeting, str(script)]
        command += ["--cfg-path", str(write_config(tmp_path, config)), "--options", f"run.output_dir={tmp_path}/out"]
        log = (tmp_path / f"machine{number}.txt").open("w")
        names = {"GLOO_SOCKET_IFNAME": "eth0", "TP_SOCKET_IFNAME": "eth0"}
        return subprocess.Popen(
            [*command, *options], cwd=DATA, env=environment() | names, stderr=log, stdout=log, start_new_session=True
        )

    def remove(self):
        for machine in self.names:
            subprocess.run(["ip", "netns", "del", machine], capture_output=True)


@pytest.fixture
def machines():
    """Two machines; skips where namespaces are not allowed."""
    name = f"mg{os.getpid()}"
    try:
        found = Machines(name)
    except OSError as error:
        for letter in "abs":
            subprocess.run(["sh", "-c", f"ip netns del {name}{letter}"], capture_output=True)
        pytest.skip(f"no network namespaces here: {error}")
    yield found
    found.remove()


@pytest.fixture
def both(machines):
    """Return a function that starts both machines; at the end they are killed."""
    started = []

    def start(tmp_path, config, *options, **how):
        started.extend(machines.start(number, tmp_path, config, *options, **how) for number in (0, 1))
        return started

    yield start
    for process in started:
        for pid in descendants(process.pid):
            os.kill(pid, signal.SIGKILL)


def descendants(pid):
    """Return a process and all below it that are there."""
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    below = [each for child in found for each in descendants(int(child))]
    return [*below, *([pid] if os.path.exists(f"/proc/{pid}") else [])]


def ended(process, deadline):
    """Wait for a machine's processes; return the seconds that it took."""
    began = time.monotonic()
    process.wait(timeout=max(deadline - began, 0.1))
    return time.monotonic() - began


def long_run(**run):
    return tiny_config(max_epoch=1, iters_per_epoch=200_000, **run)


@pytest.mark.parametrize("rendezvous", ["static", "c10d"])
def test_a_cut_link_ends_both_machines_with_rank_and_step_named(tmp_path, machines, both, rendezvous):
    processes = both(tmp_path, long_run(), rendezvous=rendezvous)
    wait_for_step(tmp_path, 20, processes[0], said="machine0.txt")
    machines.cut()
    deadline = time.monotonic() + LIMIT
    seconds = [ended(process, deadline) for process in processes]
    print(f"{rendezvous}: ended after {seconds[0]:.0f} s and {sum(seconds):.0f} s")
    steps = max(line["step"] for line in log_lines(tmp_path))
    first, second = ((tmp_path / f"machine{number}.txt").read_text() for number in (0, 1))
    assert "no heartbeat for 120 s" in first and f"this rank ends (step {steps + 1}, " in first
    assert re.search(r"lost: rank 1 \(last: step \d+, ", first)
    assert "the job's store has not answered rank 1 for 120 s" in second and "this rank ends (step " in second
    assert f"exitcode  : {EXIT_CODE}" in first


def test_a_machine_whose_processes_are_killed_ends_the_other_within_a_minute(tmp_path, both):
    processes = both(tmp_path, long_run())
    wait_for_step(tmp_path, 20, processes[0], said="machine0.txt")
    for pid in descendants(processes[1].pid):
        os.kill(pid, signal.SIGKILL)
    seconds = ended(processes[0], time.monotonic() + 60)
    print(f"ended after {seconds:.0f} s")
    assert processes[0].returncode != 0


def test_two_machines_train_the_same_bits_as_two_ranks_on_one(tmp_path, both):
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    done = train_by_torchrun(one, tiny_config())
    assert done.returncode == 0, done.stderr
    for process in both(two, tiny_config()):
        assert process.wait(timeout=300) == 0, (two / "machine0.txt").read_text()
    ours, theirs = (checkpoint(path, 1)["model"] for path in (one, two))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [line["loss"] for line in log_lines(one)] == [line["loss"] for line in log_lines(two)]


SLEEPY = """
import os, time
import train
from minigpt4.common.registry import registry
from minigpt4.runners.runner_base import RunnerBase
from minigpt4.runners.validation import _EveryRow

@registry.register_runner("sleepy")
class Sleepy(RunnerBase):
    def loader(self, dataset, sampler):
        if isinstance(sampler, _EveryRow) and os.environ["RANK"] == "1":
            time.sleep(200)
        return super().loader(dataset, sampler)

train.main()
"""


def test_a_rank_that_sleeps_in_validation_is_waited_for(tmp_path):
    script = tmp_path / "sleepy.py"
    script.write_text(SLEEPY)
    config = config_of(tmp_path, max_epoch=1, iters_per_epoch=2, runner="sleepy")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    command += ["--cfg-path", str(write_config(tmp_path, config)), "--options", f"run.output_dir={tmp_path}/out"]
    done = subprocess.run(command, cwd=DATA, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "waiting for rank 1: step 1, validating since " in done.stderr
