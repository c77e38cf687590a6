"""Downloads: once for all processes of a machine, and an error within seconds without a network."""

from __future__ import annotations

import contextlib
import functools
import glob
import logging
import os
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlparse

from tqdm import tqdm

from minigpt4.common.files import problem
from minigpt4.common.liveness import pulse
from minigpt4.common.locks import locked

logger = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE = 10.0
"""Seconds until a server must answer."""
DOWNLOAD_SECONDS = 24 * 3600.0
"""Seconds that a process waits for another one's download while it progresses."""
_CHUNK = 1 << 20
_PART = ".part"


class UnreachableError(ValueError):
    """The hub does not answer, and its cache lacks the repository."""


def downloaded_to(source: str) -> Path | None:
    """Return the file in torch's hub cache where the download of a URL is kept; None for a path."""
    import torch

    address = urlparse(source)
    if address.scheme not in ("http", "https", "file"):
        return None
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(address.path).name


def download_once(source: str, path: Path) -> None:
    """Download a URL to a file unless it exists; one process of a machine downloads, the others wait.

    Raises: OSError when the server does not answer, or the file cannot be written.
    """
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)

    def sizes() -> list[int]:
        return [os.path.getsize(part) for part in glob.glob(f"{glob.escape(str(path))}.*{_PART}")]

    holder = f"{path}: another process downloads it"
    with pulse.during(f"downloading {path.name}"):
        lock = locked(f"{path}.lock", holder=holder, sign=sizes, limit=DOWNLOAD_SECONDS)
        try:
            if not path.is_file():
                _download(source, path)
        finally:
            if lock is not None:
                lock.release()


def _download(source: str, path: Path) -> None:
    """Download a URL beside its file and rename it. Raises: OSError, also when the server sends too few bytes."""
    logger.info("downloading %s to %s", source, path)
    with urllib.request.urlopen(source, timeout=PATIENCE) as answer:
        size = int(answer.headers.get("Content-Length") or 0)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{path.name}.", suffix=_PART, delete=False) as file:
            try:
                bar = tqdm(total=size or None, unit="B", unit_scale=True, disable=not sys.stderr.isatty())
                with bar:
                    while chunk := answer.read(_CHUNK):
                        _write(file, chunk, path, size)
                        bar.update(len(chunk))
                _write(file, b"", path, size)
                if size and os.path.getsize(file.name) != size:
                    raise OSError(f"{os.path.getsize(file.name)} bytes came of {size}")
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise


def _write(file: Any, chunk: bytes, path: Path, size: int) -> None:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise OSError(problem(path, error, lambda: size)) from error


def from_hub(key: str, repo_id: str, fetch: Callable[[bool], T], *, thing: str = "its folder") -> T:
    """Return the result of `fetch`, which gets whether it may read only the hub's cache, as without a network.

    Errors of `fetch` are raised as they are while the hub answers.
    Raises: UnreachableError naming the option and the local alternative.
    """
    from huggingface_hub import constants

    offline = bool(constants.HF_HUB_OFFLINE)
    local_only = offline or not answers(constants.ENDPOINT)
    try:
        with pulse.during(f"fetching {repo_id}"):
            return fetch(local_only)
    except (OSError, ValueError) as error:
        if not local_only:
            raise
        raise UnreachableError(unreachable(key, repo_id, thing=thing)) from error


def unreachable(key: str, repo_id: str, *, thing: str = "its folder") -> str:
    """Return the message about a repository that neither the hub nor its cache can give."""
    from huggingface_hub import constants

    reason = "HF_HUB_OFFLINE forbids a request to the hub" if constants.HF_HUB_OFFLINE else "cannot reach the hub"
    return (
        f"{key}: {reason} for {repo_id} ({constants.ENDPOINT}), and its cache does not hold it; "
        f"download it elsewhere and set {key} to {thing} (docs/data.md)"
    )


def is_hub_id(name: str) -> bool:
    """Return whether a name is of the form `owner/repository` and no folder here."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not os.path.isdir(name)


def in_cache(repo_id: str, name: str) -> bool:
    """Return whether the hub's cache holds a file of a repository."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo_id, name), str)


@functools.cache
def answers(address: str) -> bool:
    """Return whether a server answers anything within PATIENCE seconds; asked once a process."""
    from huggingface_hub import get_session

    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(Exception):
            get_session().head(address, timeout=PATIENCE / 2)
            answered.set()
        ended.set()

    ended = threading.Event()
    threading.Thread(target=ask, name="hub", daemon=True).start()  # a name server may take longer than any time-out
    ended.wait(PATIENCE)
    return answered.is_set()
