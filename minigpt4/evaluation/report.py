"""report.html of an evaluation's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from minigpt4.conversation.prompt_templates import BY_LETTER, option_lines
from minigpt4.evaluation.drawing import boxes_in, draw_boxes
from minigpt4.evaluation.mistakes import read_mistakes
from minigpt4.evaluation.published import published_of
from minigpt4.evaluation.results import read_results
from minigpt4.processors.pictures import AS_STORED, decode_image
from minigpt4.reports.evaluation_page import write_evaluation_page

REPORT = "report.html"
TRUE_AND_GIVEN = ("#1a7f37", "#cf222e")


def write_report(save_path: Path) -> Path:
    """Write the page of a folder's results.json and wrong.jsonl; return its path. Raises: NotWrittenError."""
    scored = {name: facts for name, facts in read_results(save_path).items() if "accuracy" in facts}
    results = {name: facts | published_of(name) for name, facts in scored.items()}
    shown = {name: facts.get("pictures", AS_STORED) for name, facts in results.items()}

    def draw(row: Mapping[str, Any], side: int) -> Image.Image:
        small = decode_image(row["image"], shown.get(row["benchmark"], AS_STORED))
        small.thumbnail((side, side))
        for colour, text in zip(TRUE_AND_GIVEN, (row["truth"], row["answer"]), strict=True):
            small = draw_boxes(small, boxes_in(text if isinstance(text, str) else ""), colours=(colour,))
        return small

    wrong = [{**row, "prompt": _question(row["prompt"], row["options"])} for row in read_mistakes(save_path)]
    return write_evaluation_page(save_path / REPORT, results, wrong, draw=draw)


def _question(prompt: str, options: Any) -> str:
    """Return the question without the lines that repeat its lettered options and ask for a letter."""
    if not isinstance(options, Mapping):
        return prompt
    repeated = {BY_LETTER, *option_lines(options)}
    return "\n".join(line for line in prompt.split("\n") if line not in repeated)
