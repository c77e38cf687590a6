"""TensorBoard and Weights & Biases: they show a run, and can neither delay nor end it."""

from __future__ import annotations

import logging
import math
import netrc
import os
import queue
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from minigpt4.common.files import write_text
from minigpt4.common.schema import RunConfig

logger = logging.getLogger(__name__)

SECONDS_TO_START = 30
SECONDS_TO_FINISH = 20


class Sinks:
    """TensorBoard and, with `run.wandb_log`, wandb; one that fails is left out from then on, with one warning."""

    def __init__(self, folder: Path, run_cfg: RunConfig, config: dict[str, Any], *, start: int) -> None:
        self._sinks: list[TensorBoard | Wandb] = []
        makers: list[type[TensorBoard] | type[Wandb]] = [TensorBoard, *[Wandb] * bool(run_cfg.wandb_log)]
        for maker in makers:
            try:
                self._sinks.append(maker(folder, run_cfg, config, start=start))
            except _NotInstalled as error:
                logger.log(logging.DEBUG if maker is TensorBoard else logging.WARNING, "%s", error)
            except Exception as error:  # no error of a watcher may end the run
                logger.warning("%s does not start, the run continues without it: %s", maker.__name__, error)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """Write the numbers among a step's metrics everywhere."""
        numbers = flat(metrics)
        for sink in list(self._sinks):
            self._guarded(sink, lambda sink=sink: sink.write(metrics["step"], numbers))

    def close(self) -> None:
        """Close all."""
        for sink in list(self._sinks):
            self._guarded(sink, sink.close)
        self._sinks.clear()

    def _guarded(self, sink: TensorBoard | Wandb, act: Any) -> None:
        try:
            act()
        except Exception as error:
            logger.warning("%s fails, the run continues without it: %s", type(sink).__name__, error)
            self._sinks.remove(sink)


class _NotInstalled(Exception):
    """Says which optional package is absent."""


class TensorBoard:
    """Event files in the folder `tensorboard` of the run."""

    def __init__(self, folder: Path, run_cfg: RunConfig, config: dict[str, Any], *, start: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _NotInstalled("tensorboard is not installed") from error
        # steps that an earlier process wrote from `start` on are taken again
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=start or None)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Queue the numbers; a thread of TensorBoard writes them."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        """Write what is queued."""
        self._writer.close()


class Wandb:
    """Weights & Biases in a separate thread: to start, log and finish it may wait for a network."""

    def __init__(self, folder: Path, run_cfg: RunConfig, config: dict[str, Any], *, start: int) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _NotInstalled(
                "run.wandb_log is True but wandb is not installed (pip install wandb); "
                f"{folder} holds all that it would show"
            ) from error
        self._queue: queue.SimpleQueue[dict[str, float] | None] = queue.SimpleQueue()
        options = {
            "project": "minigptv2",
            "name": run_cfg.job_name,
            "id": _run_id(folder / "wandb_id.txt", start),
            "resume": "allow",
            "config": config,
            "dir": str(folder),
            "mode": wandb_mode(os.environ, wandb.Settings().base_url),
            "settings": wandb.Settings(init_timeout=SECONDS_TO_START, console="off"),
        }
        self._thread = threading.Thread(target=self._feed, args=(wandb, options), name="wandb", daemon=True)
        self._thread.start()

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Queue the numbers."""
        if self._thread.is_alive():
            self._queue.put({"step": step, **numbers})

    def close(self) -> None:
        """Wait some seconds while wandb sends the rest."""
        self._queue.put(None)
        self._thread.join(SECONDS_TO_FINISH)
        if self._thread.is_alive():
            logger.warning("wandb is not done after %d s; `wandb sync` sends the rest", SECONDS_TO_FINISH)

    def _feed(self, wandb: Any, options: dict[str, Any]) -> None:
        try:
            run = self._start(wandb, options)
            run.define_metric("*", step_metric="step")  # a resumed run may log a step again
            while (numbers := self._queue.get()) is not None:
                run.log(numbers)
            run.finish()
        except Exception as error:
            logger.warning("wandb fails, the run continues without it: %s", error)

    def _start(self, wandb: Any, options: dict[str, Any]) -> Any:
        try:
            return wandb.init(**options)
        except Exception as error:
            if options["mode"] != "online":
                raise
            logger.warning("wandb cannot connect and continues offline: %s", error)
            other_id = secrets.token_hex(6)  # wandb keeps the id of the failed start
            return wandb.init(**{**options, "mode": "offline", "id": other_id})


def flat(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers among metrics; those of a mapping as `key/name`."""
    found: dict[str, float] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            found |= {f"{key}/{name}": number for name, number in flat(value).items()}
        elif isinstance(value, (int, float)) and math.isfinite(value) and key not in ("step", "time", "start_step"):
            found[key] = value
    return found


def wandb_mode(environment: Mapping[str, str], base_url: str) -> str:
    """Return `WANDB_MODE`, but offline instead of online where there is no key, since wandb would ask for one.

    A key comes from the environment, or from the netrc file where `wandb login` writes it.
    """
    mode = environment.get("WANDB_MODE", "online")
    if mode != "online" or environment.get("WANDB_API_KEY"):
        return mode
    try:
        login = netrc.netrc(environment.get("NETRC")).authenticators(urlsplit(base_url).hostname or "")
    except (OSError, netrc.NetrcParseError):
        login = None
    return "online" if login else "offline"


def _run_id(path: Path, start: int) -> str:
    """Return wandb's id of this run, which its folder keeps; a run from step 0 is a new one."""
    if start and path.is_file():
        return path.read_text(encoding="utf-8").strip()
    run_id = secrets.token_hex(6)
    write_text(path, run_id)
    return run_id
