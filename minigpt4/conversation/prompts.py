"""The prompts of generation: one question, or the next question of a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from minigpt4.conversation.conversation import IMAGE_SPAN, Turn


def generation_prompt(question: str, has_image: bool = True) -> str:
    """Return the prompt that asks one question, about one image or about none."""
    return _ask(f"{IMAGE_SPAN} {question}" if has_image else question)


def chat_prompt(turns: Sequence[Turn], question: str, *, end_sym: str = "</s>") -> str:
    """Return the prompt that asks `question` after the turns so far, each answer closed as in training.

    Image spans stand where they were shown: in the turns' prompts, or in `question`.
    """
    return "".join(_ask(turn.prompt) + turn.answer + end_sym for turn in turns) + _ask(question)


def _ask(question: str) -> str:
    return f"<s>[INST] {question} [/INST]"
