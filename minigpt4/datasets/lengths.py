"""How many tokens a row takes, estimated from the characters of its texts: what balancing the ranks goes by."""

from __future__ import annotations

from collections.abc import Sequence

BOX_CHARS = 50
"""Characters of common words that take as many tokens as one box {<12><34><56><78>}, whose digits are tokens each."""
TURN_CHARS = 35
"""The same for what the chat layout puts around a turn after the first."""
CLEANED_CHARS = 300
"""The same for the 50 words that the caption processor leaves of a longer text."""


def num_chars(text: str) -> int:
    """Return a text's number of characters, in bytes where it is not English: those take about as many tokens."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def mean_chars(texts: Sequence[str]) -> int:
    """Return the mean size of texts of which a sample draws one."""
    return num_chars("".join(texts)) // max(len(texts), 1)


def chars_with_boxes(text: str) -> int:
    """Return the size of a text that may hold boxes."""
    return num_chars(text) + (BOX_CHARS - len("{<12><34><56><78>}")) * text.count("{<")


def cleaned_chars(text: str) -> int:
    """Return the size of a text that the caption processor cuts when it is long."""
    return min(num_chars(text), CLEANED_CHARS)
