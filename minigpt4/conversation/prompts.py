"""The prompts of generation: one question, or the next question of a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt4.conversation.conversation import IMAGE_SPAN, Turn

PROMPT_TEMPLATE = "[INST] {} [/INST]"
"""The template of Llama-2-chat, with which the published weights were trained."""


def generation_prompt(question: str, has_image: bool = True, *, template: str = PROMPT_TEMPLATE) -> str:
    """Return the prompt that asks one question, about one image or about none, in the model's prompt template."""
    return _ask(f"{IMAGE_SPAN} {question}" if has_image else question, template)


def chat_prompt(turns: Sequence[Turn], question: str, *, end_sym: str = "</s>", template: str = PROMPT_TEMPLATE) -> str:
    """Return the prompt that asks `question` after the turns so far, each answer closed as in training.

    Image spans stand where they were shown: in the turns' prompts, or in `question`.
    """
    past = "".join(_ask(turn.prompt, template) + turn.answer + end_sym for turn in turns)
    return past + _ask(question, template)


def prompt_ends(template: str) -> tuple[str, str]:
    """Return what a template has before a question and after it: "[INST] " and "[/INST]" of the published one."""
    before, _, after = template.format("\0").partition("\0")
    return before, after.lstrip() or after


def _ask(question: str, template: str) -> str:
    return f"<s>{template.format(question)}"
