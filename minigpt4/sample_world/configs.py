"""The YAML files of a sample world: the shipped ones, with paths to where it lies."""

from __future__ import annotations

import json
import re
from pathlib import Path

from minigpt4.common.config import shipped_configs

ROOT = "sample_world"
"""The folder that the shipped files name."""
_PATH = re.compile(rf"\b{ROOT}(/[^\s,\]}}]*)")
_PLAIN = re.compile(r"[\w./-]+")
"""A path that YAML reads as it is, without quotes."""


def write_configs(out: Path, *, dev: bool = False) -> None:
    """Write the YAML files below `out`, with paths into it; with `dev` also one for the dev scenes."""
    texts = {
        name: file.read_text(encoding="utf-8") for name, file in shipped_configs().items() if file.stem.startswith(ROOT)
    }
    if dev:
        evaluation = texts[f"eval_configs/{ROOT}"]
        texts[f"eval_configs/{ROOT}_dev"] = evaluation.replace(f"{ROOT}/evaluation_dataset", f"{ROOT}/dev_dataset")
    for name, text in texts.items():
        path = out / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(config_text(text, out.as_posix()), encoding="utf-8")


def config_text(text: str, root: str) -> str:
    """Return the text of a shipped file with every path below `root`."""
    text = text.replace(f"in {ROOT}; make it with: ", f"in {root}; make it with: ")
    text = text.replace(f"--out {ROOT}\n", f"--out {root}\n")
    return _PATH.sub(lambda found: _as_yaml(f"{root}{found[1]}"), text)


def _as_yaml(path: str) -> str:
    return path if _PLAIN.fullmatch(path) else json.dumps(path)
