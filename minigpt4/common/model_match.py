"""Compares the model of a checkpoint with a `model` section: tensors, options, and the base model's fingerprint."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minigpt4.common import weight_identity
from minigpt4.common.dist_utils import is_main_process
from minigpt4.common.registry import registry
from minigpt4.common.schema import ModelConfig

logger = logging.getLogger(__name__)

ADVISORY = ("image_size", "end_sym", "chat_template", "prompt_template")
"""Options that the published trainer changes between its stages: its checkpoints only warn of them."""
COMPARED = ("lora_alpha", *ADVISORY)
"""The options that are compared; LoRA's rank and layers are known from the tensors."""


@dataclass
class Comparison:
    """How a checkpoint's model differs from that of this run; `source` is its file.

    `misfits` prevent loading, `differences` need `model.allow_mismatch`, `advice` is a warning, and `unknown` is what
    could not be compared.
    """

    source: str
    misfits: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The checkpoint's name in messages."""
        return Path(self.source).name

    def problem(self, *, allowed: bool) -> str | None:
        """Return the message that refuses the checkpoint; None when it may be loaded."""
        refused = self.misfits + ([] if allowed else self.differences)
        if not refused:
            return None
        lines = [f"{self.source} does not fit this model: {refused[0]}", *refused[1:]]
        if not self.misfits:
            lines.append(
                "use the checkpoint's values, or allow the difference with --options model.allow_mismatch=True"
            )
        return "\n  ".join(lines)

    def warnings(self) -> list[str]:
        """Return the allowed differences, the advice, and one line on what could not be compared."""
        unknown = f"{self.source}: loaded without comparing all of its model: {'; '.join(self.unknown)}"
        return [*self.differences, *self.advice, *([unknown] if self.unknown else [])]


def compare(
    state: Mapping[str, Any], model_cfg: Any, source: str, *, trains: bool = False, is_built: bool = False
) -> Comparison:
    """Return how the model of a checkpoint `source` differs from a `model` section.

    An unset `chat_template` of the section is false for a run that `trains`; answers do not depend on it. With
    `is_built` the tensors are not compared: loading them into the model does that.
    """
    found = Comparison(source)
    config = state.get("config")
    trained = config.get("model") if isinstance(config, Mapping) else None
    trained = trained if isinstance(trained, Mapping) else {}
    model_class = registry.get_model_class(model_cfg.arch)
    if not is_built:
        found.misfits += model_class.checkpoint_misfits(state["model"], model_cfg, found.name)
    skipped = {
        "lora_alpha": not model_cfg.lora_r,  # there is nothing to scale
        "chat_template": model_cfg.chat_template is None and not trains,
    }
    compared = [key for key in COMPARED if not skipped.get(key)]
    _compare_options(found, trained, model_cfg, compared, is_ours="base_model" in state)
    _compare_weights(found, state.get("base_model"), trained, model_cfg, model_class.base_weights(state["model"]))
    return found


def unset_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the defaults of a `model` section's unset options; those of prompts come from its language model."""
    try:
        name = options.get("language_model") or ModelConfig.language_model
        chat_format = registry.get_language_model_class(name).chat_format
    except ValueError:  # of a plugin that this run does not load
        return {"chat_template": False}
    end = chat_format.end if chat_format.unset_end is None else chat_format.unset_end
    return {"chat_template": False, "prompt_template": chat_format.template, "end_sym": end}


def refuse_mismatch(
    state: Mapping[str, Any], model_cfg: Any, source: str, *, allowed: bool = False, is_built: bool = False
) -> Comparison:
    """Compare a checkpoint with a `model` section, and return what is allowed or unknown.

    Weights that are not on this machine yet are unknown. `allowed` is like `model.allow_mismatch`; `is_built` as in
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
    """Compare a checkpoint with a `model` section, log what is allowed or unknown, and return allowed differences.

    Raises: ValueError as `refuse_mismatch`.
    """
    found = refuse_mismatch(state, model_cfg, source, allowed=allowed, is_built=is_built)
    for text in found.warnings() if is_main_process() else ():
        logger.warning("%s", text)
    return found.differences


def _compare_options(
    found: Comparison, trained: Mapping[str, Any], model_cfg: Any, compared: Sequence[str], *, is_ours: bool
) -> None:
    """Compare options with those of the checkpoint's config; the published trainer wrote it unless it `is_ours`."""
    unset_before, unset_now = unset_options(trained), unset_options(model_cfg)
    for key in compared:
        if key in trained:
            before = unset_before.get(key) if trained[key] is None else trained[key]
            now = unset_now.get(key) if model_cfg[key] is None else model_cfg[key]
            if before != now:
                texts = found.advice if key in ADVISORY and not is_ours else found.differences
                texts.append(f"{found.name} was trained with model.{key}={_shown(before)}, this run has {_shown(now)}")
    absent = [f"model.{key}" for key in compared if key not in trained]
    found.unknown += [f"it does not say {', '.join(absent)}"] if absent else []


def _compare_weights(
    found: Comparison, saved: Any, trained: Mapping[str, Any], model_cfg: Any, parts: Mapping[str, str]
) -> None:
    """Compare the `saved` fingerprint of the frozen weights; `parts` are its parts, each with its option."""
    if not isinstance(saved, Mapping):
        old = "its fingerprint of the base model has an older format"
        found.unknown.append(old if saved else "it has no fingerprint of its base model")
        return
    if saved.get("version") != weight_identity.VERSION:
        versions = f"{saved.get('version')}, not {weight_identity.VERSION}"
        found.unknown.append(f"its fingerprint of the base model has version {versions}")
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
            before, after = _named(trained, key, saved[part]), _named(model_cfg, key, now[part])
            found.differences.append(
                f"{found.name} was trained on model.{key}={before}, this run has {after}: {what} ({differs})"
            )


def _named(options: Mapping[str, Any], key: str, part: Mapping[str, Any]) -> str:
    return f"{options.get(key, 'a base model')} [{weight_identity.label(part)}]"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return repr(value) if isinstance(value, str) else str(value)
