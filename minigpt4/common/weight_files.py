"""Weight files: tensors' names and shapes by their headers, and the files of a model folder of transformers."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from minigpt4.common.checkpoint import check_weight_file, read_tensors
from minigpt4.common.downloads import is_hub_id
from minigpt4.common.paths import wrong_path

Shapes = Mapping[str, tuple[int, ...]]
MAX_NAMED = 4
"""The number of tensors that a message names."""

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""transformers takes the first of these that is there."""
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "adapter_model.bin", "adapter_model.safetensors")


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


def local_folder(name: str) -> Path | None:
    """Return a model's folder on this machine, also in the hub's cache; None where there is none yet."""
    if os.path.isdir(name):
        return Path(name)
    if not is_hub_id(name):
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def config_of(folder: Path | None) -> dict[str, Any]:
    """Return config.json of a folder; empty where it cannot be read, which the check and the loading report."""
    try:
        return {} if folder is None else read_json(folder / "config.json")
    except ValueError:
        return {}


def read_json(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file. Raises: ValueError, in words that begin with the file's name."""
    wrong = wrong_path(str(path))
    if wrong:
        raise ValueError(wrong.replace(f"{path.parent}/", "", 1))
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, not a JSON object")
    return content


def weight_paths(folder: Path) -> list[Path]:
    """Return the weight files of a folder that transformers would load; files that an index lists may be absent.

    Raises: ValueError when there are none, or, as `read_json`, when an index cannot be read or lists none.
    """
    chosen = next((folder / name for name in WEIGHTS if os.path.lexists(folder / name)), None)
    if chosen is None:
        for suffix in (".safetensors", ".bin"):
            paths = sorted(path for path in folder.glob(f"*{suffix}") if path.name not in _NO_WEIGHTS)
            if paths:
                return paths
        raise ValueError("no weights (*.safetensors or *.bin)")
    if chosen.suffix != ".json":
        return [chosen]
    files = read_json(chosen).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise ValueError(f"{chosen.name} has no weight_map of tensors and their files")
    return [folder / name for name in sorted(set(files.values()))]
