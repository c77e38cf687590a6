"""Rows that can be read and still mislead: they are errors, or the log says so."""

import base64
import io
import json
import logging

import pytest
from PIL import Image

from minigpt4.cli.evaluation import summary
from minigpt4.evaluation.benchmark import Prediction
from minigpt4.evaluation.evaluator import prepare

FILES = {"okvqa": "okvqa_test_split.json", "refcoco": "refcoco_val.json", "mmbench": "mm.tsv"}
PEOPLE = {"question_id": 5, "question_type": "what", "answer_type": "other", "answers": [{"answer": "a"}]}
HEAD = "index\tquestion\tA\tB\timage\tanswer\n"


def picture(suffix="PNG"):
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, suffix)
    return file.getvalue()


TEXT = base64.b64encode(picture()).decode()


@pytest.fixture
def bench(make_benchmarks, tmp_path):
    """Return the benchmark of a name whose file has these rows, or this text; its image is there."""

    def make(name, rows):
        Image.new("RGB", (6, 5)).save(tmp_path / "a.jpg")
        path = tmp_path / FILES.get(name, "rows.json")
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
        (tmp_path / "mscoco_val2014_annotations_clean.json").write_text(json.dumps({"annotations": [PEOPLE]}))
        place = tmp_path if name in ("okvqa", "refcoco") else path
        return make_benchmarks(name, eval_file_path=str(place), img_path=str(tmp_path))[0]

    return make


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("gqa", {"image": "a.jpg", "question": "Q?", "answer": " "}, "gqa[0]: rows.json: 'answer' is empty"),
        (
            "refcoco",
            {"img_id": "a", "sents": "x", "bbox": [5, 4, -3, 2], "height": 5, "width": 6},
            "refcoco_val[0]: refcoco_val.json: 'bbox' has a negative width or height: [5, 4, -3, 2]",
        ),
        (
            "okvqa",
            {"question_id": 9, "question": "Q?", "image_id": 1},
            "okvqa[0]: okvqa_test_split.json: mscoco_val2014_annotations_clean.json holds no annotation of question 9",
        ),
    ],
)
def test_a_truth_that_no_answer_can_meet_is_an_error_with_its_file_and_row(bench, tmp_path, name, row, message):
    with pytest.raises(ValueError, match="the evaluation cannot start") as error:
        prepare([bench(name, [row])], save_path=tmp_path)
    assert message in str(error.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize(
    ("name", "row", "key"),
    [
        ("vsr", {"image": "a.jpg", "caption": " ", "label": 1}, "caption"),
        ("hm", {"img": "a.jpg", "text": "", "label": 1}, "text"),
        ("gqa", {"image": "a.jpg", "question": "\n", "answer": "yes"}, "question"),
        ("seed", {"image": "a.jpg", "text": "", "question_id": 1}, "text"),
        ("refcoco", {"img_id": "a", "sents": "", "bbox": [0, 1, 2, 3], "height": 5, "width": 6}, "sents"),
    ],
)
def test_the_log_counts_the_rows_that_ask_nothing(bench, tmp_path, caplog, name, row, key):
    with caplog.at_level(logging.WARNING):
        [prepared] = prepare([bench(name, [row])], save_path=tmp_path)
    assert len(prepared.questions) == 1
    assert f"have an empty '{key}', such as {prepared.benchmark.name}[0]" in caplog.text


def seed_annotation(*ids):
    questions = [{"question_id": n, "question_type_id": 1, "data_type": "image", "answer": "A"} for n in ids]
    return json.dumps({"question_type": {"Scene": 1}, "questions": questions})


def test_seed_finds_the_truth_of_an_id_that_is_written_in_another_way(bench, tmp_path):
    (tmp_path / "SEED-Bench-image.json").write_text(seed_annotation("7", 8))
    rows = [{"image": "a.jpg", "text": "Q?", "question_id": name} for name in (7, " 08")]
    assert [question.truth for question in bench("seed", rows).questions()] == ["A", "A"]


def test_a_summary_says_how_many_truths_are_known(bench, tmp_path, caplog):
    (tmp_path / "SEED-Bench-image.json").write_text(seed_annotation(7))
    seed = bench("seed", [{"image": "a.jpg", "text": "Q?", "question_id": name} for name in (7, 8)])
    first, second = seed.questions()
    assert "seed: 1 questions are not in SEED-Bench-image.json, so their truth is not known: 8" in caplog.text
    score = seed.score([Prediction(first, "A"), Prediction(second, "B")])
    assert (score["accuracy"], score["num_questions"], score["num_with_truth"]) == (100, 2, 1)
    assert " of 2 questions, 1 of them with a known truth (" in summary("seed", score)


@pytest.mark.parametrize(
    "prefix",
    ["", "data:image/png;base64,", "data:image/jpeg;charset=utf-8;base64,", "DATA:image/PNG;BASE64,", "data:;base64,"],
)
def test_a_data_address_of_any_kind_is_a_picture(bench, tmp_path, prefix):
    [prepared] = prepare([bench("mmbench", f"{HEAD}1\tQ?\tx\ty\t{prefix}{TEXT}\tA\n")], save_path=tmp_path)
    assert prepared.benchmark.open_image(prepared.questions[0]).size == (64, 64)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (base64.b64encode(b"hello").decode(), "mmbench[1]: cannot read its image from base64 text: cannot identify"),
        (base64.b64encode(picture()[:2000]).decode(), "from base64 text: image file is truncated"),
        (base64.b64encode(picture("JPEG")[:2000]).decode(), "from base64 text: image file is truncated"),
    ],
)
def test_a_picture_that_cannot_be_decoded_is_named_before_anything_is_asked(bench, tmp_path, image, message):
    with pytest.raises(ValueError, match="the evaluation cannot start") as error:
        prepare([bench("mmbench", f"{HEAD}1\tQ?\tx\ty\t{image}\tA\n")], save_path=tmp_path)
    assert message in str(error.value)
    assert "BytesIO" not in str(error.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (f"1\t  \tx\ty\t{TEXT}\tA", "mmbench[1]: mm.tsv: holds no question in this row"),
        (f"1\tQ?\t\t\t{TEXT}\tA", "mmbench[1]: mm.tsv: holds no option in this row"),
    ],
)
def test_a_row_of_mmbench_without_a_question_or_options_is_named(bench, tmp_path, row, message):
    with pytest.raises(ValueError, match="the evaluation cannot start") as error:
        prepare([bench("mmbench", f"{HEAD}{row}\n")], save_path=tmp_path)
    assert message in str(error.value).replace(f"{tmp_path}/", "")


def test_options_that_mmbench_does_not_ask_and_answers_without_an_option_are_told(bench, tmp_path, caplog):
    head = HEAD.replace("B\t", "B\tE\t")
    prepare([bench("mmbench", f"{head}1\tQ?\tx\ty\tz\t{TEXT}\tA\n2\tQ?\tx\t\tz\t{TEXT}\tB\n")], save_path=tmp_path)
    assert "has options in the columns E too; a question shows A, B, C, D alone" in caplog.text
    assert "1 rows tell an answer whose option is empty, so no answer is right: 2" in caplog.text
