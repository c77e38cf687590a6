import json

import pytest
from PIL import Image

from minigpt4.evaluation.benchmark import Prediction
from minigpt4.evaluation.mistakes import Mistake, load_mistakes, mistakes, write_mistakes


def rows_of(benchmark, answers, tmp_path):
    answered = [Prediction(*pair) for pair in zip(benchmark.questions(), answers, strict=True)]
    by_type = benchmark.score(answered).get("accuracy_by_type", {})
    return [row.to_json() for row in mistakes(benchmark, answered, by_type, save_path=tmp_path)]


def test_a_wrong_answer_to_seed_tells_type_options_truth_and_image(make_benchmarks, model_answers, tmp_path):
    [benchmark] = make_benchmarks("seed")
    answers = [benchmark.clean(answer) for answer in model_answers["seed"]]
    rows = rows_of(benchmark, answers, tmp_path)
    assert len(rows) == 8  # 22 of 30 are right
    assert rows[0] == {
        "benchmark": "seed",
        "question_id": 101030,
        "type": "Instance Identity",
        "type_accuracy": 50.0,
        "prompt": "[vqa] Is there anything to the right of the long vase?\nA. round pizza\nB. small horse\n"
        "C. yellow frisbee\nD. small frisbee\nAnswer with the option's letter from the given choices directly.",
        "options": {"A": "round pizza", "B": "small horse", "C": "yellow frisbee", "D": "small frisbee"},
        "truth": "D",
        "answer": "a",
        "right": 0.0,
        "image": "evaluation_dataset/seed/SEED-Bench-image/832156_337591145",
    }


def test_a_picture_that_comes_as_text_gets_a_file_one_for_all_its_questions(make_benchmarks, tmp_path):
    [benchmark] = make_benchmarks("mmbench")
    rows = rows_of(benchmark, ["none of these"] * 22, tmp_path)
    files = {row["image"] for row in rows}
    assert len(rows) == 18  # the number of rows of the TSV that tell their answer
    assert {str(path) for path in (tmp_path / "wrong_pictures" / "mmbench").iterdir()} == files
    for file in files:
        Image.open(file).load()


@pytest.mark.parametrize(
    ("name", "answer", "truth"),
    [
        ("hm", "maybe", ["no", "yes"]),
        ("iconvqa", [4, 0], ["truck"]),
        ("vsr", "maybe", ["true", "false"]),
    ],
)
def test_truths_are_in_words(name, answer, truth, make_benchmarks, tmp_path):
    changes = {"vsr": {"eval_file_path": "evaluation_dataset/vsr/test.jsonl"}}.get(name, {})
    [benchmark] = make_benchmarks(name, **changes)
    question = benchmark.questions()[0]
    assert question.truth in truth
    assert isinstance(Prediction(question, answer).text, str)


def test_the_truth_of_graded_answers_is_what_people_said(make_benchmarks):
    [benchmark] = make_benchmarks("vizwiz")
    question = benchmark.questions()[0]
    assert (question.type, question.options, question.truth) == ("other", None, "yes (9), Unanswerable (1)")


def test_an_answer_that_is_right_by_half_is_not_wrong(make_benchmarks, tmp_path):
    [benchmark] = make_benchmarks("vizwiz")
    question = benchmark.questions()[0]
    question = type(question)(id=0, prompt="", image=question.image, reference=["a", "a", "b"])
    rows = mistakes(benchmark, [Prediction(question, "a"), Prediction(question, "b")], {}, save_path=tmp_path)
    assert [(row.answer, row.right) for row in rows] == [("b", pytest.approx(1 / 3))]


def mistake(benchmark, answer):
    return Mistake(benchmark=benchmark, question_id=1, prompt="q", answer=answer, right=0.0)


def test_writing_replaces_the_rows_of_that_benchmark_alone(tmp_path):
    odd = mistake("a", "\ud800\n")
    write_mistakes(tmp_path, {"a": [mistake("a", "1")]})
    write_mistakes(tmp_path, {"b": [mistake("b", "2")]})
    assert write_mistakes(tmp_path, {"a": [odd]}) == [mistake("b", "2"), odd]
    assert load_mistakes(tmp_path / "wrong.jsonl") == [mistake("b", "2"), odd]
    assert len((tmp_path / "wrong.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "wrong.jsonl").read_text().splitlines()[0]) == mistake("b", "2").to_json()
