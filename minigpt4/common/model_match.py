"""Whether a checkpoint was trained with the model that a run configures: base model, LoRA, images and prompts."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minigpt4.common import weight_identity
from minigpt4.common.dist_utils import is_main_process
from minigpt4.common.registry import registry
from minigpt4.common.schema import ModelConfig

logger = logging.getLogger(__name__)

COMPARED = ("lora_alpha", "image_size", "end_sym", "chat_template", "prompt_template")
"""The options of the model that are compared; LoRA's rank and layers are known from the tensors."""
ADVISORY = ("image_size", "end_sym", "chat_template", "prompt_template")
"""Options that a checkpoint of the published trainer only warns of: its stages change them."""
OPTION = "model.allow_mismatch"


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


def compare(
    state: Mapping[str, Any], model_cfg: Any, source: str, *, trains: bool = False, is_built: bool = False
) -> Comparison:
    """Return how a checkpoint's model differs from a `model` section; `source` is its file.

    An unset `chat_template` of the section is false for a run that `trains`; answers do not depend on it. The tensors
    are not compared when the model `is_built`, whose loading compares them.
    """
    found = Comparison(source)
    name = Path(source).name
    config = state.get("config")
    trained = config.get("model") if isinstance(config, Mapping) else None
    trained = trained if isinstance(trained, Mapping) else {}
    model_class = registry.get_model_class(model_cfg.arch)
    if not is_built:
        found.misfits += model_class.checkpoint_misfits(state["model"], model_cfg, name)
    skipped = {
        "lora_alpha": not model_cfg.lora_r,  # there is nothing to scale
        "chat_template": model_cfg.chat_template is None and not trains,
    }
    options = {key: model_cfg[key] for key in COMPARED if not skipped.get(key)}
    _compare_options(found, trained, model_cfg, options, name, is_ours="base_model" in state)
    _compare_weights(found, state, trained, model_cfg, name, model_class.base_weights(state["model"]))
    return found


def unset_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that unset options of a `model` section have; its language model chooses the prompts."""
    try:
        name = options.get("language_model") or ModelConfig.language_model
        chat_format = registry.get_language_model_class(name).chat_format
    except ValueError:  # a checkpoint of a plugin that this run does not load
        return {"chat_template": False}
    end = chat_format.end if chat_format.unset_end is None else chat_format.unset_end
    return {"chat_template": False, "prompt_template": chat_format.template, "end_sym": end}


def refuse_mismatch(
    state: Mapping[str, Any], model_cfg: Any, source: str, *, allowed: bool = False, is_built: bool = False
) -> Comparison:
    """Compare a checkpoint with a `model` section, and return what is allowed or unknown.

    Weights that are not on this machine yet are unknown. `allowed` adds to `model.allow_mismatch`; `is_built` as in
    `compare`.
    Raises: ValueError naming the file, both values and the YAML key of every difference that is not allowed.
    """
    found = compare(state, model_cfg, source, is_built=is_built)
    problem = found.problem(allowed=allowed or bool(model_cfg.allow_mismatch))
    if problem:
        raise ValueError(problem)
    return found


def check_match(
    state: Mapping[str, Any], model_cfg: Any, source: str, *, allowed: bool = False, is_built: bool = False
) -> list[str]:
    """Compare a checkpoint with a `model` section; return the differences that are allowed, logged as a warning.

    Also logs the line that says what could not be compared.
    Raises: ValueError as `refuse_mismatch`.
    """
    found = refuse_mismatch(state, model_cfg, source, allowed=allowed, is_built=is_built)
    for text in (*found.differences, *found.advice, found.remark()):
        if text and is_main_process():
            logger.warning("%s", text)
    return found.differences


def _compare_options(
    found: Comparison,
    trained: Mapping[str, Any],
    model_cfg: Any,
    options: Mapping[str, Any],
    name: str,
    *,
    is_ours: bool,
) -> None:
    """Compare the options that the checkpoint's config holds."""
    unknown = []
    unset_before, unset_now = unset_options(trained), unset_options(model_cfg)
    for key, value in options.items():
        if key not in trained:
            unknown.append(f"model.{key}")
            continue
        before = unset_before.get(key) if trained[key] is None else trained[key]
        now = unset_now.get(key) if value is None else value
        if before != now:
            texts = found.advice if key in ADVISORY and not is_ours else found.differences
            texts.append(f"{name} was trained with model.{key}={_shown(before)}, this run has {_shown(now)}")
    if unknown:
        found.unknown.append(f"it does not say {', '.join(unknown)}")


def _compare_weights(
    found: Comparison,
    state: Mapping[str, Any],
    trained: Mapping[str, Any],
    model_cfg: Any,
    name: str,
    parts: Mapping[str, str],
) -> None:
    """Compare the fingerprints of the frozen weights; `parts` are their names, each with its option."""
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
