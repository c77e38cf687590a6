"""Estimates the tokens of rows, to balance the ranks: characters of texts, and the token costs of an encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minigpt4.conversation.conversation import Turn
from minigpt4.conversation.encoder import ChatEncoder

BOX_CHARS = 50
"""Characters that cost as many tokens as one box {<12><34><56><78>}, where each digit is a token."""
TURN_CHARS = 35
"""Characters that cost as many tokens as the chat marks around a later turn."""
CLEANED_CHARS = 300
"""Characters of the 50 words that the caption processor keeps of a longer text."""

ENGLISH = "A man in a red jacket is standing next to the kitchen table. What is the name of the large brown animal?"
"""A text that gives the mean number of tokens of a character."""


def num_chars(text: str) -> int:
    """Return the characters of an ASCII text, the bytes of another: those cost about as many tokens."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def mean_chars(texts: Sequence[str]) -> int:
    """Return the mean characters of texts of which a sample takes one."""
    return num_chars("".join(texts)) // max(len(texts), 1)


def chars_with_boxes(text: str) -> int:
    """Return the characters of a text that may contain boxes."""
    return num_chars(text) + (BOX_CHARS - len("{<12><34><56><78>}")) * text.count("{<")


def cleaned_chars(text: str) -> int:
    """Return the characters of a text that the caption processor may cut."""
    return min(num_chars(text), CLEANED_CHARS)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCosts:
    """The tokens of an image with its span, of one character, and of the chat marks around the first turn.

    `max_prompt` and `max_rest` limit the first question, and all text after it.
    """

    image: int
    layout: int
    character: float
    max_prompt: int
    max_rest: int


def token_costs(encoder: ChatEncoder) -> TokenCosts:
    """Return the costs of an encoder."""
    tokenizer, layout = encoder.tokenizer, encoder.chat_format
    return TokenCosts(
        image=encoder.num_image_tokens + len(tokenizer.encode(layout.image_open + layout.image_close)),
        layout=len(encoder.encode([Turn("", "")])[0]),
        character=len(tokenizer.encode(ENGLISH)) / len(ENGLISH),
        max_prompt=encoder.max_context_len,
        max_rest=encoder.max_txt_len,
    )
