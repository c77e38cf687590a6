import json
from typing import Any, NamedTuple

import pytest

from tests.evaluation.one_run import run

# What the yaml of the recording asks of the hub lies here as a file.
CHANGES = {"vsr": {"eval_file_path": "evaluation_dataset/vsr/test.jsonl"}}
NAMES = ["okvqa", "vizwiz", "gqa", "hm", "vsr", "iconvqa"]


class Evaluated(NamedTuple):
    recorded: dict[str, Any]
    model: Any
    score: dict[str, Any]
    text: str
    questions: list[Any]


@pytest.fixture
def evaluate(golden, model_answers, make_benchmarks, recorded_model, processor, tmp_path):
    def run_it(name: str) -> Evaluated:
        [benchmark] = make_benchmarks(name, **CHANGES.get(name, {}))
        answers = [best_first(row) for row in model_answers["iconvqa_losses"]] if name == "iconvqa" else None
        model = recorded_model(answers or model_answers[name])
        score = run(benchmark, model, processor, save_path=tmp_path)
        text = (tmp_path / benchmark.result_file).read_text()
        return Evaluated(golden(name), model, score, text, benchmark.questions())

    return run_it


def best_first(losses: list[float]) -> list[int]:
    return sorted(range(len(losses)), key=losses.__getitem__)


def is_dirty(answer: str) -> bool:
    """The reference compares these, and hm saves them, before they are cleaned."""
    return "<unk>" in answer or answer != answer.strip()


@pytest.mark.parametrize("name", NAMES)
def test_prompts_equal_the_recording(name, evaluate):
    done = evaluate(name)
    assert done.model.prompts == [item["prompt"] for item in done.recorded["items"]]


@pytest.mark.parametrize("name", ["okvqa", "vizwiz", "gqa", "vsr"])
def test_result_files_equal_the_recording(name, evaluate):
    done = evaluate(name)
    assert done.text == done.recorded["saved_text"]


