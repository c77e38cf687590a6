import json
from dataclasses import replace

import pytest

from minigpt4.conversation.chat_format import LLAMA_2
from minigpt4.evaluation.benchmark import Prediction
from minigpt4.evaluation.benchmarks.scorers import BOX
from tests.evaluation.one_run import run

NAMES = ["refcoco", "refcoco+", "refcocog"]


def first_pass(golden, model_answers, make_benchmarks, recorded_model, processor, tmp_path, name):
    for benchmark in make_benchmarks(name):
        model = recorded_model(model_answers["refcoco_first_pass"][benchmark.name])
        score = run(benchmark, model, processor, save_path=tmp_path)
        yield benchmark, golden("refcoco")["per_item_no_resample"][benchmark.name], model, score


@pytest.fixture
def passes(golden, model_answers, make_benchmarks, recorded_model, processor, tmp_path):
    return lambda name: list(
        first_pass(golden, model_answers, make_benchmarks, recorded_model, processor, tmp_path, name)
    )


def test_each_set_has_its_splits(make_benchmarks):
    assert [benchmark.name for name in NAMES for benchmark in make_benchmarks(name)] == [
        *("refcoco_val", "refcoco_testA", "refcoco_testB"),
        *("refcoco+_val", "refcoco+_testA", "refcoco+_testB"),
        *("refcocog_val", "refcocog_test"),
    ]


@pytest.mark.parametrize("name", NAMES)
def test_prompts_equal_the_recording(name, passes):
    for _, recorded, model, _ in passes(name):
        assert model.prompts == [item["prompt"] for item in recorded["items"]]


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_cleaned_and_saved_in_the_order_of_the_rows(name, passes, tmp_path):
    for benchmark, recorded, _, _ in passes(name):
        rows = json.loads((tmp_path / f"{benchmark.name}.json").read_text())
        expected = [(item["img_id"], item["cleaned"]) for item in recorded["items"]]
        assert [(row["img_id"], row["answer"]) for row in rows] == expected
        assert all(
            f"location of {row['sents']} " in item["prompt"] for row, item in zip(rows, recorded["items"], strict=True)
        )


@pytest.mark.parametrize("name", NAMES)
def test_boxes_are_right_as_recorded(name, passes):
    for benchmark, recorded, _, _ in passes(name):
        questions = benchmark.questions()
        boxes = {}
        for question in questions:
            boxes.setdefault(question.reference["img_id"], []).append(question.reference["bbox"])
        for question, item in zip(questions, recorded["items"], strict=True):
            # the reference gives all rows of an img_id the box of its last row
            if all(box == question.reference["bbox"] for box in boxes[item["img_id"]]):
                assert benchmark.score_one(question, item["cleaned"]) == item["correct"], item
                assert benchmark.parses(question, item["cleaned"]) == (item["iou"] is not None), item


def test_rows_with_one_img_id_keep_their_own_box(passes):
    val, _, testb = passes("refcoco")
    rows = [row.reference for row in val[0].questions() if row.reference["img_id"] == "COCO_train2014_000000701598_8"]
    assert [row["bbox"] for row in rows] == [[104.58, 300.84, 167.0, 238.93], [42.7, 128.0, 149.45, 256.0]]
    # "{<10><20><48><63>}" is right for the last box of its img_id only, which is not the one asked for
    assert (testb[3]["accuracy"], testb[1]["accuracy"]) == (pytest.approx(100 * 3 / 14), pytest.approx(100 * 4 / 14))


@pytest.mark.parametrize("name", NAMES)
def test_answers_that_begin_with_a_box_are_those_that_the_reference_saves(name, passes, golden, tmp_path):
    [recorded] = [r for r in golden("refcoco")["runs"] if r["args"] == ["--dataset", name]]
    for benchmark, _, _, _ in passes(name):
        by_object: dict[str, list[str]] = {}
        for row in json.loads((tmp_path / f"{benchmark.name}.json").read_text()):
            if BOX.match(row["answer"]):
                by_object.setdefault(row["img_id"], []).append(row["answer"])
        split = benchmark.name.removeprefix(f"{name}_")
        assert by_object == json.loads(recorded["saved_files"][f"['{name}']_{split}.json"])


@pytest.mark.parametrize("name", NAMES)
def test_accuracies_are_those_printed_once_repeated_img_ids_share_their_last_box(name, passes, golden):
    [printed] = [r["printed"] for r in golden("refcoco")["runs"] if r["args"] == ["--dataset", name]]
    for benchmark, recorded, _, _ in passes(name):
        questions = benchmark.questions()
        last = {question.reference["img_id"]: question.reference for question in questions}
        shared = [replace(question, reference=last[question.reference["img_id"]]) for question in questions]
        answered = [Prediction(q, item["cleaned"]) for q, item in zip(shared, recorded["items"], strict=True)]
        assert benchmark.score(answered)["accuracy"] == pytest.approx(printed[benchmark.name])


def test_annotations_may_lie_flat(make_benchmarks, in_golden_data, tmp_path):
    nested = in_golden_data / "evaluation_dataset" / "refcocog" / "refcocog"
    for path in nested.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for benchmark in make_benchmarks("refcocog", eval_file_path=str(tmp_path)):
        assert len(benchmark.questions()) == 14


def test_resampling_asks_the_same_question_again_until_a_box_comes(
    make_benchmarks, model_answers, recorded_model, processor, tmp_path
):
    benchmark = make_benchmarks("refcocog", batch_size=14)[1]
    answers = model_answers["refcoco_first_pass"]["refcocog_test"]
    boxless = [row for row, answer in enumerate(answers) if benchmark.needs_resample(benchmark.clean(answer))]
    assert boxless == [2, 5, 6, 10, 12]  # "$", a box without its end, decimals twice, nothing
    tries = [
        ["no", "{<1><2><3>}", "no", "no", "still no", "{<0><0><0><0>}"],
        ["<unk>{<1><2><3><4>}"],
        ["{<5><6><7><8>}"],
        [*["no"] * 4, "x"],
        ["{<9><9><9><9>}"],
    ]
    prompts = [LLAMA_2.generation_prompt(benchmark.questions()[row].prompt) for row in boxless]
    benchmark.num_tries = 5
    model = recorded_model(answers, dict(zip(prompts, tries, strict=True)))
    run(benchmark, model, processor, save_path=tmp_path)
    assert list(model.tries.values()) == [["{<0><0><0><0>}"], [], [], [], []]
    rows = json.loads((tmp_path / "refcocog_test.json").read_text())
    assert [rows[row]["answer"] for row in boxless] == [
        "stillno",
        "{<1><2><3><4>}",
        "{<5><6><7><8>}",
        "x",
        "{<9><9><9><9>}",
    ]
