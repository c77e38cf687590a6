"""How many tokens a row takes, estimated from the characters of its texts: what balancing the ranks goes by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minigpt4.conversation.token_costs import TokenCosts
from minigpt4.datasets.row_table import IMAGE_SEPARATOR, MAX_SIZE, RowTable

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


def row_lengths(table: RowTable, kept: np.ndarray | None, costs: TokenCosts, *, wording: float) -> np.ndarray:
    """Return the estimated tokens of the kept rows, (num_kept,) uint16; `wording` characters are asked around each."""
    groups = [names.count(IMAGE_SEPARATOR) + 1 if names else 0 for names in table.image_names()]
    asked, told, images = (table.arrays[name] for name in ("asked", "told", "images"))
    if kept is not None:
        asked, told, images = asked[kept], told[kept], images[kept]
    tokens = (asked + np.float32(wording)) * np.float32(costs.character)
    tokens += (np.array(groups, np.float32) * costs.image)[images]
    np.minimum(tokens, costs.max_prompt, out=tokens)
    tokens += np.minimum(told * np.float32(costs.character), costs.max_rest)
    tokens += costs.layout
    rounded: np.ndarray = np.minimum(tokens, MAX_SIZE, out=tokens).round().astype(np.uint16)
    return rounded
