"""report.html of an evaluation's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from minigpt4.conversation.prompt_templates import BY_LETTER, option_lines
from minigpt4.evaluation.drawing import boxes_in, draw_boxes
from minigpt4.evaluation.mistakes import WRONG, Mistake, load_mistakes
from minigpt4.evaluation.published import published_of
from minigpt4.evaluation.results import read_results
from minigpt4.processors.pictures import AS_STORED, decode_image
from minigpt4.reports.evaluation_page import write_evaluation_page

REPORT = "report.html"
TRUE_AND_GIVEN = ("#1a7f37", "#cf222e")


def write_report(folder: Path) -> Path:
    """Write the page of a folder's results.json and wrong.jsonl; return its path. Raises: NotWrittenError."""
    path = folder / WRONG
    return write_page(folder, read_results(folder), load_mistakes(path) if path.is_file() else [])


def write_page(save_path: Path, results: Mapping[str, dict[str, Any]], mistakes: Sequence[Mistake]) -> Path:
    """Write the page of results and mistakes below `save_path`; return its path. Raises: NotWrittenError."""
    scored = {name: facts | published_of(name) for name, facts in results.items() if "accuracy" in facts}

    def draw(row: Mapping[str, Any], side: int) -> Image.Image:
        small = decode_image(row["image"], scored.get(row["benchmark"], {}).get("pictures", AS_STORED))
        small.thumbnail((side, side))
        for colour, text in zip(TRUE_AND_GIVEN, (row["truth"], row["answer"]), strict=True):
            small = draw_boxes(small, boxes_in(text or ""), colours=(colour,))
        return small

    wrong = [{**one.to_json(), "prompt": _question(one)} for one in mistakes]
    return write_evaluation_page(save_path / REPORT, scored, wrong, draw=draw)


def _question(mistake: Mistake) -> str:
    """Return the question without the lines that repeat its lettered options and ask for a letter."""
    if not isinstance(mistake.options, dict):
        return mistake.prompt
    repeated = {BY_LETTER, *option_lines(mistake.options)}
    return "\n".join(line for line in mistake.prompt.split("\n") if line not in repeated)
