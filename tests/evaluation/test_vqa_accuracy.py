import json
from collections import defaultdict
from pathlib import Path

import pytest

from minigpt4.evaluation.benchmarks.scorers import normalise, plain_words, vqa_accuracy, without_punctuation

DATA = Path(__file__).parents[1] / "golden" / "data"


def read(path: str):
    return json.loads((DATA / path).read_text(encoding="utf-8"))


def records(entry: dict) -> list[dict]:
    if entry["has_answer_id"]:
        return [{"answer": text, "answer_id": i} for i, text in enumerate(entry["answers"])]
    return [{"answer": text} for text in entry["answers"]]


def test_the_420_recorded_answer_sets_score_as_recorded():
    sets = read("scoring_inputs/okvqa_random_sets.json")
    recorded = {number: accuracy for number, _, accuracy in read("golden/eval/okvqa_random_sets.json")["per_question"]}
    assert len(sets) == len(recorded) == 420
    for entry in sets:
        score = 100 * vqa_accuracy(entry["pred"], records(entry))
        assert score == pytest.approx(recorded[entry["question_id"]], abs=1e-6), entry


def test_the_420_sets_average_as_recorded_over_all_and_by_type():
    recorded = read("golden/eval/okvqa_random_sets.json")
    groups = defaultdict(list)
    for entry in read("scoring_inputs/okvqa_random_sets.json"):
        score = 100 * vqa_accuracy(entry["pred"], records(entry))
        for group in ("overall", ("perQuestionType", entry["question_type"]), ("perAnswerType", entry["answer_type"])):
            groups[group].append(score)
    means = {group: sum(scores) / len(scores) for group, scores in groups.items()}
    assert round(means.pop("overall"), 6) == float(recorded["overall_n6"])
    for (kind, name), mean in means.items():
        assert round(mean, 2) == recorded["accuracy"][kind][name]


def test_the_recorded_strings_normalise_as_recorded():
    recorded = read("golden/eval/vqa_normalize_strings.json")
    assert len(recorded) == 214
    for text, punctuation, words, both in recorded:
        assert (without_punctuation(text), plain_words(text), normalise(text)) == (punctuation, words, both), text


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The dont-know", "don't know"),
        ("2,500-3 (ok)", "25003 ok"),
        ("a, b", "b"),
        ("U.S.A. 2.5.", "usa 2.5"),
        ("Im here", "im here"),
        ("None of ten", "0 of 10"),
        ("y'allll", "y'all'll"),
    ],
)
def test_normalisation_by_hand(text, normal):
    assert normalise(text) == normal


def test_a_person_is_compared_with_the_others_only():
    people = [{"answer": text, "answer_id": i} for i, text in enumerate(["cat"] * 3 + ["dog"] * 7)]
    # leaving out a cat leaves 2 of 3 needed, leaving out a dog leaves 3
    assert vqa_accuracy("cat", people) == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    assert vqa_accuracy("a dog", people) == 1.0
    assert vqa_accuracy("bird", people) == 0.0


def test_equal_records_are_left_out_together():
    people = [{"answer": text} for text in ["cat"] * 3 + ["dog"] * 7]
    assert vqa_accuracy("cat", people) == pytest.approx((3 * 0 + 7 * 1) / 10)
    assert vqa_accuracy("owl", [{"answer": "owl"}, {"answer": "owl!"}, {"answer": "Owl"}]) == 0.0


def test_where_all_people_agree_nothing_is_normalised_but_the_case():
    people = [{"answer": " The\nCat\t", "answer_id": i} for i in range(10)]
    assert vqa_accuracy("the cat", people) == 1.0
    assert vqa_accuracy("cat", people) == 0.0


def test_nobody_asked_is_no_agreement():
    assert vqa_accuracy("cat", []) == 0.0
