import os
import subprocess
import sys

import pytest

from minigpt4.common.hung_agent import watch

AGENT = """
import subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-c", ""])
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


def test_a_child_that_is_alive_costs_its_parent_nothing():
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        assert not watch(child.pid, os.getpid(), patience=0.5)
        child.kill()
