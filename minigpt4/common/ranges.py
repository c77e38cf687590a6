"""Values against the ranges and choices that the schema gives them: every mistake of a whole config, in words."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from minigpt4.common.registry import did_you_mean, registry
from minigpt4.common.schema import ModelConfig, hints_of, inner_of

LARGEST = 2**63 - 1
BOUNDS = {
    "at_least": ("at least", operator.ge),
    "above": ("more than", operator.gt),
    "at_most": ("at most", operator.le),
    "below": ("less than", operator.lt),
}


def wrong_values(node: DictConfig, cls: type, path: str) -> Iterator[str]:
    """Yield what is wrong with the values of a section whose types are right."""
    for field in fields(cls):
        if OmegaConf.is_missing(node, field.name):
            continue
        value, at = node[field.name], f"{path}.{field.name}"
        inner = inner_of(hints_of(cls)[field.name])
        if inner is not None:
            if value is not None:
                yield from wrong_values(value, inner, at)
            continue
        length = field.metadata.get("length")
        if OmegaConf.is_list(value) and length is not None and len(value) != length:
            yield f"{at}: expected {length} numbers, got {len(value)}"
        default = None if field.default is MISSING else field.default
        for one in value if OmegaConf.is_list(value) else [value]:
            if one is not None and one != default:
                yield from (f"{at}: {problem}" for problem in _problems(one, field.metadata))


def wrong_together(model: DictConfig, datasets: DictConfig) -> Iterator[str]:
    """Yield what is wrong with values that are right each by itself."""
    yield from _wrong_parts(model)
    if model.prompt_template is not None:
        yield from _wrong_template(model.prompt_template)
    if model.lora_r > 0 and not model.lora_target_modules:
        yield "model.lora_target_modules: expected at least one layer, got none; model.lora_r=0 trains without LoRA"
    if len(datasets) and all(body.sample_ratio == 0 for body in datasets.values()):
        yield "datasets: at least one sample_ratio should be above 0"


def _wrong_parts(model: DictConfig) -> Iterator[str]:
    """Yield what the classes of a model's parts say of their options, unless these are the defaults."""
    parts = {
        "vision_tower": ("vit_model", "image_size", "vit", "vit_options"),
        "language_model": ("language_model", "lora_target_modules"),
    }
    defaults = OmegaConf.structured(ModelConfig)
    for kind, (name, *options) in parts.items():
        if any(model[key] != defaults[key] for key in (name, *options)):
            try:
                part = getattr(registry, f"get_{kind}_class")(model[name])
            except ValueError:  # `wrong_values` has named it
                continue
            yield from part.wrong_options(model) if hasattr(part, "wrong_options") else ()


def _wrong_template(template: str) -> Iterator[str]:
    if "{}" not in template:
        yield f"model.prompt_template: {template!r} has no {{}} where the question goes"
        return
    try:
        template.format("")
    except (LookupError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"
        yield f"model.prompt_template: {template!r} cannot be filled in: {reason}; {{{{ and }}}} are single braces"


def wrong_text(text: str) -> str | None:
    """Return why a text can be no name of a file, or None."""
    if "\0" in text:
        return f"expected a text, got {text!r} with a NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"expected a text, got {text!r} with half a character"
    return None


def _problems(value: Any, rules: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(value, str):
        problem = wrong_text(value)
        if problem:
            yield problem
            return
    elif isinstance(value, int | float) and not isinstance(value, bool):
        problem = _wrong_number(value, rules)
        if problem:
            yield problem
    if "choices" in rules and value not in rules["choices"]:
        near = did_you_mean(value, rules["choices"])
        yield f"expected one of {', '.join(rules['choices'])}, got '{value}'{near}"
    if "registered" in rules:
        try:
            getattr(registry, f"get_{rules['registered']}_class")(value)
        except ValueError as error:
            yield str(error)
    if rules.get("kind") == "device":
        yield from _wrong_device(value)


def _wrong_number(value: float, rules: Mapping[str, Any]) -> str | None:
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"expected at most {LARGEST}, got a number of {value.bit_length()} bits"
    if not math.isfinite(value):
        return f"expected a finite number, got {value}"
    for name, (words, holds) in BOUNDS.items():
        if name in rules and not holds(value, rules[name]):
            return f"expected {words} {rules[name]}, got {value}"
    return None


def _wrong_device(name: str) -> Iterator[str]:
    import torch

    try:
        kind = torch.device(name).type
    except RuntimeError:
        near = did_you_mean("cuda" if name.lower().startswith("gpu") else name, ("cuda", "cpu"))
        yield f"torch knows no device '{name}'{near} (cuda, cuda:0, cpu)"
        return
    if kind == "meta":
        yield "a meta device computes nothing; expected cuda, cuda:0 or cpu"
