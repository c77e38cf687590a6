"""Whether a checkpoint was trained with the model that a run configures: base model, LoRA, images and prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minigpt4.common import weight_identity
from minigpt4.common.checkpoint import BACKBONE, NEEDED_TO_RESUME, published_name, read_checkpoint
from minigpt4.common.dist_utils import is_main_process
from minigpt4.common.schema import PATCHES_PER_TOKEN
from minigpt4.common.weight_identity import LayerSizes

logger = logging.getLogger(__name__)

COMPARED = ("lora_alpha", "image_size", "end_sym", "chat_template", "prompt_template")
"""The options of the model that are compared; the tensors tell LoRA's rank and layers."""
UNSET = {"end_sym": "\n", "chat_template": False, "prompt_template": "[INST] {} [/INST]"}
"""What an unset option means where null is allowed; of the prompts it is what Llama-2 uses."""
ADVISORY = ("image_size", "end_sym", "chat_template", "prompt_template")
"""Options that a checkpoint of the published trainer only warns of: its stages change them."""
OPTION = "model.allow_mismatch"
PROJECTION = "llama_proj.weight"
MAX_NAMED = 4
"""The number of tensors that a message names."""


@dataclass
class Comparison:
    """What a checkpoint says of its model beside this run.

    `misfits` cannot be loaded at all, `differences` need `model.allow_mismatch`, `advice` is only said, and
    `unknown` is what the checkpoint does not tell.
    """

    source: str
    misfits: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def problem(self, *, allowed: bool) -> str | None:
        """Return the message that refuses the checkpoint, None where it may be loaded."""
        refused = self.misfits + ([] if allowed else self.differences)
        if not refused:
            return None
        lines = [f"{self.source} does not fit this model: {refused[0]}", *refused[1:]]
        if not self.misfits:
            lines.append(f"use the values of the checkpoint, or load it all the same with --options {OPTION}=True")
        return "\n  ".join(lines)

    def remark(self) -> str | None:
        """Return the line that says what could not be compared, None where all was."""
        if not self.unknown:
            return None
        return f"{self.source}: loaded without comparing all of its model: {'; '.join(self.unknown)}"


def compare(state: Mapping[str, Any], model_cfg: Any, source: str, *, trains: bool = False) -> Comparison:
    """Return how a checkpoint's model differs from a `model` section; `source` is its file.

    An unset `chat_template` of the section is false for a run that `trains`; answers do not depend on it.
    """
    found = Comparison(source)
    name = Path(source).name
    config = state.get("config")
    trained = config.get("model") if isinstance(config, Mapping) else None
    trained = trained if isinstance(trained, Mapping) else {}
    _compare_rank(found, state["model"], model_cfg, name)
    _compare_widths(found, state["model"], model_cfg, name)
    skipped = {
        "lora_alpha": not model_cfg.lora_r,  # there is nothing to scale
        "chat_template": model_cfg.chat_template is None and not trains,
    }
    keys = [key for key in COMPARED if not skipped.get(key)]
    if not found.misfits:
        _compare_tensors(found, state["model"], model_cfg, name)
    _compare_options(found, trained, {key: model_cfg[key] for key in keys}, name, is_ours="base_model" in state)
    _compare_weights(found, state, trained, model_cfg, name)
    return found


def refuse_mismatch(state: Mapping[str, Any], model_cfg: Any, source: str, *, allowed: bool = False) -> Comparison:
    """Compare a checkpoint with a `model` section, and return what is allowed or unknown.

    Weights that are not on this machine yet are unknown. `allowed` adds to `model.allow_mismatch`.
    Raises: ValueError naming the file, both values and the YAML key of every difference that is not allowed.
    """
    found = compare(state, model_cfg, source)
    problem = found.problem(allowed=allowed or bool(model_cfg.allow_mismatch))
    if problem:
        raise ValueError(problem)
    return found


def check_match(state: Mapping[str, Any], model_cfg: Any, source: str, *, allowed: bool = False) -> list[str]:
    """Compare a checkpoint with a `model` section; return the differences that are allowed, logged as a warning.

    Also logs the line that says what could not be compared.
    Raises: ValueError as `refuse_mismatch`.
    """
    found = refuse_mismatch(state, model_cfg, source, allowed=allowed)
    for text in (*found.differences, *found.advice, found.remark()):
        if text and is_main_process():
            logger.warning("%s", text)
    return found.differences


