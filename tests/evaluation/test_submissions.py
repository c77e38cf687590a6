import json

import pandas
import pytest
from openpyxl import load_workbook

from minigpt4.evaluation.benchmarks.choice import read_seed
from minigpt4.evaluation.submissions import Result, mmbench_table, read_results, remarks, seed_report
from minigpt4.evaluation.tables import need, read_tsv, write_sheet

ANNOTATION = {
    "question_type": {"Late": 2, "Early": 1},
    "questions": [
        {"question_id": "1", "question_type_id": 1, "data_type": "image", "answer": "A"},
        {"question_id": "2", "question_type_id": 1, "data_type": "image", "answer": "B"},
        {"question_id": "v", "question_type_id": 2, "data_type": "video", "answer": "C"},
    ],
}


def test_seed_reports_equal_the_recording(golden, in_golden_data):
    annotation = read_seed(in_golden_data / "evaluation_dataset" / "seed" / "SEED-Bench-image.json")
    for name, recorded in golden("seed_convert").items():
        lines = seed_report(annotation, read_results(in_golden_data / "scoring_inputs" / name))
        # the reference stops at a type without a hit; what it would print is recorded beside
        assert "\n".join(lines) + "\n" == recorded.get("stdout_if_missing_key_counts_as_zero", recorded["stdout"])


def test_a_seed_type_without_a_hit_is_zero_and_types_stand_by_their_number():
    assert seed_report(ANNOTATION, [Result("1", "a) yes")]) == [
        "Early: 50.00%",
        "Late: 0.00%",
        "Total accuracy: 33.33%",
        "image accuracy: 50.00%",
    ]


def test_the_first_letter_may_stand_after_blanks():
    assert seed_report(ANNOTATION, [Result("1", " \n a"), Result("2", "B")])[-1] == "image accuracy: 100.00%"


def test_ids_that_do_not_fit_are_counted_and_shown():
    results = [Result("1", "A"), Result("1", "B"), Result("9", " ")]
    assert remarks(["1", "2", "3"], results) == [
        "2 questions without an answer: 2, 3",
        "1 answers to no question: 9",
        "1 questions answered more than once: 1",
        "1 empty answers: 9",
    ]
    assert remarks(["1"], [Result("1", "A")]) == []


@pytest.mark.parametrize("name", ["mmbench_results_end_to_end", "mmbench_results_partial"])
def test_the_mmbench_sheet_equals_the_recording_cell_for_cell(name, golden, in_golden_data, tmp_path):
    table = read_tsv(in_golden_data / "evaluation_dataset" / "mmbench" / "mmbench_dev_20230712.tsv", "this test")
    results = read_results(in_golden_data / "scoring_inputs" / f"{name}.jsonl")
    write_sheet(mmbench_table(table, results), tmp_path / "out.xlsx", "this test")
    book = load_workbook(tmp_path / "out.xlsx")
    recorded = golden("mmbench_convert")[name]
    assert book.sheetnames == recorded["sheet_names"]
    assert [list(row) for row in book.active.iter_rows(values_only=True)] == recorded["cells"]


def test_columns_that_are_absent_are_not_dropped():
    table = pandas.DataFrame({"index": [1], "question": ["q"], "A": ["a"], "hint": ["h"]})
    assert list(mmbench_table(table, [Result("1", "aB")]).columns) == ["index", "question", "A", "prediction"]


def test_hostile_answers_stay_text(tmp_path):
    hostile = ["=1+1", "a\x00b\x1b[0m\x07c", "line\nline", "x" * 40_000, "\ud800half", "@SUM(A1)"]
    table = pandas.DataFrame({"prediction": hostile})
    assert write_sheet(table, tmp_path / "out.xlsx", "this test") == 3
    cells = [cell for (cell,) in load_workbook(tmp_path / "out.xlsx").active.iter_rows(min_row=2)]
    assert [cell.data_type for cell in cells] == ["s"] * 6
    assert [cell.value for cell in cells] == ["=1+1", "ab[0mc", "line\nline", "x" * 32_767, "half", "@SUM(A1)"]


def test_a_result_row_without_text_is_named(tmp_path):
    path = tmp_path / "seed.jsonl"
    path.write_text(json.dumps({"question_id": 1, "text": None}) + "\n" + json.dumps({"question_id": 2}) + "\n")
    with pytest.raises(ValueError, match=r"seed.jsonl: row 2: has no text"):
        read_results(path)


def test_a_broken_result_line_is_named(tmp_path):
    path = tmp_path / "seed.jsonl"
    path.write_text('{"question_id": 1, "text": "A"}\n{"question_id"\n')
    with pytest.raises(ValueError, match=r"seed.jsonl: line 2: is no JSON"):
        read_results(path)


def test_an_absent_package_says_who_needs_it_and_how_to_get_it():
    with pytest.raises(ImportError, match=r"the mmbench benchmark needs no_such_package: .*extra \[eval\]"):
        need("no_such_package", "the mmbench benchmark")


def test_no_seed_question_is_lost_whatever_its_type():
    questions = [
        {"question_id": number, "question_type_id": kind, "data_type": "image", "answer": "A"}
        for number, kind in ((1, "1"), (2, 1), (3, 9))
    ]
    annotation = {"question_type": {"Scene": 1}, "questions": questions}
    assert seed_report(annotation, [Result("1", "A"), Result("2", "B"), Result("3", "A")])[:3] == [
        "Scene: 50.00%",
        "type 9: 100.00%",
        "Total accuracy: 66.67%",
    ]
