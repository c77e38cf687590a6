import json
import re
from pathlib import Path

import pytest

from minigpt4.sample_world.demo_tables import chance_levels, rows, tables


def test_the_tables_show_both_rows_and_what_guessing_gives(world):
    num_samples = len(json.loads((world / "train_dataset/data_engine/dataengine_minigpt4.json").read_text()))
    chance = chance_levels(world)
    baseline, engine = rows(Path("results"))
    low = {"seed": 12.5, "mmbench": 20.0, "okvqa": 30.0, "vizwiz": 40.25, "vsr": 50.0, "refcocog_test": 0.0}
    text = tables(world, [(baseline, low), (engine, {**low, "seed": 60.0, "gqa": 61.5})])
    published, further = (table.splitlines() for table in text.split("\n\n"))
    assert {len(line) for line in published} == {len(published[0])} and {len(line) for line in further} == {
        len(further[0])
    }
    assert published[0].startswith("| Incremental Dataset | Data Amount | SEED  | MMB ")
    assert cells(published) == [
        ["Incremental Dataset", "Data Amount", "SEED", "MMB", "OKVQA", "VizWiz", "VSR"],
        [":--:"] * 7,
        ["None (baseline)", "-", "12.50", "20.00", "30.00", "40.25", "50.00"],
        ["MLLM-DataEngine", str(num_samples), "60.00", "20.00", "30.00", "40.25", "50.00"],
        ["(guessing)", "-", "25.00", f"{chance['mmbench']:.2f}", "-", "-", "50.00"],
    ]
    refcoco = ["RefCOCO val", "testA", "testB", "RefCOCO+ val", "testA", "testB", "RefCOCOg val", "test"]
    assert cells(further) == [
        ["Incremental Dataset", "Data Amount", "GQA", "HM", "IconQA", *refcoco],
        [":--:"] * 13,
        ["None (baseline)", *"-----", *"-----", "-", "0.00"],
        ["MLLM-DataEngine", str(num_samples), "61.50", *"----", *"-----", "0.00"],
        ["(guessing)", "-", "-", "50.00", f"{chance['iconvqa']:.2f}", *"----", *"----"],
    ]


def cells(lines):
    """The cells of a Markdown table, its rule as the shortest one that centres columns."""
    return [[re.sub("^:-+:$", ":--:", cell.strip()) for cell in line.split("|")[1:-1]] for line in lines]


def test_guessing_counts_the_options_of_each_question(world):
    chance = chance_levels(world)
    assert chance["iconvqa"] == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 4) / 3)  # 2, 3 and 4 choices in turn
    assert 25 < chance["mmbench"] < 35
