"""Names and shapes of tensors: read from a weight file's header, and compared with those of a model."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from minigpt4.common.paths import one_line, wrong_path

Shapes = Mapping[str, tuple[int, ...]]
MAX_NAMED = 4
"""The number of tensors that a message names."""
PICKLE = b"\x80"
"""A pickle begins so, as torch before 1.6 wrote its files."""


def misfit(given: Shapes, wanted: Shapes, *, ignores_more: bool = False) -> str | None:
    """Return which tensors are missing, unexpected or of another shape than `wanted`, in words; None when all fit.

    `ignores_more` allows names that are not wanted.
    """
    missing = [name for name in wanted if name not in given]
    unexpected = [] if ignores_more else [name for name in given if name not in wanted]
    shapes = [f"{name} {given[name]}, not {shape}" for name, shape in wanted.items() if given.get(name, shape) != shape]
    if not (missing or unexpected or shapes):
        return None
    more = "" if ignores_more else f"unexpected {first_of(unexpected)}, "
    return f"missing {first_of(missing)}, {more}shapes {first_of(shapes)}"


def first_of(names: Sequence[str]) -> str:
    """Return a list for a message: the first few names, and how many there are in all."""
    if len(names) <= MAX_NAMED:
        return str(list(names))
    return f"{str(list(names[:MAX_NAMED]))[:-1]}, .. {len(names)} in all]"


def read_shapes(path: str) -> Shapes | None:
    """Return the shapes of a .safetensors, .pth or .bin file by name, with "/" between the keys of inner dictionaries.

    None for a pickle as torch before 1.6 wrote it, which says nothing before it is read.
    Raises: ValueError, in words that begin with the path, when the file is absent, cut off or no weight file.
    """
    wrong = wrong_path(path)
    if wrong:
        raise ValueError(wrong)
    if os.path.getsize(path) == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    return _of_safetensors(path) if path.endswith(".safetensors") else _of_torch(path)


def _of_safetensors(path: str) -> Shapes:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:  # compares the header with the file's length
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is cut off or no safetensors file: {one_line(error)}") from error


def _of_torch(path: str) -> Shapes | None:
    import torch

    with open(path, "rb") as file:
        is_pickle = file.read(1) == PICKLE
    if is_pickle:
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ValueError(f"{path} is cut off or no file of weights: {one_line(error)}") from error
    if not any(name.endswith("/data.pkl") for name in names):
        raise ValueError(f"{path} is a zip archive without weights")
    try:
        content = torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path}: not read, since it is damaged or holds more than tensors: {one_line(error)}"
        ) from error
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise ValueError(f"{path} is damaged: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors")
    return dict(_shapes(content, ""))


def _shapes(content: dict[Any, Any], above: str) -> Any:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _shapes(value, f"{above}{name}/")
        elif hasattr(value, "shape"):
            yield f"{above}{name}", tuple(value.shape)
