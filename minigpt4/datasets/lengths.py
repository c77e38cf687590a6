"""Counts characters of a row's texts; balancing the ranks estimates tokens from them."""

from __future__ import annotations

from collections.abc import Sequence

BOX_CHARS = 50
"""Characters that cost as many tokens as one box {<12><34><56><78>}, where each digit is a token."""
TURN_CHARS = 35
"""Characters that cost as many tokens as the chat marks around a later turn."""
CLEANED_CHARS = 300
"""Characters of the 50 words that the caption processor keeps of a longer text."""


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