def test_hm_saves_cleaned_answers_where_the_reference_does_not(evaluate):
    done = evaluate("hm")
    ours, theirs = json.loads(done.text), json.loads(done.recorded["saved_text"])
    differing = [row for row, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
    assert differing == [5]
    assert done.recorded["items"][5]["model_answer"] == "<unk>yes"
    assert (ours[5], theirs[5]) == ({"pred": 1, "gt": 0}, {"pred": "<unk>yes", "gt": 0})


def test_okvqa_scores_as_recorded(evaluate):
    done = evaluate("okvqa")
    recorded = done.recorded["accuracy"]
    assert done.score["accuracy"] == recorded["overall"] == 70.94
    assert done.score["accuracy_by_question_type"] == recorded["perQuestionType"]
    assert done.score["accuracy_by_answer_type"] == recorded["perAnswerType"]


def test_okvqa_scores_each_question_as_recorded(evaluate, make_benchmarks):
    done = evaluate("okvqa")
    [benchmark] = make_benchmarks("okvqa")
    for question, row in zip(done.questions, json.loads(done.text), strict=True):
        right = benchmark.score_one(question, row["answer"])
        assert 100 * right == pytest.approx(done.recorded["per_question"][str(question.id)], abs=0.005)


@pytest.mark.parametrize("name", ["gqa", "vsr", "hm"])
def test_answers_that_need_no_cleaning_are_right_as_recorded(name, evaluate, make_benchmarks):
    done = evaluate(name)
    [benchmark] = make_benchmarks(name)
    for question, item in zip(done.questions, done.recorded["items"], strict=True):
        if not is_dirty(item["model_answer"]):
            assert benchmark.score_one(question, benchmark.clean(item["model_answer"])) == item["correct"], item


@pytest.mark.parametrize(
    ("name", "recorded", "cleaned"),
    [
        # gqa: "<unk>no", "<unk>exit" and twice more; vsr: "<unk>true" and " true"..; the cleaned answers are right
        ("gqa", 33.33333333333333, 100 * 10 / 18),
        ("vsr", 25.0, 100 * 9 / 24),
        ("hm", 31.25, 31.25),
    ],
)
def test_cleaned_answers_count(name, recorded, cleaned, evaluate):
    done = evaluate(name)
    assert done.recorded["printed"] == recorded
    assert done.score["accuracy"] == pytest.approx(cleaned)


def test_vizwiz_scores_as_recorded_but_for_marks_and_blanks(evaluate, make_benchmarks):
    done = evaluate("vizwiz")
    [benchmark] = make_benchmarks("vizwiz")
    num_compared = 0
    for question, item in zip(done.questions, done.recorded["items"], strict=True):
        people = question.reference
        if is_dirty(item["model_answer"]) or any("_" in person or is_dirty(person) for person in people):
            continue  # the reference joins and splits the people's answers at "_" and strips neither side
        num_compared += 1
        assert benchmark.score_one(question, item["model_answer"]) == pytest.approx(item["acc"])
    assert num_compared >= 13


def test_vizwiz_strips_both_sides_and_keeps_underscores(make_benchmarks):
    [benchmark] = make_benchmarks("vizwiz")
    question = benchmark.questions()[0]
    question = type(question)(id=0, prompt="", image=(), reference=["light_blue", " Light_Blue ", "blue"])
    assert benchmark.score_one(question, benchmark.clean(" LIGHT_BLUE<unk>")) == pytest.approx(2 / 3)
    assert benchmark.score_one(question, "light") == 0.0


def test_iconvqa_ranks_the_choices_of_each_question_alone(evaluate):
    done = evaluate("iconvqa")
    assert [done.model.choices[row] for row in (0, 1)] == [["truck", "pizza"], ["1", "2", "3"]]
    rows = json.loads(done.text)
    assert rows[3] == {"index": 3, "pred": 2, "gt": 2, "ranks": [2, 4, 1, 0, 3]}
    for row, item, question in zip(rows, done.recorded["items"], done.questions, strict=True):
        # the reference pads each question to the choices of its batch; what it ranks behind its own is not meaningful
        if not any("_" in choice for choice in question.choices):
            assert row["ranks"] == [place for place in item["rank"] if place < len(question.choices)]
            assert (row["pred"] == row["gt"]) == item["correct"]
    assert done.score["accuracy"] == 50.0  # "iconqa Acc:  50.0" in the recording


@pytest.mark.parametrize("place", ["evaluation_dataset/vsr", "evaluation_dataset/vsr/test.jsonl"])
def test_vsr_is_a_file_or_its_folder(place, make_benchmarks):
    [benchmark] = make_benchmarks("vsr", eval_file_path=place)
    assert len(benchmark.questions()) == 24


def test_vsr_by_its_hub_id_is_downloaded(make_benchmarks, monkeypatch, in_golden_data):
    def download(repo, file, *, repo_type, local_files_only):
        assert (repo, file, repo_type) == ("cambridgeltl/vsr_zeroshot", "test.jsonl", "dataset")
        return str(in_golden_data / "evaluation_dataset" / "vsr" / "test.jsonl")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    [benchmark] = make_benchmarks("vsr")
    assert len(benchmark.questions()) == 24


def test_vsr_that_cannot_be_downloaded_says_so(make_benchmarks, monkeypatch):
    def download(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("minigpt4.common.downloads.answers", lambda address: False)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    [benchmark] = make_benchmarks("vsr")
    with pytest.raises(ValueError, match=r"vsr\.eval_file_path: cannot reach the hub for cambridgeltl/vsr_zeroshot"):
        benchmark.questions()


def test_an_okvqa_question_without_people_is_refused(make_benchmarks, tmp_path):
    (tmp_path / "okvqa_test_split.json").write_text('[{"question_id": 5, "image_id": 1, "question": "q"}]')
    (tmp_path / "mscoco_val2014_annotations_clean.json").write_text('{"annotations": []}')
    [benchmark] = make_benchmarks("okvqa", eval_file_path=str(tmp_path))
    with pytest.raises(ValueError, match=r"okvqa\[0\]: .* holds no annotation of question 5"):
        benchmark.questions()


def test_a_missing_okvqa_file_is_named(make_benchmarks, tmp_path):
    [benchmark] = make_benchmarks("okvqa", eval_file_path=str(tmp_path))
    with pytest.raises(ValueError, match=r"mscoco_val2014_annotations_clean.json does not exist"):
        benchmark.questions()
