"""How many tokens a row takes, estimated from the characters of its texts: what balancing the ranks goes by."""

from __future__ import annotations

from collections.abc import Sequence

BOX_SIZE = 50
"""Characters of common words that take as many tokens as one box {<12><34><56><78>}, whose digits are tokens each."""
TURN_SIZE = 35
"""The same for what the chat layout puts around a turn after the first."""
CLEANED_SIZE = 300
"""The same for the 50 words that the caption processor leaves of a longer text."""


def size(text: str) -> int:
    """Return a text's number of characters, in bytes where it is not English: those take about as many tokens."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def size_of_one(texts: Sequence[str]) -> int:
    """Return the mean size of texts of which a sample draws one."""
    return size("".join(texts)) // max(len(texts), 1)


def size_with_boxes(text: str) -> int:
    """Return the size of a text that may hold boxes."""
    return size(text) + (BOX_SIZE - len("{<12><34><56><78>}")) * text.count("{<")


def cleaned_size(text: str) -> int:
    """Return the size of a text that the caption processor cuts when it is long."""
    return min(size(text), CLEANED_SIZE)
