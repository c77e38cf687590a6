import json
from pathlib import Path

import pytest

from minigpt4.evaluation.benchmark import Prediction, Question
from tests.evaluation.one_run import run


@pytest.mark.parametrize("name", ["seed", "mmbench"])
def test_prompts_and_result_file_equal_the_recording(
    name, golden, model_answers, make_benchmarks, recorded_model, processor, tmp_path
):
    recorded = golden(name)
    model = recorded_model(model_answers[name])
    [benchmark] = make_benchmarks(name)
    run(benchmark, model, processor, save_path=tmp_path)
    assert model.prompts == [item["prompt"] for item in recorded["items"]]
    assert model.how[0] == {"max_new_tokens": 20}
    assert (tmp_path / recorded["saved_file"]).read_bytes() == recorded["saved_text"].encode()


def test_seed_counts_the_first_letter_as_its_converter_does(
    make_benchmarks, model_answers, recorded_model, processor, tmp_path
):
    [benchmark] = make_benchmarks("seed")
    score = run(benchmark, recorded_model(model_answers["seed"]), processor, save_path=tmp_path)
    assert score["accuracy"] == pytest.approx(100 * 22 / 30)  # "image accuracy: 73.33%" in seed_convert.json
    assert (score["num_questions"], score["num_unanswered"]) == (30, 1)
    assert score["num_unparsed"] == 3  # "(D)", "" and "yellow frisbee"
    assert score["accuracy_by_type"]["Instance Location"] == pytest.approx(100 / 3)


def test_seed_without_its_annotation_has_no_accuracy(make_benchmarks, tmp_path, caplog):
    row = {"image": "x", "text": "Which?", "question_id": "7"}
    (tmp_path / "seed.jsonl").write_text(json.dumps(row) + "\n")
    [benchmark] = make_benchmarks("seed", eval_file_path=str(tmp_path / "seed.jsonl"))
    [question] = benchmark.questions()
    assert benchmark.score([Prediction(question, "A")])["accuracy"] is None
    assert "no accuracy is known" in caplog.text


def test_seed_images_lie_below_img_path_or_beside_it(make_benchmarks, in_golden_data):
    for img_path in ("evaluation_dataset/seed", "evaluation_dataset/seed/elsewhere"):
        [benchmark] = make_benchmarks("seed", img_path=img_path)
        questions = benchmark.questions()
        benchmark.check_images(questions)
        assert benchmark.open_image(questions[0]).mode == "RGB"


def test_missing_seed_images_name_both_places(make_benchmarks, recorded_model, processor, tmp_path):
    [benchmark] = make_benchmarks("seed", img_path=str(tmp_path / "a"))
    model = recorded_model([])
    with pytest.raises(ValueError, match="30 questions have no image") as error:
        run(benchmark, model, processor, save_path=tmp_path)
    assert str(tmp_path / "a" / "SEED-Bench-image" / "513604_991852249") in str(error.value)
    assert str(tmp_path / "SEED-Bench-image" / "513604_991852249") in str(error.value)
    assert "evaluation_datasets.seed.img_path" in str(error.value) and "and 25 more" in str(error.value)
    assert model.prompts == []


def mmbench_question(index: int, truth: str | None) -> Question:
    return Question(id=index, prompt="?", image="", options={"A": "x", "B": "y"}, truth=truth)


def test_mmbench_counts_only_rows_with_a_truth(make_benchmarks):
    [benchmark] = make_benchmarks("mmbench")
    asked = [(mmbench_question(1, "A"), "A"), (mmbench_question(2, "A"), "y"), (mmbench_question(3, None), "A")]
    score = benchmark.score([Prediction(*pair) for pair in asked])
    assert (score["accuracy"], score["num_questions"]) == (50.0, 3)
    assert "circular_accuracy" not in score


def test_a_rotated_mmbench_question_is_right_when_every_rotation_is(make_benchmarks):
    [benchmark] = make_benchmarks("mmbench")
    asked = [(1, "A", "A"), (1_000_001, "B", "B"), (2, "A", "A"), (1_000_002, "B", "A")]
    score = benchmark.score([Prediction(mmbench_question(i, truth), answer) for i, truth, answer in asked])
    assert (score["accuracy"], score["circular_accuracy"]) == (75.0, 50.0)


def test_options_that_are_numbers_stay_as_written(make_benchmarks, tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("index\tquestion\tA\tB\timage\n5\tHow many?\t3\t\tAAAA\n6\tHow many?\t4\t07\tAAAA\n")
    [benchmark] = make_benchmarks("mmbench", eval_file_path=str(path))
    assert [q.options for q in benchmark.questions()] == [{"A": "3"}, {"A": "4", "B": "07"}]


def test_a_picture_that_does_not_decode_names_its_row(make_benchmarks, recorded_model, processor, tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("index\tquestion\tA\timage\n5\tWhat?\tx\tAAAA\n")
    [benchmark] = make_benchmarks("mmbench", eval_file_path=str(path))
    with pytest.raises(ValueError, match=r"mmbench\[5\]: cannot read its image from base64 text"):
        run(benchmark, recorded_model(["A"]), processor, save_path=tmp_path)


def test_a_missing_annotation_file_names_its_option(make_benchmarks, tmp_path):
    for name in ("seed", "mmbench"):
        [benchmark] = make_benchmarks(name, eval_file_path=str(tmp_path / "none"))
        with pytest.raises(ValueError, match=rf"none does not exist \(evaluation_datasets.{name}.eval_file_path\)"):
            benchmark.questions()


def test_a_seed_row_without_an_image_field_is_refused(make_benchmarks, tmp_path):
    path = Path(tmp_path / "s.jsonl")
    path.write_text('{"image": "x", "text": "t", "question_id": 1}\n{"text": "t", "question_id": 2}\n')
    [benchmark] = make_benchmarks("seed", eval_file_path=str(path))
    with pytest.raises(ValueError, match=r"seed\[1\]: .*: 'image' is missing \(there are text, question_id"):
        benchmark.questions()


def test_a_seed_id_that_is_no_number_is_refused(make_benchmarks, tmp_path):
    path = Path(tmp_path / "s.jsonl")
    path.write_text('{"image": "x", "text": "t", "question_id": "v1"}\n')
    [benchmark] = make_benchmarks("seed", eval_file_path=str(path))
    with pytest.raises(ValueError, match=r"seed\[0\]: .*: 'question_id' should be a number, not 'v1'"):
        benchmark.questions()
