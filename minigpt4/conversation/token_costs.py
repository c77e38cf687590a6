"""Token costs that estimate a text's length before it is encoded, measured with the run's tokenizer and layout."""

from __future__ import annotations

from dataclasses import dataclass

from minigpt4.conversation.conversation import Turn
from minigpt4.conversation.encoder import ChatEncoder

ENGLISH = "A man in a red jacket is standing next to the kitchen table. What is the name of the large brown animal?"
"""A text that gives the mean number of tokens of a character."""


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
