"""How datasets and benchmarks phrase their questions: prompt templates of a YAML file, and choices by letter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf

from minigpt4.common.registry import did_you_mean

TEMPLATES_FILE = Path(__file__).resolve().parents[1] / "configs" / "prompts" / "pools.yaml"
SLOT = "{}"
BY_LETTER = "Answer with the option's letter from the given choices directly."


def load_templates(name: str, path: str | Path = TEMPLATES_FILE) -> list[str]:
    """Return the prompt templates of one name, canonical ones first.

    Raises: ValueError when the file lacks the name, or when a template lacks the `{}` that the first one has.
    """
    content = OmegaConf.to_container(OmegaConf.load(path))
    known = content if isinstance(content, dict) else {}
    if name not in known:
        raise ValueError(f"{path}: there are no prompt templates '{name}'{did_you_mean(name, map(str, known))}")
    templates = known[name]
    if not isinstance(templates, list) or not templates or not all(isinstance(text, str) for text in templates):
        raise ValueError(f"{path}: the prompt templates '{name}' should be a list of one or more texts")
    for text in templates:
        if text.count(SLOT) != templates[0].count(SLOT):
            first = templates[0]
            raise ValueError(f"{path}: '{name}': the template '{text}' should have {SLOT} as often as '{first}'")
    return templates


def fill(template: str, text: str) -> str:
    """Return the template with `text` in its place; braces inside `text` stay as they are."""
    return template.replace(SLOT, text, 1)


def choice_question(question: str, options: Mapping[str, str]) -> str:
    """Return a question with its lettered options, one a line, which asks for a letter."""
    return "\n".join([f"[vqa] {question}", *option_lines(options), BY_LETTER])


def option_lines(options: Mapping[str, str]) -> list[str]:
    """Return the lines "A. .." of lettered options."""
    return [f"{letter}. {option}" for letter, option in options.items()]
