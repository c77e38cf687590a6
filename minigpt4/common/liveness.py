"""Heartbeats: each rank reports to the others what it does; the job ends when a rank's heartbeat stops.

A collective waits for a lost machine until its own time-out. A heartbeat distinguishes slow ranks from lost ones.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from minigpt4.common.torchrun import end_if_it_hangs, tell_reason

logger = logging.getLogger(__name__)

EXIT_CODE = 74
"""The exit code of a process that ends because another rank, or the job's store, is lost."""
INTERVAL = 5.0
"""Seconds between two heartbeats."""
TICK = 1.0
FAILED_GRACE = 20.0
"""Seconds that torchrun has to end the other ranks after one failed, before they end by themselves."""
WAIT_SECONDS, WAIT_AGAIN, LONG_STEP = 20.0, 60.0, 120.0
"""Seconds after which rank 0 logs what the job waits for, logs it again, and logs that all ranks are in one step."""
READING, TRAINING, WAITING = "reading data", "training", "waiting for the other ranks"
DONE, FAILED = "done", "failed"


class Pulse:
    """What this process does now; the main thread sets the attributes, the heartbeat's thread reads them."""

    step: int | None = None
    doing = "starting"

    @contextlib.contextmanager
    def during(self, doing: str) -> Iterator[None]:
        """Set `doing` inside the context."""
        before, self.doing = self.doing, doing
        try:
            yield
        finally:
            self.doing = before


pulse = Pulse()
"""The pulse of this process."""


@dataclass(frozen=True)
class Beat:
    """One heartbeat of a rank: its number, what the rank does, and for how many seconds."""

    number: int
    step: int | None
    doing: str
    seconds: float
    end: str = ""  # done or failed in the rank's last heartbeat
    reason: str = ""

    def place(self) -> str:
        """Return the step and the work of the rank, in words."""
        return self.doing if self.step is None else f"step {self.step}, {self.doing}"


class Ranks:
    """The last heartbeat of each rank, and for how long it has been silent."""

    def __init__(self, world_size: int) -> None:
        self.beats: dict[int, Beat | None] = dict.fromkeys(range(world_size))
        self.silent: dict[int, float] = dict.fromkeys(range(world_size), 0.0)

    def update(self, beats: Mapping[int, Beat], seconds: float) -> None:
        """Take the heartbeats that were read `seconds` after the ones before."""
        for rank, known in self.beats.items():
            beat = beats.get(rank)
            if beat is None or beat == known:
                self.silent[rank] += seconds
            else:
                self.beats[rank], self.silent[rank] = beat, 0.0

    def place(self, rank: int) -> str:
        """Return the last known step and work of a rank, in words."""
        beat = self.beats[rank]
        return "never heard" if beat is None else beat.place()

    def failed(self) -> tuple[int, Beat] | None:
        """Return the first rank that reported a failure, with its last heartbeat."""
        return next(((rank, beat) for rank, beat in self.beats.items() if beat and beat.end == FAILED), None)

    def lost(self, timeout: float) -> list[int]:
        """Return the ranks that did not report their end and have been silent for `timeout` seconds."""
        ended = [rank for rank, beat in self.beats.items() if beat and beat.end]
        return [rank for rank, silent in self.silent.items() if silent >= timeout and rank not in ended]

    def waited_for(self) -> str | None:
        """Return what the job has waited for since WAIT_SECONDS, or None when it does not wait."""
        alive = {rank: beat for rank, beat in self.beats.items() if beat and not beat.end}
        steps = [beat.step for beat in alive.values() if beat.step is not None]
        furthest = max(steps, default=None)
        in_collectives = [beat for beat in alive.values() if beat.doing in (TRAINING, WAITING)]
        ahead = [beat for beat in in_collectives if beat.step == furthest]
        if not any(beat.seconds >= WAIT_SECONDS for beat in ahead):
            return None
        behind = [rank for rank, beat in alive.items() if beat not in ahead]
        if behind:
            each = "; ".join(f"rank {rank}: {self._since(rank)}" for rank in behind[:4])
            return each + (f"; and {len(behind) - 4} more ranks" if len(behind) > 4 else "")
        latest = min(alive.values(), key=lambda beat: beat.seconds)
        return f"all ranks: {latest.place()} since {latest.seconds:.0f} s" if latest.seconds >= LONG_STEP else None

    def _since(self, rank: int) -> str:
        beat, silent = self.beats[rank], self.silent[rank]
        if silent >= WAIT_SECONDS:
            return f"no heartbeat for {silent:.0f} s, the last: {self.place(rank)}"
        return f"{self.place(rank)} since {beat.seconds if beat else 0:.0f} s"


