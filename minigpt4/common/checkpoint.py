"""Files of tensors: read without running code, written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from minigpt4.common.files import write_whole
from minigpt4.common.liveness import pulse
from minigpt4.common.paths import one_line, wrong_path

PICKLE = b"\x80"
"""A pickle begins so."""
NEEDED_TO_RESUME = ("model", "optimizer", "epoch")
_JSON_KEYS = {"config", "base_model", "epoch"}
"""What the metadata of a .safetensors checkpoint may hold."""


def read_tensors(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Return what a .pth, .bin or .safetensors file holds, on the CPU.

    With `mmap` the tensors stay in the file, and only the pages that are used are read; .safetensors is always mapped.
    Raises: ValueError, in words that begin with the path, when the file is absent, damaged, no dictionary, or holds
    more than data.
    """
    is_old = check_weight_file(path)
    try:
        if str(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and not is_old)
    except pickle.UnpicklingError as error:
        reason = one_line(error)
        raise ValueError(f"{path}: not read, since it is damaged or holds more than tensors: {reason}") from error
    except Exception as error:  # the type of the error depends on the damage
        kind = "cut off or no safetensors file" if str(path).endswith(".safetensors") else "damaged"
        raise ValueError(f"{path} is {kind}: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def check_weight_file(path: str | Path) -> bool:
    """Return whether a file has the format of torch before 1.6: a pickle, no archive, which cannot be mapped.

    Raises: ValueError, as `read_tensors`, when it is absent, empty, or no archive of torch.
    """
    if wrong := wrong_path(str(path)):
        raise ValueError(wrong)
    with open(path, "rb") as file:
        start = file.read(1)
    if not start:
        raise ValueError(f"{path} is empty (0 bytes)")
    if start == PICKLE or str(path).endswith(".safetensors"):
        return start == PICKLE
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"{path} is cut off or no file of weights: {one_line(error)}") from error
    if not any(name.endswith("/data.pkl") for name in names):
        raise ValueError(f"{path} is a zip archive without weights")
    return False


def read_checkpoint(path: str | Path, *, mmap: bool = False) -> dict[str, Any]:
    """Return a training checkpoint: `model`, and `optimizer`, `scaler`, `config`, `epoch` if it has them.

    A file of tensors only is the model. If names begin with "model." or "model/", these tensors are the model and the
    rest is left out. `mmap` as in `read_tensors`.
    Raises: ValueError naming the file when it cannot be read or has no `model`.
    """
    content = read_tensors(path, mmap=mmap)
    if isinstance(content.get("model"), dict):
        for name, value in content["model"].items():
            if not isinstance(name, str) or not isinstance(value, torch.Tensor):
                raise ValueError(f"{path}: not a training checkpoint, its model holds {name!r}: {value!r:.50}")
        return content
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    others = {str(name): value for name, value in content.items() if str(name) not in tensors}
    if not tensors or set(others) - _JSON_KEYS:
        raise ValueError(f"{path}: not a training checkpoint, it has no 'model' but {sorted(map(str, content))[:5]}")
    for prefix in ("module.", "model.", "model/"):
        wrapped = {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
        tensors = wrapped or tensors
    path = Path(path)
    return {**others, **(_metadata(path) if path.suffix == ".safetensors" else {}), "model": tensors}


def _metadata(path: Path) -> dict[str, Any]:
    """Return `config`, `base_model` and `epoch` from the JSON texts of a .safetensors file's metadata."""
    from safetensors import safe_open

    with safe_open(os.fspath(path), framework="pt", device="cpu") as file:
        metadata = file.metadata() or {}
    found = {}
    for key in _JSON_KEYS & metadata.keys():
        with contextlib.suppress(ValueError):  # another program's metadata
            found[key] = json.loads(metadata[key])
    return found


def write_checkpoint(path: str | Path, state: dict[str, Any]) -> None:
    """Write a checkpoint beside `path`, wait for the disk, and rename it into place.

    Raises: NotWrittenError naming the path, and for a full disk the bytes.
    """

    def save(file: Any) -> None:
        torch.save(state, file)

    with pulse.during(f"saving {Path(path).name}"):
        write_whole(path, save, num_bytes=lambda: _file_bytes(state))


def _file_bytes(state: dict[str, Any]) -> int:
    """Return the size of a checkpoint's file."""
    counter = _Counter()
    torch.save(state, counter)  # type: ignore[arg-type]
    return counter.num_bytes


class _Counter(io.RawIOBase):
    """A file that keeps only its size."""

    num_bytes = 0

    def write(self, data: Any) -> int:
        """Count bytes."""
        size = memoryview(data).nbytes
        self.num_bytes += size
        return size
