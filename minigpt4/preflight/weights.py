"""The weight files that a config names: where each is, and what is wrong with it; no weight is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlparse

from minigpt4.common.checkpoint import NEEDED_TO_RESUME, read_checkpoint
from minigpt4.common.config import Config
from minigpt4.common.downloads import answers, downloaded_to, is_hub_id, unreachable
from minigpt4.common.model_match import compare
from minigpt4.common.paths import wrong_path
from minigpt4.common.registry import registry
from minigpt4.common.weight_headers import misfit, read_shapes
from minigpt4.preflight.model_folder import check_folder, why_not_loaded, wrong_tokenizer


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
