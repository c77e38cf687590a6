"""Finds the YAML files that the package ships by name, in a checkout and in an installation."""

from __future__ import annotations

from pathlib import Path

from minigpt4.common.registry import did_you_mean

PACKAGE_DIR = Path(__file__).resolve().parents[1]
FOLDERS = ("train_configs", "eval_configs")


def shipped_configs() -> dict[str, Path]:
    """Return every shipped file by its path without the suffix, as train_configs/minigptv2_finetune."""
    return {f"{folder}/{path.stem}": path for folder in FOLDERS for path in sorted(folder_of(folder).glob("*.yaml"))}


def folder_of(name: str) -> Path:
    """Return a folder of shipped files: inside the installed package, or beside the package in a checkout."""
    inside = PACKAGE_DIR / name
    return inside if inside.is_dir() else PACKAGE_DIR.parent / name


def find_config(given: str) -> Path:
    """Return the YAML file that a user names: a file that exists, else a shipped one, with or without its folder.

    Another path is returned as it is; reading it gives the error.
    Raises: ValueError for a name without a suffix that no shipped file has, or that two of them have.
    """
    if Path(given).is_file():
        return Path(given)
    shipped, wanted = shipped_configs(), Path(given.removesuffix(".yaml")).as_posix()
    found = [name for name in shipped if wanted in (name, name.partition("/")[2])]
    if len(found) == 1:
        return shipped[found[0]]
    if found:
        raise ValueError(f"{given} names two files that the package ships: {' and '.join(found)}; give one of these")
    if "/" in wanted or Path(given).suffix or Path(given).exists():
        return Path(given)
    names = [name.partition("/")[2] for name in shipped]
    known = "".join(f"\n  {name}" for name in shipped)
    raise ValueError(
        f"{given}: no such file, and the package ships no YAML file of this name{did_you_mean(given, names)}. "
        f"It ships:{known}"
    )
