"""The published accuracies, and tables that show them beside the measured ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minigpt4.common.tables import as_interval, as_markdown, as_percent

COLUMNS = {"seed": "SEED", "mmbench": "MMB", "okvqa": "OKVQA", "vizwiz": "VizWiz", "vsr": "VSR"}
"""Benchmarks of the published table and their names there."""
BASELINE = {"seed": 49.21, "mmbench": 38.83, "okvqa": 56.03, "vizwiz": 53.08, "vsr": 61.37}
ENGINE = {"seed": 63.83, "mmbench": 52.92, "okvqa": 56.87, "vizwiz": 54.39, "vsr": 62.43}
"""With 270k samples of MLLM-DataEngine; both are MiniGPT-v2 7B."""


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
