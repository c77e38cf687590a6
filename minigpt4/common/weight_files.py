"""The weight files that a config names: where each is looked for and what is wrong with it, without loading any."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from minigpt4.common.downloads import answers
from minigpt4.common.schema import EVA_VIT_G_URL

LLAMA_ADDRESS = "https://huggingface.co/meta-llama/Llama-2-7b-chat-hf"
CKPT_ADDRESS = "https://drive.google.com/file/d/1Vi_E7ZtZXRAQcyz4f8E6LtLh2UXABCmu/view?usp=sharing"
WEIGHT_SUFFIXES = (".safetensors", ".bin")


@dataclass(frozen=True)
class WeightFile:
    """One configured file, folder or address: its YAML key, and `problem` when training could not read it.

    `remark` says what will be done about a thing that is not here yet.
    """

    key: str
    path: str
    address: str
    problem: str | None = None
    remark: str | None = None


def weight_files(model_cfg: Any, run_cfg: Any) -> list[WeightFile]:
    """Return what `model` and `run` name, each looked at but not read."""
    found = [] if model_cfg.random_weights else [_llama(str(model_cfg.llama_model)), _vit(model_cfg.vit_ckpt)]
    if model_cfg.ckpt:
        found.append(_file("model.ckpt", model_cfg.ckpt, CKPT_ADDRESS))
    resumed = run_cfg.resume_ckpt_path
    if resumed == "auto":
        remark = "the newest checkpoint of this job, if there is one"
        found.append(WeightFile("run.resume_ckpt_path", resumed, "", remark=remark))
    elif resumed:
        found.append(_file("run.resume_ckpt_path", resumed, "the run that is to go on"))
    return found


def _file(key: str, path: str, address: str) -> WeightFile:
    """Look at one file as torch.save writes it."""
    problem = None
    if not os.path.isfile(path):
        problem = f"{key}: no file {path}; to be had from {address}"
    elif os.path.getsize(path) == 0:
        problem = f"{key}: {path} is empty (0 bytes)"
    elif not path.endswith(".safetensors") and not _is_checkpoint(path):
        problem = f"{key}: {path} is cut off or no file of weights"
    return WeightFile(key, path, address, problem)


def _is_checkpoint(path: str) -> bool:
    """Return whether a file is a whole zip archive, or begins as a pickle does, as torch before 1.6 wrote it."""
    with open(path, "rb") as file:
        return zipfile.is_zipfile(file) or (file.seek(0) == 0 and file.read(1) == b"\x80")


def _vit(source: str | None) -> WeightFile:
    key = "model.vit_ckpt"
    if not source:
        return WeightFile(key, "", "", f"{key}: no file is set")
    address = urlparse(source)
    if address.scheme not in ("http", "https"):
        return _file(key, address.path if address.scheme == "file" else source, EVA_VIT_G_URL)
    import torch

    kept = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(address.path))
    if os.path.isfile(kept):
        return _file(key, kept, source)
    return WeightFile(key, kept, source, remark="will be downloaded")


def _llama(source: str) -> WeightFile:
    key = "model.llama_model"
    if os.path.isdir(source):
        return WeightFile(key, source, LLAMA_ADDRESS, _wrong_folder(key, source))
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        return WeightFile(key, source, LLAMA_ADDRESS, f"{key}: no folder {source}; to be had from {LLAMA_ADDRESS}")
    from huggingface_hub import constants, try_to_load_from_cache

    config = try_to_load_from_cache(source, "config.json")
    address = f"https://huggingface.co/{source}"
    if isinstance(config, str):
        folder = os.path.dirname(config)
        return WeightFile(key, folder, address, _wrong_folder(key, folder))
    if constants.HF_HUB_OFFLINE:
        problem = f"{key}: {source} is no folder here, not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it"
        return WeightFile(key, source, address, f"{problem}; to be had from {address}")
    remark = "will be downloaded (Llama-2 asks for `hf auth login`)"
    remark += "" if answers(constants.ENDPOINT) else f"; but {constants.ENDPOINT} does not answer now"
    return WeightFile(key, source, address, remark=remark)


def _wrong_folder(key: str, folder: str) -> str | None:
    names = {path.name for path in Path(folder).iterdir()}
    lacks = [] if "config.json" in names else ["config.json"]
    lacks += [] if {"tokenizer.model", "tokenizer.json"} & names else ["tokenizer.model or tokenizer.json"]
    weights = [name for name in names if name.endswith(WEIGHT_SUFFIXES)]
    lacks += [] if weights else ["weights (*.safetensors or *.bin)"]
    if lacks:
        return f"{key}: {folder} lacks {', '.join(lacks)}"
    empty = sorted(name for name in weights if os.path.getsize(os.path.join(folder, name)) == 0)
    return f"{key}: {folder}: {', '.join(empty)} is empty (0 bytes)" if empty else None