def judge_checkpoint(
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
    if model_cfg.arch == "minigpt_v2" and PROJECTION not in state["model"]:
        names = list(map(str, state["model"]))[:3]
        return [f"{key}: {path}: not a checkpoint of MiniGPT-v2, it has no {PROJECTION} but {names}"], []
    found = compare(state, model_cfg, path, trains=True)
    problem = found.problem(allowed=allowed or bool(model_cfg.allow_mismatch))
    if problem:
        return [f"{key}: {problem}"], []
    return [], [f"{key}: {text}" for text in (*found.differences, *found.advice)]


def _compare_rank(found: Comparison, tensors: Mapping[str, Any], model_cfg: Any, name: str) -> None:
    """Compare LoRA's rank and layers by the tensors themselves, which fit the model or do not."""
    factors = {key: value for key, value in tensors.items() if ".lora_A." in key and getattr(value, "ndim", 0) == 2}
    rank = int(model_cfg.lora_r)
    if not factors:
        if rank and PROJECTION in tensors:
            found.misfits.append(f"{name} has no LoRA, this run model.lora_r={rank}")
        return
    key, value = next(((key, v) for key, v in factors.items() if len(v) != rank), next(iter(factors.items())))
    if len(value) != rank:
        shapes = f"{key} {tuple(value.shape)}, not {(rank, value.shape[1])}"
        found.misfits.append(f"{name} has LoRA of rank {len(value)}, this run model.lora_r={rank} ({shapes})")
    layers = {key.partition(".lora_A.")[0].rpartition(".")[2] for key in factors}
    wanted = {str(target).rpartition(".")[2] for target in model_cfg.lora_target_modules}
    if rank and layers != wanted:
        found.misfits.append(
            f"{name} has LoRA on {_shown(sorted(layers))}, this run model.lora_target_modules={_shown(sorted(wanted))}"
        )


def _compare_widths(found: Comparison, tensors: Mapping[str, Any], model_cfg: Any, name: str) -> None:
    """Compare the sizes of the parts that the projection joins."""
    projection = tensors.get(PROJECTION)
    if projection is None or projection.ndim != 2:
        return
    hidden, width = len(projection), projection.shape[1] // PATCHES_PER_TOKEN
    expected = weight_identity.hidden_size(model_cfg)
    if expected is not None and hidden != expected:
        found.misfits.append(
            f"{name} was trained with a language model of width {hidden}, that of model.llama_model has {expected}"
        )
    if model_cfg.vit_model == "eva_clip_g" and width != model_cfg.vit.embed_dim:
        found.misfits.append(
            f"{name} was trained with a vision encoder of width {width}, this run model.vit.embed_dim="
            f"{model_cfg.vit.embed_dim}"
        )


def _compare_tensors(found: Comparison, tensors: Mapping[str, Any], model_cfg: Any, name: str) -> None:
    """Compare every name and shape with those of the trained part of MiniGPT-v2; a vision encoder's are left out."""
    sizes = weight_identity.layer_sizes(model_cfg)
    if sizes is None or PROJECTION not in tensors or model_cfg.vit_model != "eva_clip_g":
        return
    given = {
        published_name(key): tuple(value.shape)
        for key, value in tensors.items()
        if not key.endswith("rotary_emb.inv_freq") and (model_cfg.freeze_vit or not key.startswith(BACKBONE))
    }
    wanted = dict(_trained_shapes(sizes, model_cfg))
    wrong = {
        "it lacks": [key for key in wanted if key not in given],
        "it has, and this model lacks,": [key for key in given if key not in wanted],
        "of another shape are": [
            f"{key} {given[key]}, not {shape}" for key, shape in wanted.items() if given.get(key, shape) != shape
        ],
    }
    for words, keys in wrong.items():
        if keys:
            more = f" and {len(keys) - MAX_NAMED} more" if len(keys) > MAX_NAMED else ""
            found.misfits.append(f"{name}: {words} {', '.join(keys[:MAX_NAMED])}{more}")


def _trained_shapes(sizes: LayerSizes, model_cfg: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the published name and the shape of each tensor that is trained while the vision encoder is frozen."""
    yield PROJECTION, (sizes.hidden, model_cfg.vit.embed_dim * PATCHES_PER_TOKEN)
    yield "llama_proj.bias", (sizes.hidden,)
    rank = int(model_cfg.lora_r)
    for number in range(sizes.num_layers if rank else 0):
        for layer, (num_out, num_in) in sizes.shapes.items():
            above = f"model.layers.{number}.{layer}"
            if any(f".{above}".endswith(f".{target}") for target in model_cfg.lora_target_modules):
                above = f"llama_model.base_model.model.{above}"
                yield f"{above}.lora_A.weight", (rank, num_in)
                yield f"{above}.lora_B.weight", (num_out, rank)


def _compare_options(
    found: Comparison, trained: Mapping[str, Any], options: Mapping[str, Any], name: str, *, is_ours: bool
) -> None:
    """Compare the options that the checkpoint's config holds."""
    unknown = []
    for key, value in options.items():
        if key not in trained:
            unknown.append(f"model.{key}")
            continue
        before, now = (UNSET.get(key) if one is None else one for one in (trained[key], value))
        if before != now:
            texts = found.advice if key in ADVISORY and not is_ours else found.differences
            texts.append(f"{name} was trained with model.{key}={_shown(before)}, this run has {_shown(now)}")
    if unknown:
        found.unknown.append(f"it does not say {', '.join(unknown)}")


def _compare_weights(
    found: Comparison, state: Mapping[str, Any], trained: Mapping[str, Any], model_cfg: Any, name: str
) -> None:
    """Compare the fingerprints of the frozen weights."""
    saved = state.get("base_model")
    if not isinstance(saved, Mapping):
        old = "its fingerprint of the base model is of an older form"
        found.unknown.append(old if saved else "it has no fingerprint of its base model")
        return
    if saved.get("version") != weight_identity.VERSION:
        found.unknown.append(
            f"its fingerprint of the base model has version {saved.get('version')}, not {weight_identity.VERSION}"
        )
        return
    now = weight_identity.identity_of(model_cfg)
    parts = {"llama": "llama_model", "tokenizer": "llama_model"}
    if not any(key.startswith(BACKBONE[0]) for key in state["model"]):  # else the checkpoint brings its own encoder
        parts["vit"] = "vit_ckpt"
    for part, key in parts.items():
        try:
            differs = weight_identity.difference(saved[part], now[part])
        except (ValueError, KeyError, TypeError) as error:
            found.unknown.append(f"model.{key} ({error})")
            continue
        if differs:
            what = "another tokenizer" if part == "tokenizer" else "other weights"
            found.differences.append(
                f"{name} was trained on model.{key}={_named(trained, key, saved[part])}, this run has "
                f"{_named(model_cfg, key, now[part])}: {what} ({differs})"
            )


def _named(options: Mapping[str, Any], key: str, part: Mapping[str, Any]) -> str:
    return f"{options.get(key, 'a base model')} [{weight_identity.label(part)}]"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return repr(value) if isinstance(value, str) else str(value)
