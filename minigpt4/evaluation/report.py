"""Shows results: a table beside the published accuracies, and report.html of an evaluation's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from minigpt4.common.tables import as_interval, as_markdown, as_percent
from minigpt4.conversation.prompt_templates import BY_LETTER, option_lines
from minigpt4.evaluation.drawing import boxes_in, draw_boxes
from minigpt4.evaluation.mistakes import WRONG, Mistake, load_mistakes
from minigpt4.evaluation.results import read_results
from minigpt4.processors.pictures import AS_STORED, decode_image
from minigpt4.reports.evaluation_page import write_evaluation_page

COLUMNS = {"seed": "SEED", "mmbench": "MMB", "okvqa": "OKVQA", "vizwiz": "VizWiz", "vsr": "VSR"}
"""Benchmarks of the published table and their names there."""
BASELINE = {"seed": 49.21, "mmbench": 38.83, "okvqa": 56.03, "vizwiz": 53.08, "vsr": 61.37}
ENGINE = {"seed": 63.83, "mmbench": 52.92, "okvqa": 56.87, "vizwiz": 54.39, "vsr": 62.43}
"""With 270k samples of MLLM-DataEngine; both are MiniGPT-v2 7B."""

REPORT = "report.html"
TRUE_AND_GIVEN = ("#1a7f37", "#cf222e")


def published_of(name: str) -> dict[str, dict[str, float]]:
    """Return the published accuracies of a benchmark as results.json has them; nothing where there are none."""
    return {"published": {"baseline": BASELINE[name], "engine": ENGINE[name]}} if name in COLUMNS else {}


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return results.json's scores, a line for each benchmark, beside the published ones."""
    titles = ["benchmark", "accuracy", "95 % interval", "questions", "unanswered", "do not parse", "seconds"]
    rows = [[*titles, "published baseline", "published engine"]]
    for name, facts in results.items():
        if "accuracy" not in facts:
            continue
        counts = [str(facts.get(f"num_{what}", "-")) for what in ("questions", "unanswered", "unparsed")]
        seconds = facts.get("seconds")
        rows.append(
            [
                name,
                as_percent(facts["accuracy"]),
                as_interval(facts.get("interval")),
                *counts,
                "-" if seconds is None else f"{seconds:.1f}",
                as_percent(BASELINE.get(name)),
                as_percent(ENGINE.get(name)),
            ]
        )
    return as_markdown(rows)


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