class Liveness:
    """The heartbeat of one rank.

    One thread reads and writes the job's store over its own connection, and may hang with it. A second thread decides
    whether the job continues, and never uses the store. Both count only the time in which they ran: a process that was
    suspended does not blame the others.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        *,
        rank: int,
        world_size: int,
        timeout: float,
        end: Callable[[str], None],
        interval: float = INTERVAL,
        tick: float = TICK,
        grace: float = FAILED_GRACE,
    ) -> None:
        self.rank, self.timeout, self.ranks = rank, timeout, Ranks(world_size)
        self._connect, self._end, self._interval, self._tick, self._grace = connect, end, interval, tick, grace
        self._lock, self._wake, self._stopped = threading.Lock(), threading.Event(), threading.Event()
        self._number, self._unreached = 0, 0.0
        self._at: tuple[int | None, str] = (None, "")
        self._since = time.monotonic()
        self._ended = ("", "")
        jobs = {"heartbeat": self._exchange, "liveness": self._decide}
        self._threads = [threading.Thread(target=target, name=name, daemon=True) for name, target in jobs.items()]

    def start(self) -> None:
        """Start both threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, end: str = DONE, reason: str = "") -> None:
        """Report to the others how this rank ends, and stop; stopping again does nothing."""
        if self._stopped.is_set():
            return
        self._ended = (end, reason)
        self._stopped.set()
        self._wake.set()
        for thread in self._threads:
            thread.join(self._interval)

    def _beat(self) -> Beat:
        at = (pulse.step, pulse.doing)
        if at != self._at:
            self._at, self._since = at, time.monotonic()
        self._number += 1
        return Beat(self._number, *at, round(time.monotonic() - self._since, 1), *self._ended)

    def _exchange(self) -> None:
        """Write this rank's heartbeats and read those of the others, until this rank ends."""
        store, before = None, time.monotonic()
        while True:
            last = self._stopped.is_set()
            try:
                store = store or self._connect()
                store.set(_key(self.rank), json.dumps(vars(self._beat())))
                beats = self._read(store)
            except (RuntimeError, OSError, ValueError) as error:  # _decide counts for how long
                logger.debug("the job's store: %s", error)
                store = None
            else:
                now = time.monotonic()
                with self._lock:
                    self.ranks.update(beats, min(now - before, 2 * self._interval))
                    self._unreached = 0.0
                before = now
            if last:
                return
            self._wake.wait(self._interval)
            self._wake.clear()

    def _read(self, store: Any) -> dict[int, Beat]:
        known = [rank for rank, beat in self.ranks.beats.items() if beat or store.check([_key(rank)])]
        values = store.multi_get([_key(rank) for rank in known])
        return {rank: Beat(**json.loads(value)) for rank, value in zip(known, values, strict=True)}

    def _decide(self) -> None:
        """Check all ranks once a tick; end the process when it cannot continue."""
        before, failed_for, waited, said, phase = time.monotonic(), 0.0, 0.0, False, ""
        while not self._stopped.wait(self._tick):
            if phase != (phase := TRAINING if pulse.doing == READING else pulse.doing):
                self._wake.set()  # a new phase is reported at once
            now = time.monotonic()
            seconds, before = min(now - before, 2 * self._tick), now
            with self._lock:
                self._unreached += seconds
                unreached, verdict = self._unreached, self._verdict()
                failed, waited_for = self.ranks.failed(), self.ranks.waited_for()
            failed_for += seconds if failed else 0.0
            if failed and failed_for >= self._grace:
                verdict = f"rank {failed[0]} failed ({failed[1].place()}): {failed[1].reason}"
            if verdict and not self._stopped.is_set():
                self._end(verdict)
                return
            waited = waited + seconds if waited_for else 0.0
            if waited_for is None:
                said = False
            elif self.rank == 0 and unreached < 2 * self._interval and (not said or waited >= WAIT_AGAIN):
                logger.warning("waiting for %s", waited_for)
                waited, said = 0.0, True

    def _verdict(self) -> str | None:
        """Return why this process cannot continue, or None."""
        if self._unreached >= self.timeout:
            places = ", ".join(f"rank {rank} (last: {self.ranks.place(rank)})" for rank in list(self.ranks.beats)[:8])
            return (
                f"the job's store has not answered rank {self.rank} for {self.timeout:.0f} s, so its machine or the "
                f"link to it is lost; {places}"
            )
        lost = self.ranks.lost(self.timeout)
        if not lost:
            return None
        each = "; ".join(f"rank {rank} (last: {self.ranks.place(rank)})" for rank in lost[:8])
        return f"no heartbeat for {self.timeout:.0f} s, so a process, a machine or a link is lost: {each}"


