import pandas
import pytest

from minigpt4.evaluation.benchmark import Question
from minigpt4.evaluation.benchmarks.choice import MMBench, SeedBench, seed_questions
from minigpt4.evaluation.submissions import (
    Result,
    accuracy_lines,
    check_answers,
    check_columns,
    is_fit,
    mmbench_questions,
    read_answers,
    report,
)
from minigpt4.evaluation.tables import read_tsv, write_sheet

ABCD = {"A": "red", "B": "blue", "C": "green", "D": "none"}
MMBENCH, SEED = MMBench(name="mmbench"), SeedBench(name="seed")


def ask(number: int, options: dict[str, str], truth: str | None = None) -> Question:
    return Question(id=number, prompt="", options=options, truth=truth)


ASKED = [ask(1, ABCD, "A"), ask(2, {"A": "x", "B": "y"}, "B"), ask(3, ABCD)]


def problems(*pairs: tuple[str, str], benchmark=MMBENCH) -> dict[str, list[str]]:
    found = check_answers(benchmark, ASKED, [Result(*pair) for pair in pairs])
    return {what: names for what, names in found.items() if names}


def test_a_good_file_has_no_problem():
    assert problems(("1", "A"), ("2", "y"), ("3", "(d)")) == {}


def test_every_problem_is_counted_with_its_ids():
    assert problems(("1", "E."), ("1", ""), ("2", "c. green"), ("9", "A"), ("2", "perhaps")) == {
        "questions without an answer": ["3"],
        "answers to no question": ["9"],
        "questions answered more than once": ["1", "2"],
        "empty answers": ["1"],
        "letters out of range": ["1 'E.'", "2 'c. green'"],
        "answers that name no option": ["2 'perhaps'"],
    }


def test_seed_reads_the_first_letter_and_mmbench_the_option():
    assert problems(("1", "red"), ("2", "B"), ("3", "A")) == {}
    odd = problems(("1", "red"), ("2", "B"), ("3", "A"), benchmark=SEED)
    assert odd == {"answers that name no option": ["1 'red'"]}


@pytest.mark.parametrize(
    ("pairs", "fit"),
    [
        ([("1", "A"), ("2", "B"), ("3", "C")], True),
        ([("1", "Z"), ("2", ""), ("3", "perhaps")], True),
        ([("1", "A"), ("2", "B")], False),
        ([("1", "A"), ("2", "B"), ("3", "C"), ("4", "A")], False),
        ([("1", "A"), ("2", "B"), ("3", "C"), ("3", "C")], False),
    ],
)
def test_a_file_is_fit_when_its_ids_are(pairs, fit):
    assert is_fit(problems(*pairs)) is fit


def test_videos_may_stay_unanswered():
    rows = [
        {"question_id": "7", "question_type_id": 1, "data_type": "image", "answer": "A", "choice_a": "red"},
        {"question_id": "v", "question_type_id": 1, "data_type": "video", "answer": "B"},
    ]
    found = check_answers(SEED, seed_questions({"question_type": {}, "questions": rows}), [Result("7", "A")])
    assert found["videos without an answer"] == ["v"] and is_fit(found)


def test_columns_of_a_sheet_are_compared_with_what_the_server_wants():
    found = check_columns(["index", "question", "A", "hint"], ["index", "question", "hint", "A", "B"])
    assert found == {"columns missing": ["B", "prediction"], "columns not wanted": ["hint"]}
    assert not is_fit(found)


def test_a_sheet_made_elsewhere_is_read(tmp_path):
    table = pandas.DataFrame({"index": [5, 1_000_005], "A": ["x", "y"], "prediction": ["None", None]})
    write_sheet(table, tmp_path / "x.xlsx", "this test")
    results, columns = read_answers(tmp_path / "x.xlsx")
    assert results == [Result("5", "None"), Result("1000005", "")]
    assert columns == ["index", "A", "prediction"]


def test_a_sheet_without_predictions_is_refused(tmp_path):
    write_sheet(pandas.DataFrame({"index": [5]}), tmp_path / "x.xlsx", "this test")
    with pytest.raises(ValueError, match="needs the columns index and prediction; it has index"):
        read_answers(tmp_path / "x.xlsx")


def test_a_file_that_is_no_sheet_is_refused(tmp_path):
    (tmp_path / "x.xlsx").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"cannot read .*x.xlsx"):
        read_answers(tmp_path / "x.xlsx")


def test_accuracy_counts_rows_that_tell_their_answer_and_rotations_together():
    assert accuracy_lines(ASKED, [Result("1", "a"), Result("3", "A")]) == [
        "accuracy: 50.00% of 2 rows that tell their answer"
    ]
    rotated = [*ASKED, ask(1_000_001, ABCD, "B")]
    assert accuracy_lines(rotated, [Result("1", "A"), Result("1000001", "B"), Result("2", "A")]) == [
        "accuracy: 66.67% of 3 rows that tell their answer",
        "circular accuracy: 50.00%",
    ]
    assert accuracy_lines([ask(3, ABCD)], []) == ["accuracy: unknown, no row tells its answer"]


def test_mmbench_options_and_truth_come_from_the_table():
    table = pandas.DataFrame({"index": [1], "A": ["None"], "B": ["x"], "C": [float("nan")], "answer": [float("nan")]})
    assert mmbench_questions(table) == [ask(1, {"B": "x"})]


def test_the_report_shows_each_number():
    results = [Result("1", "A"), Result("9", "B")]
    assert report(results, ASKED, check_answers(MMBENCH, ASKED, results))[:3] == [
        "rows: 2, questions: 3",
        "questions without an answer: 2 (2, 3)",
        "answers to no question: 1 (9)",
    ]


def test_options_are_compared_as_the_file_writes_them(tmp_path):
    file = tmp_path / "mm.tsv"
    file.write_text("index\tquestion\tA\tB\timage\tanswer\n007\tQ?\t1\t2\tAAAA\tA\n8\tQ?\t1.50\t2\tAAAA\tB\n")
    asked = mmbench_questions(read_tsv(file, "this test", as_text=True))
    assert asked == [ask(7, {"A": "1", "B": "2"}, "A"), ask(8, {"A": "1.50", "B": "2"}, "B")]
    assert accuracy_lines(asked, [Result("7", "1"), Result("8", "2")])[0].startswith("accuracy: 100.00%")


def test_a_true_answer_that_is_no_letter_is_named(tmp_path):
    table = pandas.DataFrame({"index": ["1"], "A": ["x"], "answer": ["E"]})
    with pytest.raises(ValueError, match=r"mm\.tsv: row 1: 'answer' should be one of A, B, C, D, not 'E'"):
        mmbench_questions(table, "mm.tsv")
