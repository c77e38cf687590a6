"""The demo's tables: both rows in the columns of the published table, the other benchmarks, and what guessing gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from minigpt4.common.tables import as_markdown, as_percent
from minigpt4.evaluation.report import COLUMNS

ENGINE_FILE = "train_dataset/data_engine/dataengine_minigpt4.json"
FURTHER_COLUMNS = {
    "gqa": "GQA",
    "hm": "HM",
    "iconvqa": "IconQA",
    "refcoco_val": "RefCOCO val",
    "refcoco_testA": "testA",
    "refcoco_testB": "testB",
    "refcoco+_val": "RefCOCO+ val",
    "refcoco+_testA": "testA",
    "refcoco+_testB": "testB",
    "refcocog_val": "RefCOCOg val",
    "refcocog_test": "test",
}
"""Benchmarks that the published table does not have, by their names in results.json."""
BENCHMARKS = (*COLUMNS, *FURTHER_COLUMNS)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the results table: which training run it is, and where its results go."""

    title: str
    config: str
    results: Path
    has_engine: bool


def rows(results: Path) -> tuple[Row, Row]:
    """Return the two rows of the table; the engine's results lie where evaluation puts them by default."""
    return (
        Row("None (baseline)", "sample_world", results / "baseline", has_engine=False),
        Row("MLLM-DataEngine", "sample_world_dataengine", results, has_engine=True),
    )


def tables(world: Path, scores: Sequence[tuple[Row, Mapping[str, float]]]) -> str:
    """Return the published table's columns, and those of the other benchmarks below, in percent."""
    num_samples = len(json.loads((world / ENGINE_FILE).read_text(encoding="utf-8")))
    lines = [(row.title, f"{num_samples:,}" if row.has_engine else "-", score) for row, score in scores]
    lines.append(("(guessing)", "-", chance_levels(world)))
    return f"{_table(COLUMNS, lines)}\n\n{_table(FURTHER_COLUMNS, lines)}"


def _table(columns: Mapping[str, str], lines: Sequence[tuple[str, str, Mapping[str, float]]]) -> str:
    cells = [["Incremental Dataset", "Data Amount", *columns.values()]]
    cells += [[title, amount, *(as_percent(score.get(name)) for name in columns)] for title, amount, score in lines]
    return as_markdown(cells, centred=True)


def chance_levels(world: Path) -> dict[str, float]:
    """Return the accuracies in percent of guessing, by benchmark, where there is something to guess from."""
    import pandas

    questions = world / "evaluation_dataset"
    tsv = pandas.read_csv(questions / "mmbench/mmbench_dev_20230712.tsv", sep="\t")
    mmbench = tsv[list("ABCD")].notna().sum(axis=1)
    iconqa = json.loads((questions / "iconvqa/choose_text_val.json").read_text(encoding="utf-8"))
    return {
        "seed": 25.0,
        "mmbench": 100 * float((1 / mmbench).mean()),
        "vsr": 50.0,
        "hm": 50.0,
        "iconvqa": 100 * sum(1 / len(row["choices"]) for row in iconqa) / len(iconqa),
    }
