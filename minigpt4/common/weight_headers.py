"""Names and shapes of tensors: read from a weight file's header, and compared with those of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minigpt4.common.checkpoint import check_weight_file, read_tensors

Shapes = Mapping[str, tuple[int, ...]]
MAX_NAMED = 4
"""The number of tensors that a message names."""


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

    None for a file as torch before 1.6 wrote it, which would have to be read whole.
    Raises: ValueError as `read_tensors`.
    """
    return None if check_weight_file(path) else dict(_shapes(read_tensors(path, mmap=True), ""))


def _shapes(content: dict[Any, Any], above: str) -> Any:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _shapes(value, f"{above}{name}/")
        elif hasattr(value, "shape"):
            yield f"{above}{name}", tuple(value.shape)
