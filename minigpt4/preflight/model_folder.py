"""A folder of a language model: what is missing or damaged in it, from names, headers and a trial without weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from minigpt4.common.paths import one_line, wrong_path
from minigpt4.common.weight_folder import WEIGHTS, config_of, read_json, weight_paths
from minigpt4.common.weight_headers import misfit, read_shapes

MAX_NAMED, MAX_SHARDS = 5, 1000
_SHARD = re.compile(r"(?P<name>.+)-\d+-of-(?P<total>\d{1,6})\.(?P<suffix>\w+)")


@dataclass
class FolderCheck:
    """What is wrong with a folder: `lacks` are the files that are absent, `damaged` says what is wrong with others."""

    path: str
    lacks: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def problem(self) -> str | None:
        """Return all that is wrong, or None."""
        lacks = f" lacks {', '.join(self.lacks)}" if self.lacks else ""
        damaged = "; ".join(self.damaged)
        if not lacks and not damaged:
            return None
        return f"{self.path}{lacks}{'; ' if lacks and damaged else ': ' if damaged else ''}{damaged}"


def check_folder(path: str, family: Any) -> FolderCheck:
    """Look at config.json, the tokenizer's files and the header of each weight file of a language model `family`."""
    found = FolderCheck(path)
    names = set(os.listdir(path))
    if "config.json" not in names:
        found.lacks.append("config.json")
    else:
        found.damaged += _wrong_config(Path(path), family)
    tokenizers = [name for name in family.tokenizer_files if name in names]
    if not tokenizers:
        found.lacks.append(" or ".join(family.tokenizer_files))
    found.damaged += [wrong.removeprefix(f"{path}/") for n in tokenizers if (wrong := wrong_path(f"{path}/{n}"))]
    _look_at_weights(found, names)
    return found


def _wrong_config(folder: Path, family: Any) -> list[str]:
    try:
        config = read_json(folder / "config.json")
    except ValueError as error:
        return [str(error)]
    kind = config.get("model_type", family.model_type)
    if kind != family.model_type:
        return [f"config.json describes a model of the type {kind!r}, not {family.model_type}"]
    wrong = [name for name in family.sizes if not (type(config.get(name)) is int and config[name] > 0)]
    return [f"config.json lacks the sizes {', '.join(wrong)}"] if wrong else []


def _look_at_weights(found: FolderCheck, names: set[str]) -> None:
    weights = sorted(name for name in names if name.endswith((".safetensors", ".bin")))
    chosen = next((name for name in WEIGHTS if name in names), None)
    shards = [name for name in weights if "-of-" in name]
    if chosen is None and shards:
        index = "model.safetensors" if shards[0].endswith(".safetensors") else "pytorch_model.bin"
        found.lacks += [f"{index}.index.json (the index of its shards)", *_absent_siblings(shards, names)]
    elif chosen is None and weights:
        found.damaged.append(f"its weights should be called {' or '.join(WEIGHTS[::2])}, not {weights[0]}")
    elif chosen is None:
        found.lacks.append("weights (*.safetensors or *.bin)")
    else:
        try:
            weights = [path.name for path in weight_paths(Path(found.path))]
        except ValueError as error:
            found.damaged.append(str(error))
    absent = [name for name in weights if name not in names]
    if absent:
        more = f" and {len(absent) - MAX_NAMED} more" if len(absent) > MAX_NAMED else ""
        found.lacks.append(f"{', '.join(absent[:MAX_NAMED])}{more}, named by {chosen}")
    for name in sorted(names.intersection(weights)):
        try:
            read_shapes(f"{found.path}/{name}")
        except ValueError as error:
            found.damaged.append(str(error).replace(f"{found.path}/", "", 1))


def _absent_siblings(shards: Sequence[str], names: set[str]) -> list[str]:
    """Return which siblings of shards called NAME-00001-of-00003.SUFFIX are absent, the first few."""
    matches = [match for name in shards if (match := _SHARD.fullmatch(name))]
    siblings = dict.fromkeys(
        f"{match['name']}-{number:0{len(match['total'])}}-of-{match['total']}.{match['suffix']}"
        for match in matches
        for number in range(1, min(int(match["total"]), MAX_SHARDS) + 1)
    )
    return [name for name in siblings if name not in names][:MAX_NAMED]


def why_not_loaded(path: str, family: Any) -> str | None:
    """Return why transformers cannot load the model of a folder, in words that begin with the path; None when it can.

    It is loaded onto the meta device, where no weight is read: half a second for a model of 7B.
    """
    if os.path.lexists(os.path.join(path, "adapter_config.json")):
        return (
            f"{path} has an adapter_config.json, which transformers would apply to its weights; merge it or remove it"
        )
    import torch

    try:
        with _quiet_transformers():
            _, loaded = family.model_class.from_pretrained(
                path,
                dtype=torch.float32,
                device_map={"": "meta"},
                output_loading_info=True,
                local_files_only=True,
                ignore_mismatched_sizes=True,
            )
    except Exception as error:  # what a damaged folder raises depends on where it is damaged
        return f"{path}: cannot be loaded: {one_line(error)}"
    given: dict[str, tuple[int, ...]] = {}
    wanted: dict[str, tuple[int, ...]] = dict.fromkeys(sorted(loaded["missing_keys"]), ())
    for name, is_there, is_needed in sorted(loaded["mismatched_keys"]):
        given[name], wanted[name] = tuple(is_there), tuple(is_needed)
    problem = misfit(given, wanted, ignores_more=True)
    return f"{path}: its weights do not fit config.json: {problem}" if problem else None


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Hide the reports and progress bars of transformers, which training shows when it loads the model."""
    from transformers.utils import logging

    verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_progress:
            logging.enable_progress_bar()


def wrong_tokenizer(path: str, family: Any, model_cfg: Any) -> str | None:
    """Return what is wrong with the tokenizer of a folder, which is read for it, or None."""
    try:
        num_tokens = family.load_tokenizer(OmegaConf.merge(model_cfg, {"llama_model": path})).vocab_size
    except ValueError as error:
        return str(error)
    num_rows = config_of(Path(path)).get("vocab_size", num_tokens)
    if num_tokens > num_rows:
        return f"{path}: its tokenizer has {num_tokens:,} tokens, its config.json says vocab_size {num_rows:,}"
    return None
