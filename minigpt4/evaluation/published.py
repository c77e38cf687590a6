"""The published accuracies, and tables that show them beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = {"seed": "SEED", "mmbench": "MMB", "okvqa": "OKVQA", "vizwiz": "VizWiz", "vsr": "VSR"}
"""Benchmarks of the published table and what it calls them."""
BASELINE = {"seed": 49.21, "mmbench": 38.83, "okvqa": 56.03, "vizwiz": 53.08, "vsr": 61.37}
ENGINE = {"seed": 63.83, "mmbench": 52.92, "okvqa": 56.87, "vizwiz": 54.39, "vsr": 62.43}
"""With 270k samples of MLLM-DataEngine; both are MiniGPT-v2 7B."""


def published_of(name: str) -> dict[str, dict[str, float]]:
    """Return the published accuracies of a benchmark as results.json has them; nothing where there are none."""
    return {"published": {"baseline": BASELINE[name], "engine": ENGINE[name]}} if name in COLUMNS else {}


def as_percent(value: float | None) -> str:
    """Return a percentage with two digits, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def as_interval(ends: Sequence[float] | None) -> str:
    """Return the two ends of an interval, or a dash."""
    return "-" if ends is None else f"{ends[0]:.2f} .. {ends[1]:.2f}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first one of titles, as a Markdown table whose columns stand under each other."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def results_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return results.json's scores, a line a benchmark, beside the published ones."""
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
    return aligned(rows)
