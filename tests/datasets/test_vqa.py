import json
import random

import pytest
from PIL import Image


@pytest.fixture
def world(tmp_path):
    """Return a function that writes a JSON file and pictures below the test's folder."""

    def write(annotation, *pictures):
        for picture in pictures:
            path = tmp_path / picture
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (3, 2)).save(path)
        (tmp_path / "a.json").write_text(json.dumps(annotation))
        return tmp_path

    return write


def storage(root, images="images"):
    return {"annotations": {"train": {"storage": [f"{root}/a.json"]}}, "images": {"storage": f"{root}/{images}"}}


def get(dataset, index=0):
    return dataset.get(index, random.Random(0))


AOKVQA = {"question": "What?", "direct_answers": ["a"], "choices": ["a", "b"], "correct_choice_idx": 0}


def test_aok_vqa_rows_of_the_original_download_find_their_image_by_number(world, build):
    rows = [{**AOKVQA, "image_id": 7}, {**AOKVQA, "image_id": 123456}, {**AOKVQA, "image_id": 9}]
    pictures = ("images/train/COCO_train2014_000000000007.jpg", "images/train/COCO_val2014_000000123456.jpg")
    dataset = build("aok_vqa", storage(world(rows, *pictures)))
    assert (len(dataset), dataset.report.num_left_out) == (2, 1)
    assert get(dataset, 0).id.endswith("images/train/COCO_train2014_000000000007.jpg")
    assert get(dataset, 1).id.endswith("images/train/COCO_val2014_000000123456.jpg")


@pytest.mark.parametrize("folder", ["images", "images/train"])
def test_gqa_images_are_found_in_either_folder(world, build, folder):
    row = {"image": "1.jpg", "question": "What?", "answer": "this", "question_id": "1"}
    dataset = build("gqa", storage(world([row], f"{folder}/1.jpg")))
    assert dataset.report.num_missing == 0
    assert get(dataset).id.endswith(f"/{folder}/1.jpg")


def test_ocrvqa_says_which_book_has_unequal_lists(world, build):
    book = {"imageURL": "x/1.jpg", "split": 1, "questions": ["a?"], "answers": ["a"]}
    root = world(
        {"11": book, "12": {**book, "answers": []}, "13": {**book, "split": 2, "answers": []}}, "images/11.jpg"
    )
    dataset = build("ocrvqa", {"ann_path": f"{root}/a.json", "image_path": f"{root}/images"})
    assert len(dataset) == 2
    with pytest.raises(ValueError, match=r"ocrvqa\[1\]: .*a\.json: record 2: book 12 has 1 questions but 0 answers"):
        get(dataset, 1)


ENGINE = {
    "instruction": "Which?",
    "answer": "b",
    "options": ["a", "b"],
    "choice_answer": "B",
    "image": "vg/1.jpg",
    "qtype": 1,
}


def test_engine_images_begin_at_the_parent_of_a_folder_vg_and_nowhere_else(world, build):
    root = world([ENGINE, {**ENGINE, "image": "other/2.jpg"}], "vg/1.jpg", "other/2.jpg", "pictures/vg/1.jpg")
    assert len(build("engine_da", storage(root, "vg"))) == 2
    dataset = build("engine_da", storage(root, "pictures"))
    assert (len(dataset), dataset.report.num_left_out) == (1, 1)
    assert get(dataset).id.endswith("pictures/vg/1.jpg")


def test_a_misspelt_choice_is_reported(world, build, caplog):
    misspelt = {key.replace("choice_", "choide_"): value for key, value in ENGINE.items()}
    dataset = build("engine_mc", storage(world([ENGINE, misspelt], "vg/1.jpg"), "vg"))
    assert len(dataset) == 1
    assert "engine_mc: left out: 'choide_answer' is a misspelling of 'choice_answer' (1 times)" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"choice_answer": "C"}, "'choice_answer' should be one of A, B, not 'C'"),
        ({"choice_answer": "AB"}, "'choice_answer' should be one of A, B, not 'AB'"),
        ({"options": []}, "'options' should be a list of one or more texts"),
    ],
)
def test_a_choice_that_is_no_option_is_a_bad_row(world, build, change, message):
    dataset = build("engine_mc", storage(world([ENGINE, ENGINE | change], "vg/1.jpg"), "vg"))
    assert dataset.report.num_bad == 1
    with pytest.raises(ValueError, match=rf"engine_mc\[1\]: .*a\.json: record 2: {message}"):
        get(dataset, 1)


def test_braces_of_a_question_are_left_alone(world, build):
    row = {"image": "1.jpg", "question": "{} or {0}", "answer": "x"}
    assert "{} or {0}" in get(build("gqa", storage(world([row], "images/1.jpg")))).turns[0].prompt
