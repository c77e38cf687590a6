"""The weight files that a config names: where each is looked for and what is wrong with it, without loading any."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlparse

from minigpt4.common.downloads import answers, downloaded_to, is_hub_id, unreachable
from minigpt4.common.llama_folder import look_at_llama
from minigpt4.common.llama_trial import why_not_loaded
from minigpt4.common.paths import wrong_path
from minigpt4.common.schema import EVA_VIT_G_URL
from minigpt4.common.weight_headers import Shapes, read_shapes

LLAMA_ADDRESS = "https://huggingface.co/meta-llama/Llama-2-7b-chat-hf"
CKPT_ADDRESS = "https://drive.google.com/file/d/1Vi_E7ZtZXRAQcyz4f8E6LtLh2UXABCmu/view?usp=sharing"


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
    found = []
    if model_cfg.language_model == "llama" and not model_cfg.random_weights:
        found.append(_llama(str(model_cfg.llama_model)))
    if model_cfg.vit_model == "eva_clip_g" and not model_cfg.random_weights:
        found.append(_vit(model_cfg.vit_ckpt, model_cfg.vit))
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
    """Look at one file as torch.save or safetensors writes it."""
    wrong, _ = _look(path)
    problem = f"{key}: {wrong}" if wrong else None
    if wrong and not os.path.exists(path):
        problem = f"{problem}; to be had from {address}"
    return WeightFile(key, path, address, problem)


def _look(path: str) -> tuple[str | None, Shapes | None]:
    """Return what is wrong with a file of weights, and the shapes of what it holds where they are known."""
    try:
        return None, read_shapes(path)
    except ValueError as error:
        return str(error), None


def _vit(source: str | None, size: Any) -> WeightFile:
    """Look at the vision encoder's file, and whether its sizes are those of `model.vit`."""
    found = _vit_file(source)
    if found.problem or found.remark:
        return found
    shapes = _look(found.path)[1]
    wrong = None if shapes is None else _wrong_vit(shapes, size)
    return replace(found, problem=f"{found.key}: {found.path} {wrong}" if wrong else None)


def _wrong_vit(shapes: Shapes, size: Any) -> str | None:
    """Return the first tensor that a file lacks, or has in another size than `model.vit` says; None when all fit."""
    for name, shape in _vit_shapes(size):
        if name not in shapes:
            return f"does not fit model.vit: it has no {name}"
        if shapes[name] != shape:
            return f"does not fit model.vit: its {name} is {shapes[name]}, not {shape}"
    grid = shapes.get("pos_embed", ())
    if len(grid) != 3 or grid[2] != size.embed_dim or math.isqrt(max(grid[1] - 1, 0)) ** 2 != grid[1] - 1:
        return f"does not fit model.vit: its pos_embed is {grid or 'absent'}, not that of a square of patches"
    return None


def _vit_shapes(size: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield every tensor of the vision encoder with its size, but for the position embedding, which is resized."""
    width, inner = size.embed_dim, int(size.embed_dim * size.mlp_ratio)
    yield "patch_embed.proj.weight", (width, 3, size.patch_size, size.patch_size)
    yield "patch_embed.proj.bias", (width,)
    yield "cls_token", (1, 1, width)
    for number in range(size.depth):
        above = f"blocks.{number}"
        for name in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "attn.q_bias", "attn.v_bias"):
            yield f"{above}.{name}", (width,)
        yield f"{above}.attn.qkv.weight", (3 * width, width)
        yield f"{above}.attn.proj.weight", (width, width)
        yield f"{above}.attn.proj.bias", (width,)
        yield f"{above}.mlp.fc1.weight", (inner, width)
        yield f"{above}.mlp.fc1.bias", (inner,)
        yield f"{above}.mlp.fc2.weight", (width, inner)
        yield f"{above}.mlp.fc2.bias", (width,)


def _vit_file(source: str | None) -> WeightFile:
    key = "model.vit_ckpt"
    if not source:
        return WeightFile(key, "", "", f"{key}: no file is set")
    address = urlparse(source)
    if address.scheme not in ("http", "https"):
        return _file(key, address.path if address.scheme == "file" else source, EVA_VIT_G_URL)
    kept = str(downloaded_to(source))
    if os.path.isfile(kept):
        return _file(key, kept, source)
    if not answers(source):
        problem = f"{key}: cannot reach {source}; download it elsewhere and set {key} to the file (docs/data.md)"
        return WeightFile(key, kept, source, problem)
    return WeightFile(key, kept, source, remark="will be downloaded")


def _llama(source: str) -> WeightFile:
    key = "model.llama_model"
    if os.path.isdir(source):
        problem = look_at_llama(source).problem() or why_not_loaded(source)
        return WeightFile(key, source, LLAMA_ADDRESS, problem and f"{key}: {problem}")
    if not is_hub_id(source) or os.path.lexists(source):
        problem = f"{key}: {wrong_path(source, folder=True)}; to be had from {LLAMA_ADDRESS}"
        return WeightFile(key, source, LLAMA_ADDRESS, problem)
    return _cached_llama(key, source)


def _cached_llama(key: str, source: str) -> WeightFile:
    """Look at a hub id's files in the cache; those that are not there yet will be downloaded, where that is allowed."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(source, "config.json")
    except HFValidationError:
        return WeightFile(key, source, LLAMA_ADDRESS, f"{key}: no folder {source}, and no id of the hub either")
    address = f"https://huggingface.co/{source}"
    remark = "will be downloaded (Llama-2 asks for `hf auth login`)"
    if isinstance(config, str):
        found = look_at_llama(os.path.dirname(config))
        if found.lacks and not constants.HF_HUB_OFFLINE:
            remark, found.lacks = f"{', '.join(found.lacks)} will be downloaded", []
            problem = found.problem()
            return WeightFile(key, found.path, address, problem and f"{key}: {problem}", remark)
        problem = found.problem() or why_not_loaded(found.path)
        return WeightFile(key, found.path, address, problem and f"{key}: {problem}")
    if constants.HF_HUB_OFFLINE:
        problem = f"{key}: {source} is no folder here, not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it"
        return WeightFile(key, source, address, f"{problem}; to be had from {address}")
    if not answers(constants.ENDPOINT):
        return WeightFile(key, source, address, unreachable(key, source))
    return WeightFile(key, source, address, remark=remark)
