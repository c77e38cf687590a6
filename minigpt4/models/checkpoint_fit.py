"""Whether a checkpoint's tensors fit a MiniGPT-v2 that is configured, found before its weights are read."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from minigpt4.common.registry import registry
from minigpt4.common.weight_files import Shapes, misfit
from minigpt4.models.base_model import BACKBONE, published_name, shapes_of
from minigpt4.models.projector import PATCHES_PER_TOKEN, Projector

logger = logging.getLogger(__name__)
PROJECTION = "llama_proj.weight"


def checkpoint_misfits(model_class: Any, tensors: Mapping[str, Tensor], cfg: Any, name: str) -> list[str]:
    """Return why the tensors of the checkpoint `name` cannot be loaded into the model of a `model` section."""
    wanted = trained_shapes(model_class, cfg)
    is_ours = PROJECTION in tensors
    found = [*_rank_misfits(tensors, cfg, name), *_width_misfits(tensors, wanted, name)] if is_ours else []
    if found or wanted is None:
        return found if is_ours else [f"it has no {PROJECTION}"]
    given = {
        published_name(key): tuple(value.shape)
        for key, value in tensors.items()
        if not key.endswith("rotary_emb.inv_freq") and (cfg.freeze_vit or not key.startswith(BACKBONE))
    }
    problem = misfit(given, wanted)
    return [problem if is_ours else f"{problem}; it is no checkpoint of MiniGPT-v2"] if problem else []


def trained_shapes(model_class: Any, cfg: Any) -> Shapes | None:
    """Return published name and shape of each trained tensor but a trained vision tower's; None if not known yet."""
    bare = OmegaConf.merge(cfg, {"random_weights": True, "freeze_vit": True, "use_grad_checkpoint": False})
    try:
        language_model = registry.get_language_model_class(cfg.language_model).without_weights(cfg)
        if language_model is None:
            return None
        with torch.device("meta"):
            tower = registry.get_vision_tower_class(cfg.vit_model).from_config(bare, dtype=torch.float32)
            projector = Projector(tower.width, language_model.hidden_size)
            model = model_class(
                language_model=language_model, vision_tower=tower, projector=projector, chat_encoder=None
            )
    except Exception as error:  # whoever builds the model reports it; a plugin's part may not know the meta device
        logger.debug("the model's tensors are not known before it is built: %s", error)
        return None
    return shapes_of(dict(model.trainable()))


def _rank_misfits(tensors: Mapping[str, Tensor], cfg: Any, name: str) -> list[str]:
    """Compare LoRA's rank and layers by the tensors themselves."""
    factors = {key: value for key, value in tensors.items() if ".lora_A." in key and value.ndim == 2}
    rank = int(cfg.lora_r)
    if not factors:
        return [f"{name} has no LoRA, this run model.lora_r={rank}"] if rank else []
    found = []
    key, value = next(((key, v) for key, v in factors.items() if len(v) != rank), next(iter(factors.items())))
    if len(value) != rank:
        shapes = f"{key} {tuple(value.shape)}, not {(rank, value.shape[1])}"
        found.append(f"{name} has LoRA of rank {len(value)}, this run model.lora_r={rank} ({shapes})")
    layers = sorted({key.partition(".lora_A.")[0].rpartition(".")[2] for key in factors})
    wanted = sorted({str(target).rpartition(".")[2] for target in cfg.lora_target_modules})
    if rank and layers != wanted:
        found.append(
            f"{name} has LoRA on [{', '.join(layers)}], this run model.lora_target_modules=[{', '.join(wanted)}]"
        )
    return found


def _width_misfits(tensors: Mapping[str, Tensor], wanted: Shapes | None, name: str) -> list[str]:
    """Compare the widths of the parts that the projection joins."""
    if wanted is None or tensors[PROJECTION].ndim != 2:
        return []
    widths = zip(tensors[PROJECTION].shape, wanted[PROJECTION], (1, PATCHES_PER_TOKEN), strict=True)
    parts = ("a language model", "model.llama_model"), ("a vision tower", "model.vit_model")
    return [
        f"{name} was trained with {part} of width {given // group}, that of {option} has {expected // group}"
        for (part, option), (given, expected, group) in zip(parts, widths, strict=True)
        if given != expected
    ]
