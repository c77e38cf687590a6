"""Rows of a benchmark that declares no `fields`."""

import json

import pytest
from omegaconf import OmegaConf

from minigpt4.common.schema import EvaluationDatasetConfig
from minigpt4.evaluation.benchmark import Benchmark, Prediction, Question


class Loose(Benchmark):
    def questions(self):
        return self.ask_each(self.rows(), lambda number, row: Question(id=number, prompt=row["question"]))

    def export(self, question, answer):
        return {"answer": answer}

    def score_one(self, question, answer):
        return None

    def is_valid(self, answer):
        return True


def test_a_row_without_a_key_that_questions_read_is_named(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"question": "Q?"}, {}, {"text": "Q?"}]))
    benchmark = Loose(OmegaConf.structured(EvaluationDatasetConfig(eval_file_path=str(path))), name="loose")
    with pytest.raises(ValueError) as error:
        benchmark.questions()
    assert str(error.value).splitlines() == [
        f"loose[1]: {path}: 'question' is missing in this row",
        f"  loose[2]: {path}: 'question' is missing in this row",
    ]


def test_rows_may_have_their_text_under_another_key(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"thing": "dogs"}, {"thing": "cats", "question": 5}]))

    class Things(Loose):
        def questions(self):
            return self.ask_each(self.rows(), lambda number, row: Question(id=number, prompt=row["thing"]))

    benchmark = Things(OmegaConf.structured(EvaluationDatasetConfig(eval_file_path=str(path))), name="things")
    assert [question.prompt for question in benchmark.questions()] == ["dogs", "cats"]


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (lambda: 2, "expected None or a number from 0 to 1, got 2"),
        (lambda: "no", "expected None or a number from 0 to 1, got 'no'"),
        (lambda: float("nan"), "expected None or a number from 0 to 1, got nan"),
        (lambda: float("five"), "could not convert string to float: 'five'"),
        (lambda: {}["truth"], "'truth'"),
    ],
)
def test_a_score_that_is_none_of_0_to_1_is_refused_with_its_question(score, said):
    class Odd(Loose):
        def score_one(self, question, answer):
            return score()

    with pytest.raises(ValueError) as error:
        Odd(name="odd").score([Prediction(Question(id=7, prompt="Q?"), "five")])
    assert str(error.value) == f"odd[7]: score_one: {said}"
