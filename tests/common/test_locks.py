"""Locks that somebody else holds: said, waited for while there are signs of work, and gone on without."""

import logging
import multiprocessing
import time

import pytest
from filelock import FileLock

from minigpt4.common import locks
from minigpt4.common.locks import locked, signs_of_work


@pytest.fixture(autouse=True)
def short(monkeypatch, caplog):
    monkeypatch.setattr(locks, "FIRST_LINE", 0.1)
    monkeypatch.setattr(locks, "NO_SIGN", 3.0)
    caplog.set_level(logging.INFO)


def hold(path, held, release):
    with FileLock(path):
        held.set()
        release.wait()


@pytest.fixture
def holder(tmp_path):
    """Another process that holds x.lock until the event is set."""
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    process = context.Process(target=hold, args=(str(tmp_path / "x.lock"), held, release))
    process.start()
    assert held.wait(60)
    yield release
    release.set()
    process.join()


def take(tmp_path, *, sign=lambda: 0, limit=600.0):
    return locked(str(tmp_path / "x.lock"), holder="x: another process writes it", sign=sign, limit=limit)


def test_a_free_lock_is_taken_without_a_word(tmp_path, caplog):
    take(tmp_path).release()
    assert caplog.text == ""


def test_a_lock_without_a_sign_of_work_is_waited_for_in_words_and_gone_on_without(tmp_path, holder, caplog):
    assert take(tmp_path) is None
    first, last = [record.getMessage() for record in caplog.records]
    assert first == "x: another process writes it (x.lock); waiting"
    assert last.startswith("x: another process writes it (x.lock) for ") and last.endswith("; continuing without it")


def test_a_lock_is_waited_for_while_there_are_signs_of_work(tmp_path, holder):
    signs = []

    def sign():
        signs.append(1)
        if len(signs) == 6:  # some seconds, past those without a sign
            holder.set()
        return len(signs)

    lock = take(tmp_path, sign=sign)
    assert lock is not None
    lock.release()


def test_signs_of_work_are_not_waited_for_beyond_the_limit(tmp_path, holder):
    assert take(tmp_path, sign=time.monotonic, limit=2.0) is None


def test_work_renews_the_time_of_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "SIGN_SECONDS", 0.01)
    path = tmp_path / "x.part"
    path.write_text("")
    before = path.stat().st_mtime_ns
    with signs_of_work(path):
        deadline = time.monotonic() + 60
        while path.stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.01)
    assert path.stat().st_mtime_ns > before
