"""report.html of an evaluation: accuracies by question type and the wrong answers with their pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from minigpt4.common.seeds import derive_rng
from minigpt4.reports.page import data_uri, write_page

NUM_CARDS = 12
"""The most wrong answers of a question type on the page."""
NUM_PICTURES = 400
"""The most pictures on the page."""
PICTURE_SIDE = 320
_NO_TYPE = "all questions"
Row = Mapping[str, Any]


def write_evaluation_page(
    path: Path,
    results: Mapping[str, Mapping[str, Any]],
    wrong: Sequence[Row],
    *,
    draw: Callable[[Row, int], Image.Image],
) -> Path:
    """Write the page of results.json's benchmarks and wrong.jsonl's rows; return its path. Raises: NotWrittenError.

    `draw` returns a row's picture with its boxes, its sides at most the given number of pixels. It raises ValueError
    for a picture that cannot be read.
    """
    cards = Cards(draw)
    by_benchmark: dict[str, list[Row]] = {name: [] for name in results}
    for row in wrong:
        by_benchmark.setdefault(row["benchmark"], []).append(row)
    sections = [section(name, facts, by_benchmark[name], cards) for name, facts in results.items()]
    return write_page(path, "evaluation.html.j2", sections=sections)


def section(name: str, facts: Mapping[str, Any], wrong: Sequence[Row], cards: Cards) -> dict[str, Any]:
    """Return a benchmark's section: its types from the weakest to the strongest, with random wrong answers."""
    by_type: dict[str, float | None] = dict(facts.get("accuracy_by_type", {})) or {_NO_TYPE: facts["accuracy"]}
    groups: dict[str, list[Row]] = {kind: [] for kind in by_type}
    for row in wrong:
        groups.setdefault(_NO_TYPE if row["type"] is None else str(row["type"]), []).append(row)
    rng, types = derive_rng("report", name), []
    for kind in sorted(groups, key=lambda kind: (by_type.get(kind) is None, by_type.get(kind) or 0)):
        rows = groups[kind]
        chosen = sorted(rng.sample(range(len(rows)), min(NUM_CARDS, len(rows))))
        shown = [cards.card(rows[number]) for number in chosen]
        types.append({"name": kind, "accuracy": by_type.get(kind), "num_wrong": len(rows), "cards": shown})
    return {"name": name, "facts": facts, "num_wrong": len(wrong), "types": types}


class Cards:
    """Makes the cards of wrong answers; the first `NUM_PICTURES` of a page have pictures."""

    def __init__(self, draw: Callable[[Row, int], Image.Image]) -> None:
        self._draw, self._num_left = draw, NUM_PICTURES

    def card(self, row: Row) -> dict[str, Any]:
        """Return a row with its options as (letter, text, whether it is the truth), and its picture or a caption."""
        options = row["options"] or {}
        lettered = options.items() if isinstance(options, Mapping) else (("", option) for option in options)
        marked = [(letter, text, str(letter or text) == str(row["truth"])) for letter, text in lettered]
        return {"row": row, "options": marked, "picture": None, "caption": "", **self._picture(row)}

    def _picture(self, row: Row) -> dict[str, Any]:
        if not self._num_left:
            return {}
        try:
            small = self._draw(row, PICTURE_SIDE)
        except ValueError:
            return {"caption": "cannot read "}
        self._num_left -= 1
        return {"picture": data_uri(small, quality=80), "width": small.width, "height": small.height}
