"""Heartbeats: who is lost, who is slow, and how a rank ends."""

import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from minigpt4.common import liveness
from minigpt4.common.liveness import (
    DONE,
    FAILED,
    TRAINING,
    WAITING,
    Beat,
    Liveness,
    Pulse,
    Ranks,
    store_of,
    told_end,
)

PATIENCE = 60
"""Seconds that a test waits at most for a thread."""


@pytest.fixture(autouse=True)
def a_process_that_has_just_begun(monkeypatch):
    """Forget the training that another test ran in this process."""
    monkeypatch.setattr(liveness.pulse, "step", None)
    monkeypatch.setattr(liveness.pulse, "doing", "starting")


def ranks_at(*beats):
    ranks = Ranks(len(beats))
    ranks.update(dict(enumerate(beats)), 5.0)
    return ranks


def at(step, doing=TRAINING, seconds=0.0, number=1, **end):
    return Beat(number, step, doing, seconds, **end)


def test_a_rank_whose_beat_does_not_change_is_silent():
    ranks = ranks_at(at(812), at(812))
    for number in range(2, 6):
        ranks.update({0: at(812, number=number), 1: at(812)}, 30.0)
    assert ranks.silent == {0: 0.0, 1: 120.0}
    assert (ranks.lost(120), ranks.lost(121)) == ([1], [])
    assert ranks.place(1) == "step 812, training"


def test_a_rank_that_was_never_heard_is_lost_too():
    ranks = Ranks(2)
    for number in range(4):
        ranks.update({0: at(1, number=number)}, 30.0)
    assert (ranks.lost(120), ranks.place(1)) == ([1], "never heard")


def test_a_rank_that_beats_is_not_lost_however_long_it_validates():
    ranks = ranks_at(at(9, WAITING), at(9, "validating"))
    for number in range(2, 1000):
        ranks.update({0: at(9, WAITING, number=number), 1: at(9, "validating", number=number)}, 5.0)
    assert ranks.lost(120) == []


@pytest.mark.parametrize("end", [DONE, FAILED])
def test_a_rank_that_said_how_it_ends_is_not_lost(end):
    ranks = ranks_at(at(9), at(9, end=end, reason="why"))
    ranks.update({0: at(9, number=2), 1: at(9, end=end, reason="why")}, 500.0)
    assert ranks.lost(120) == []
    assert (ranks.failed() is not None) == (end == FAILED)


@pytest.mark.parametrize(
    ("beats", "expected"),
    [
        ([at(9, WAITING, 25.0), at(9, "validating", 25.0)], "rank 1: step 9, validating since 25 s"),
        ([at(9, WAITING, 19.0), at(9, "validating", 25.0)], None),
        ([at(9, "saving checkpoint_0.pth", 31.0), at(10, TRAINING, 30.0)], "rank 0: step 9, saving checkpoint_0.pth"),
        ([at(None, WAITING, 30.0), at(None, "evaluating vsr", 99.0)], "rank 1: evaluating vsr since 99 s"),
        ([at(9, TRAINING, 25.0), at(9, "reading data", 25.0)], "rank 1: step 9, reading data since 25 s"),
        ([at(9, TRAINING, 25.0), at(9, TRAINING, 25.0)], None),  # a long step
        ([at(9, TRAINING, 130.0), at(9, TRAINING, 125.0)], "all ranks: step 9, training since 125 s"),
        ([at(9, TRAINING, 25.0), at(10, TRAINING, 0.1)], None),
        ([at(9, WAITING, 30.0), at(9, "validating", 30.0, end=DONE)], None),
    ],
)
def test_what_the_job_waits_for(beats, expected):
    found = ranks_at(*beats).waited_for()
    assert found == expected or (expected and found.startswith(expected))


def test_many_ranks_behind_are_counted():
    beats = [at(9, WAITING, 25.0), *(at(9, "validating", 25.0) for _ in range(6))]
    assert ranks_at(*beats).waited_for().endswith("; and 2 more ranks")


def test_a_silent_rank_that_is_waited_for_is_called_so():
    ranks = ranks_at(at(9), at(9, "reading data"))
    ranks.update({0: at(9, TRAINING, 25.0, number=2), 1: at(9, "reading data")}, 25.0)
    assert ranks.waited_for() == "rank 1: no heartbeat for 25 s, the last: step 9, reading data"


def test_the_pulse_says_what_is_done_inside_a_context():
    pulse = Pulse()
    with pytest.raises(ValueError, match="inside"), pulse.during("validating"):
        assert pulse.doing == "validating"
        raise ValueError("inside")
    assert pulse.doing == "starting"


@pytest.fixture
def port():
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=PATIENCE))
    yield server.port
    del server


