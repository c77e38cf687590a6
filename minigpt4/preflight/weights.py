"""The weight files that a config names: where each is, and what is wrong with it.

Names, headers and a trial without weights tell it; no weight is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from omegaconf import OmegaConf

from minigpt4.common.checkpoint import NEEDED_TO_RESUME, read_checkpoint
from minigpt4.common.config import Config
from minigpt4.common.downloads import answers, downloaded_to, is_hub_id, unreachable
from minigpt4.common.model_match import compare
from minigpt4.common.paths import one_line, wrong_path
from minigpt4.common.registry import registry
from minigpt4.common.weight_files import WEIGHTS, config_of, misfit, read_json, read_shapes, weight_paths

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


@dataclass(frozen=True)
class WeightFile:
    """One configured file or folder: its YAML key, its download URL, and `problem` when training could not read it.

    `remark` says what will be done about a file that is not here yet.
    """

    key: str
    path: str
    url: str
    problem: str | None = None
    remark: str | None = None


def weight_files(model_cfg: Any, run_cfg: Any) -> list[WeightFile]:
    """Return what `model` and `run` name, each looked at but not read."""
    found = []
    if not model_cfg.random_weights:
        found = [_language_model(model_cfg), *_vision_tower(model_cfg)]
    if model_cfg.ckpt:
        found.append(_file("model.ckpt", model_cfg.ckpt, registry.get_model_class(model_cfg.arch).checkpoint_url))
    resumed = run_cfg.resume_ckpt_path
    if resumed == "auto":
        remark = "the newest checkpoint of this job, if there is one"
        found.append(WeightFile("run.resume_ckpt_path", resumed, "", remark=remark))
    elif resumed:
        found.append(_file("run.resume_ckpt_path", resumed, ""))
    return found


def _download(url: str) -> str:
    return f"; download it from {url}" if url else ""


def _file(key: str, path: str, url: str) -> WeightFile:
    """Look at one file as torch.save or safetensors writes it."""
    try:
        read_shapes(path)
    except ValueError as error:
        return WeightFile(key, path, url, f"{key}: {error}{'' if os.path.exists(path) else _download(url)}")
    return WeightFile(key, path, url)


def _vision_tower(cfg: Any) -> Iterator[WeightFile]:
    """Yield the vision tower's file, compared with the tensors of the tower, unless the tower reads none."""
    key, source = "model.vit_ckpt", cfg.vit_ckpt
    tower = registry.get_vision_tower_class(cfg.vit_model)
    if tower.weight_shapes(cfg, {}) is None:
        return
    if not source:
        yield WeightFile(key, "", "", f"{key}: no file is set")
        return
    kept = downloaded_to(source)
    if kept is None or source.startswith("file:"):
        found = _file(key, source if kept is None else urlparse(source).path, tower.weights_url)
    elif kept.is_file():
        found = _file(key, str(kept), source)
    elif answers(source):
        found = WeightFile(key, str(kept), source, remark="will be downloaded")
    else:
        advice = f"download it elsewhere and set {key} to the file (docs/data.md)"
        found = WeightFile(key, str(kept), source, f"{key}: cannot reach {source}; {advice}")
    shapes = None if found.problem or found.remark else read_shapes(found.path)
    problem = misfit(shapes, tower.weight_shapes(cfg, shapes), ignores_more=True) if shapes is not None else None
    yield replace(found, problem=f"{key}: {found.path} does not fit this model: {problem}") if problem else found


def _language_model(cfg: Any) -> WeightFile:
    """Look at a folder or a hub id; what the hub's cache lacks will be downloaded, where that is allowed."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    key, source = "model.llama_model", str(cfg.llama_model)
    family = registry.get_language_model_class(cfg.language_model)
    url = family.weights_url
    if lacking := [name for name in ("chat_format", "model_type") if not hasattr(family, name)]:
        return WeightFile(key, source, url, f"model.language_model: {family.__name__} lacks {' and '.join(lacking)}")
    if os.path.isdir(source):
        return _folder(WeightFile(key, source, url), cfg, may_download=False)
    if not is_hub_id(source) or os.path.lexists(source):
        return WeightFile(key, source, url, f"{key}: {wrong_path(source, folder=True)}{_download(url)}")
    try:
        config = try_to_load_from_cache(source, "config.json")
    except HFValidationError:
        return WeightFile(key, source, url, f"{key}: {source} is neither a folder here nor a hub id")
    found = WeightFile(key, source, f"https://huggingface.co/{source}")
    if isinstance(config, str):
        return _folder(replace(found, path=os.path.dirname(config)), cfg, may_download=not constants.HF_HUB_OFFLINE)
    if constants.HF_HUB_OFFLINE:
        why = f"{source} is neither a folder here nor in the hub's cache, and HF_HUB_OFFLINE forbids its download"
        return replace(found, problem=f"{key}: {why}{_download(found.url)}")
    if not answers(constants.ENDPOINT):
        return replace(found, problem=unreachable(key, source))
    return replace(found, remark="will be downloaded (Llama-2 asks for `hf auth login`)")


def _folder(file: WeightFile, cfg: Any, *, may_download: bool) -> WeightFile:
    """Return what was found of a language model's folder; `may_download` allows files to be absent."""
    family = registry.get_language_model_class(cfg.language_model)
    found, remark = check_folder(file.path, family), None
    if found.lacks and may_download:
        remark, found.lacks = f"{', '.join(found.lacks)} will be downloaded", []
    problem = found.problem()
    if not problem and not remark:
        problem = why_not_loaded(file.path, family) or wrong_tokenizer(file.path, family, cfg)
    if problem and not problem.startswith(file.key):
        problem = f"{file.key}: {problem}"
    return replace(file, problem=problem, remark=remark)


def check_checkpoints(files: list[WeightFile], cfg: Config) -> Iterator[tuple[list[str], list[str]]]:
    """Yield problems and remarks of each checkpoint that is here, compared with the configured model."""
    for file in files:
        resumed = file.key == "run.resume_ckpt_path"
        if (resumed or file.key == "model.ckpt") and not (file.problem or file.remark):
            allowed = resumed and cfg.run_cfg.allow_changes
            yield check_checkpoint(file.key, file.path, cfg.model_cfg, resumed=resumed, allowed=allowed)


def check_checkpoint(
    key: str, path: str, model_cfg: Any, *, resumed: bool = False, allowed: bool = False
) -> tuple[list[str], list[str]]:
    """Return why a training cannot load, or resume, the checkpoint that the YAML `key` names, and what it allows.

    Little of the file is read.
    """
    try:
        state = read_checkpoint(path, mmap=True)
    except ValueError as error:
        return [f"{key}: {error}"], []
    missing = [part for part in NEEDED_TO_RESUME if part not in state] if resumed else []
    if missing:
        return [f"{key}: {path} cannot be resumed, it has no {', '.join(missing)}"], []
    found = compare(state, model_cfg, path, trains=True)
    problem = found.problem(allowed=allowed or bool(model_cfg.allow_mismatch))
    if problem:
        return [f"{key}: {problem}"], []
    return [], [f"{key}: {text}" for text in (*found.differences, *found.advice)]