def _key(rank: int) -> str:
    return f"rank{rank}"


def end_process(verdict: str) -> None:
    """Log why and end this process at once, even while its main thread waits."""
    # writing the log may hang, as on a file server that is lost too
    last = threading.Timer(10, os._exit, [EXIT_CODE])
    last.daemon = True
    last.start()
    words = f"{verdict}; this rank ends ({Beat(0, pulse.step, pulse.doing, 0.0).place()}; run.timeout_seconds)"
    logger.critical("%s", words)
    for stream in (*logging.getLogger().handlers, sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    with contextlib.suppress(OSError):
        tell_reason(words)
        end_if_it_hangs()
    os._exit(EXIT_CODE)


def store_of(host: str, port: int, token: str, *, patience: float = 10.0) -> Any:
    """Return a new connection to the job's store, below a prefix of this start of the job.

    Raises: OSError, RuntimeError when it cannot be reached.
    """
    with socket.create_connection((host, port), timeout=patience):
        pass  # first without PyTorch's client, which logs a page of frames for each failure
    timeout = datetime.timedelta(seconds=patience)
    store = dist.TCPStore(host, port, is_master=False, timeout=timeout, wait_for_workers=False)
    return dist.PrefixStore(f"minigpt4/liveness/{token}", store)


class Job:
    """The heartbeat of this process, None before it joins a process group."""

    liveness: Liveness | None = None

    def watch(self, *, rank: int, world_size: int, token: str, timeout: float) -> None:
        """Start the heartbeat, over torchrun's store."""
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self.liveness = Liveness(
            lambda: store_of(host, port, token), rank=rank, world_size=world_size, timeout=timeout, end=end_process
        )
        self.liveness.start()

    def leave(self, end: str = DONE, reason: str = "") -> tuple[int, Beat] | None:
        """Report how this process ends; return another rank that failed before, with its last heartbeat."""
        liveness, self.liveness = self.liveness, None
        if liveness is None:
            return None
        liveness.stop(end, reason)
        failed = liveness.ranks.failed()
        return failed if failed and failed[0] != liveness.rank else None


job = Job()


@contextlib.contextmanager
def told_end(script: str, *, fine: tuple[int, ...] = (0,)) -> Iterator[None]:
    """Report to the other ranks how this process ends: done, or failed and why, so that no rank waits for it.

    When another rank failed first, this process ends with that rank's reason, not with the broken connection.
    """
    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) else 1
        if code is None or code in fine:
            job.leave()
            raise
        reason = (str(error).strip().splitlines() or [""])[0]
        if not isinstance(error, SystemExit):
            reason = f"{type(error).__name__}: {reason}"
        elif isinstance(code, int):
            reason = f"exit code {code}"
        other = job.leave(FAILED, reason[:300])
        if other is not None:
            reason = f"{script}: rank {other[0]} failed first ({other[1].place()}): {other[1].reason}"
            error = SystemExit(reason)
        if isinstance(error, SystemExit) and isinstance(error.code, str):
            with contextlib.suppress(OSError):
                tell_reason(error.code)
        raise error
    job.leave()