class Rank:
    """A rank with short times; `ended` is set to the verdict that would have ended its process."""

    def __init__(self, rank, port, connect=None, **times):
        self.verdict = None
        self.ended = threading.Event()
        how = {"timeout": 3.0, "interval": 0.1, "tick": 0.05, "grace": 1.0, **times}
        connect = connect or (lambda: store_of("127.0.0.1", port, "token"))
        self.liveness = Liveness(connect, rank=rank, world_size=2, end=self._end, **how)
        self.liveness.start()

    def _end(self, verdict):
        self.verdict = verdict
        self.ended.set()


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def heard(rank):
    return rank.liveness.ranks.beats[1 - rank.liveness.rank]


def test_two_ranks_hear_each_other_and_one_that_is_done_is_not_missed(port):
    first, second = Rank(0, port), Rank(1, port)
    wait_until(lambda: heard(first) and heard(second))
    second.liveness.stop()
    wait_until(lambda: heard(first).end == DONE)
    time.sleep(4)  # longer than the time-out
    assert not first.ended.is_set()
    first.liveness.stop()


def test_a_rank_that_fails_ends_the_other_with_its_reason(port):
    first, second = Rank(0, port, timeout=1000.0), Rank(1, port, timeout=1000.0)
    wait_until(lambda: heard(first) and heard(second))
    first.liveness.stop(FAILED, "ValueError: x.pth cannot be written")
    assert second.ended.wait(PATIENCE)
    assert second.verdict == "rank 0 failed (starting): ValueError: x.pth cannot be written"
    second.liveness.stop()


class Link:
    """A store behind a link; once it is cut, calls hang."""

    def __init__(self, port):
        self.store, self.cut, self.mended = store_of("127.0.0.1", port, "token"), False, threading.Event()

    def __getattr__(self, name):
        if self.cut:
            self.mended.wait()
        return getattr(self.store, name)


def test_a_rank_that_falls_silent_ends_the_other_and_a_store_that_does_not_answer_ends_it(port):
    link = Link(port)
    first, second = Rank(0, port), Rank(1, port, connect=lambda: link)
    wait_until(lambda: heard(first) and heard(second))
    link.cut = True
    assert first.ended.wait(PATIENCE) and second.ended.wait(PATIENCE)
    assert first.verdict.startswith("no heartbeat for 3 s, so a process, a machine or a link is lost: rank 1 (last: ")
    assert second.verdict.startswith("the job's store has not answered rank 1 for 3 s")
    link.cut = False
    link.mended.set()
    for rank in (first, second):
        rank.liveness.stop()


def test_a_store_that_comes_back_is_talked_to_again(port):
    calls = []

    def connect():
        calls.append(1)
        if len(calls) < 4:
            raise OSError("refused")
        return store_of("127.0.0.1", port, "token")

    ended = []
    watch = Liveness(connect, rank=0, world_size=1, timeout=PATIENCE, end=ended.append, interval=0.05, tick=0.05)
    watch.start()
    wait_until(lambda: watch.ranks.beats[0] is not None)
    watch.stop()
    assert (len(calls), ended) == (4, [])


def test_starts_of_a_job_do_not_hear_each_other(port):
    store_of("127.0.0.1", port, "before").set("rank1", "x")
    assert not store_of("127.0.0.1", port, "now").check(["rank1"])


def test_an_error_of_a_process_alone_is_raised_as_it_is():
    with pytest.raises(ValueError, match="bad"), told_end("train.py"):
        raise ValueError("bad")


def test_a_rank_that_breaks_after_another_one_ends_with_the_reason_of_that_one(port, monkeypatch):
    first, second = Rank(0, port, timeout=1000.0), Rank(1, port, timeout=1000.0)
    wait_until(lambda: heard(first) and heard(second))
    first.liveness.stop(FAILED, "train.py: x.pth cannot be written")
    monkeypatch.setattr(liveness.job, "liveness", second.liveness)
    reason = r"train.py: rank 0 failed first \(starting\): train.py: x.pth cannot be written"
    with pytest.raises(SystemExit, match=reason), told_end("train.py"):
        raise RuntimeError("Connection closed by peer")


@pytest.mark.parametrize(("code", "end"), [(75, DONE), (0, DONE), (None, DONE), (1, FAILED), ("words", FAILED)])
def test_a_run_that_a_signal_stopped_is_done_and_not_failed(port, monkeypatch, code, end):
    first, second = Rank(0, port, timeout=1000.0, grace=1000.0), Rank(1, port, timeout=1000.0)
    monkeypatch.setattr(liveness.job, "liveness", second.liveness)
    with pytest.raises(SystemExit), told_end("train.py", fine=(0, 75)):
        raise SystemExit(code)
    wait_until(lambda: heard(first) and heard(first).end)
    assert heard(first).end == end
    first.liveness.stop()
