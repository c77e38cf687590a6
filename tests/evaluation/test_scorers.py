import json
from pathlib import Path

import pytest

from minigpt4.evaluation.benchmarks.scorers import (
    circular_percent,
    first_letter,
    grouped,
    overlap,
    percent,
    read_box,
    read_letter,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "golden"
OPTIONS = {"A": "a red car", "B": "Bus", "D": "none of these."}


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        (" b. ", "B"),
        ("(D)", "D"),
        ("D) none", "D"),
        ("A\nB", "A"),
        ("bus", "B"),
        ("A red car.", "A"),
        ("None of these", "D"),
        ("The answer is (B).", "B"),
        ("The answer is (b).", "B"),
        ("Answer: A", "A"),
        ("A or B", None),
        ("A bird", None),
        ("C", None),
        ("", None),
        ("123", None),
    ],
)
def test_an_answer_means_an_option_or_none(answer, letter):
    assert read_letter(answer, OPTIONS) == letter


def test_the_first_letter_ignores_blanks_and_case():
    assert [first_letter(text) for text in (" \n b) x", "", "Éa", "(D)")] == ["B", "", "É", "("]


def test_overlaps_equal_the_recording():
    pairs = json.loads((GOLDEN / "misc" / "compute_iou.json").read_text())["pairs"]
    assert len(pairs) == 166
    for first, second, iou in pairs:
        assert overlap(first, second) == pytest.approx(iou, abs=1e-12)


def test_an_inverted_box_overlaps_nothing():
    # the reference divides by zero where the two areas cancel out
    assert overlap([10, 10, 0, 0], [0, 0, 10, 10]) == 0.0


@pytest.mark.parametrize(
    ("answer", "box"),
    [
        ("{<0><25><50><100>}", [0.0, 50.0, 200.0, 200.0]),
        ("{<0><25><50><100>}garbage", [0.0, 50.0, 200.0, 200.0]),
        ("{<0><25><140><999>}", [0.0, 50.0, 560.0, 1998.0]),
        ("{<0><25><50><100>}7", None),
        ("{<0><25><50><100>}<delim>{<0><25><50><100>}", None),
        ("at{<0><25><50><100>}", None),
        ("{<0><25><50><1000>}", None),
        ("{<0><25><50>}", None),
        ("", None),
    ],
)
def test_a_box_is_what_an_answer_begins_with_when_it_holds_four_numbers(answer, box):
    assert read_box(answer, width=400, height=200) == box


def test_percentages_of_nothing_are_unknown():
    assert percent([]) is None
    assert percent([1.0, 0.5]) == 75.0
    groups = grouped([("b", 1.0), ("a", 0.0), ("b", 0.0)])
    assert list(groups) == ["a", "b"]
    assert {name: percent(group) for name, group in groups.items()} == {"a": 0.0, "b": 50.0}


def test_a_question_is_right_in_a_circle_when_every_rotation_is():
    assert circular_percent([(1, 1.0), (1_000_001, 1.0), (2, 1.0), (3_000_002, 0.0)]) == 50.0
    assert circular_percent([(1, 1.0), (2, 0.0)]) is None
