"""The name of a run, from all that its answers depend on: answers of another name are not taken over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from minigpt4.common.config import Config
from minigpt4.conversation.chat_format import chat_format_of
from minigpt4.evaluation.benchmark import Question

ADDED_OPTIONS: dict[str, Any] = {"vit_options": {}, "language_model": "llama"}
"""Options of the model that earlier versions did not have, and the defaults that do as these did."""


def fingerprint(questions: Sequence[Question], settings: Mapping[str, Any]) -> str:
    """Return a short name of questions and settings."""
    asked = [[q.id, q.prompt, list(q.choices)] for q in questions]
    text = json.dumps([asked, settings], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def settings_of(cfg: Config) -> dict[str, Any]:
    """Return what the answers depend on besides the questions: the model's options, and which checkpoint file it is."""
    file_hash.cache_clear()
    prompts = {"prompt_template": chat_format_of(cfg.model_cfg).template}
    model: Any = OmegaConf.to_container(OmegaConf.merge(cfg.model_cfg, prompts))
    for option, default in ADDED_OPTIONS.items():  # at their defaults they leave the names of older runs as they are
        if model[option] == default:
            del model[option]
    return {
        "model": model,
        "ckpt_sha256": file_hash(Path(cfg.model_cfg.ckpt or "")),
        "image_processor": OmegaConf.to_container(image_options(cfg)),
        "amp": [cfg.run_cfg.amp, cfg.run_cfg.amp_dtype, cfg.run_cfg.device],
    }


def image_options(cfg: Config) -> Any:
    """Return the image processor's options: of the first dataset, or the model's for evaluation where there is none."""
    first = next(iter(cfg.datasets_cfg.values()), None)
    options = (first and first.vis_processor.train) or cfg.preprocess_cfg.vis_processor.eval
    if options.options is None:  # runs that began before processors had such options keep their name
        return OmegaConf.masked_copy(options, [key for key in options if key != "options"])
    return options


@cache
def file_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file, None where there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_name(model: Any) -> str | None:
    """Return a short name of the trainable weights of a model, None where it has none."""
    named = model.named_parameters() if isinstance(model, torch.nn.Module) else ()
    trained = sorted((name, weight.detach()) for name, weight in named if weight.requires_grad)
    digest = hashlib.blake2b(digest_size=12)
    for name, weight in trained:
        local = weight.to_local() if hasattr(weight, "to_local") else weight  # a shard of this rank
        digest.update(f"{name} {local.dtype} {tuple(local.shape)}".encode())
        digest.update(local.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest() if trained else None
