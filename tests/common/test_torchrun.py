import json
import os
import subprocess
import sys

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from minigpt4.common.torchrun import tell_reason, watch

AGENT = """
import os, subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-c", ""])
os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody took note yet
if sys.argv[1] == "takes note":
    rank.wait()
print(rank.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("how", "killed"), [("hangs", True), ("takes note", False)])
def test_a_parent_that_takes_no_note_of_its_ended_child_is_killed(how, killed):
    with subprocess.Popen([sys.executable, "-c", AGENT, how], stdout=subprocess.PIPE, text=True) as agent:
        rank = int(agent.stdout.readline())
        assert watch(rank, agent.pid, patience=3.0) == killed
        assert (agent.poll() is None) or killed
        agent.kill()


def test_torchrun_reads_the_reason_of_a_rank(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    tell_reason("train.py: x.pth cannot be written")
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(tmp_path / "error.json"))
    assert failure.message["message"] == "train.py: x.pth cannot be written"
    assert "x.pth cannot be written" in ChildFailedError("train.py", {0: failure}).format_msg()
    assert failure.timestamp == int(
        json.loads((tmp_path / "error.json").read_text())["message"]["extraInfo"]["timestamp"]
    )


def test_a_child_that_is_alive_costs_its_parent_nothing():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        assert not watch(child.pid, os.getpid(), patience=0.5)
        child.kill()
