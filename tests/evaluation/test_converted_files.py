"""What users' annotation and result files get wrong: one line that names file and row."""

import json
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUESTION = {"question_id": "1", "question_type_id": 1, "data_type": "image", "answer": "A"}
RESULT = {"question_id": 1, "text": "A"}


def convert(capsys, monkeypatch, script, *args):
    """Run a converter in this process; return its code and what it printed."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
    code = 0
    try:
        runpy.run_path(str(ROOT / "eval_scripts" / script), run_name="__main__")
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr()


@pytest.fixture
def seed(tmp_path, capsys, monkeypatch):
    def run(annotation, results, *more):
        for name, content in (("ann.json", annotation), ("res.jsonl", results)):
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / name).write_text(text, encoding="utf-8")
        files = ("--annotation-file", tmp_path / "ann.json", "--result-file", tmp_path / "res.jsonl")
        return convert(capsys, monkeypatch, "convert_seed_for_submission_minigpt4.py", *files, *more)

    return run


def annotation_of(*questions):
    return {"question_type": {"Scene": 1}, "questions": list(questions)}


def test_byte_order_marks_are_no_part_of_annotation_and_results(seed):
    code, printed = seed("\ufeff" + json.dumps(annotation_of(QUESTION)), "\ufeff" + json.dumps(RESULT) + "\r\n")
    assert (code, printed.out) == (0, "Scene: 100.00%\nTotal accuracy: 100.00%\nimage accuracy: 100.00%\n")


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (
            annotation_of(QUESTION, {**QUESTION, "answer": None}),
            "ann.json: question 2: 'answer' should be a text, not null",
        ),
        (
            annotation_of({**QUESTION, "answer": "E"}),
            "ann.json: question 1: 'answer' should be one of A, B, C, D, not 'E'",
        ),
        (
            annotation_of({**QUESTION, "question_id": None}),
            "question 1: 'question_id' should be a whole number or a text",
        ),
        (annotation_of({"question_id": 1}), "ann.json: question 1: 'question_type_id' is missing"),
        (annotation_of("x"), "ann.json: question 1: a row should be an object"),
        ({"question_type": [1], "questions": []}, "ann.json: 'question_type' should be an object with a number"),
        ({"question_type": {}, "questions": {}}, "ann.json: 'questions' should be a list, not an empty object"),
        ([QUESTION], "ann.json is no SEED annotation"),
        ('{"question_type": {}, "questions": []} x', "ann.json: more text after its object at byte 39"),
    ],
)
def test_a_seed_annotation_that_does_not_fit_is_one_line(seed, annotation, message):
    for more in ((), ("--validate",)):
        code, printed = seed(annotation, [RESULT], *more)
        assert (code, printed.out) == (2, "")
        assert message in printed.err and printed.err.count("\n") == 1


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([RESULT, {"question_id": 1, "text": 5}], "res.jsonl: row 2: 'text' should be a text, not 5"),
        (
            [RESULT, {"question_id": None, "text": "A"}],
            "row 2: 'question_id' should be a whole number or a text, not null",
        ),
        ([RESULT, {"question_id": 1}], "res.jsonl: row 2: has no text"),
        ([5], "res.jsonl: row 1: a row should be an object with question_id, not 5"),
        ('{"question_id": 1, "text": "A"}\nx', "res.jsonl: line 2: is no JSON"),
    ],
)
def test_a_result_file_that_does_not_fit_is_one_line(seed, results, message):
    code, printed = seed(annotation_of(QUESTION), results)
    assert code == 2 and message in printed.err and printed.err.count("\n") == 1


def test_half_characters_of_a_model_are_answers(seed):
    code, printed = seed(annotation_of(QUESTION), '{"question_id": 1, "text": "A\\ud83d"}')
    assert (code, printed.out.splitlines()[-1]) == (0, "image accuracy: 100.00%")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("index\tquestion\nen_1\tQ\n", "mm.tsv: row 1: index 'en_1' should be a number"),
        ("index\tquestion\n1\tQ\n1\tQ\n", "mm.tsv: row 2: index 1 is that of row 1 too"),
        (
            'index\tquestion\n1\t"Q\n2\tQ\n',
            "mm.tsv: line 2: the quotation mark that begins its 'question' is not closed",
        ),
        ("index,question\n1,Q\n", "mm.tsv: has no column index; is it separated by commas instead of tabs?"),
        ("index\tquestion\n1\n", "mm.tsv: line 2: has 1 fields, though the first line has 2"),
    ],
)
def test_an_mmbench_table_that_does_not_fit_is_one_line(tmp_path, capsys, monkeypatch, table, message):
    (tmp_path / "mm.tsv").write_text(table)
    (tmp_path / "res.jsonl").write_text(json.dumps(RESULT))
    files = ("--annotation-file", tmp_path / "mm.tsv", "--result-file", tmp_path / "res.jsonl")
    for more in (("--validate",), ("--output-file", tmp_path / "out.xlsx")):
        code, printed = convert(capsys, monkeypatch, "convert_mmbench_for_submission.py", *files, *more)
        assert (code, printed.out) == (2, "")
        assert message in printed.err and printed.err.count("\n") == 1
    assert not (tmp_path / "out.xlsx").exists()


def test_a_sheet_that_is_none_is_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "mm.tsv").write_text("index\tquestion\n1\tQ\n")
    (tmp_path / "res.xlsx").write_text("no sheet")
    files = ("--annotation-file", tmp_path / "mm.tsv", "--result-file", tmp_path / "res.xlsx", "--validate")
    code, printed = convert(capsys, monkeypatch, "convert_mmbench_for_submission.py", *files)
    assert code == 2 and "cannot read" in printed.err and "res.xlsx" in printed.err
