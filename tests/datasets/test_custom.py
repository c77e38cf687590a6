import json
import random

import pytest
from omegaconf import OmegaConf
from PIL import Image

from minigpt4.common.config import Config
from tests.datasets.test_streams import write_shard

SPAN = "<Img><ImageHere></Img>"


@pytest.fixture
def mine(tmp_path, build):
    """Return a function that writes rows and builds them as `custom`; pictures a.jpg and b.jpg are there."""
    for name, width in (("a.jpg", 5), ("b.jpg", 6)):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.new("RGB", (width, 4)).save(tmp_path / "pictures" / name)

    def make(*rows, lines=False):
        path = tmp_path / ("a.jsonl" if lines else "a.json")
        path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows))
        return build("custom", {"ann_path": str(path), "image_path": str(tmp_path / "pictures")})

    return make


def turns(dataset, index=0):
    return [(turn.prompt, turn.answer) for turn in dataset.get(index, random.Random(0)).turns]


def said(*texts):
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


@pytest.mark.parametrize("lines", [False, True])
def test_an_image_with_a_question_and_an_answer(mine, tmp_path, lines):
    dataset = mine({"image": "b.jpg", "question": "What IS it?", "answer": "A dog."}, lines=lines)
    example = dataset.get(0, random.Random(0))
    assert turns(dataset) == [(f"{SPAN} What IS it? ", "A dog.")]
    assert [image.shape for image in example.images] == [(3, 4, 6)]
    assert example.id == f"custom[0] {tmp_path}/pictures/b.jpg"


def test_one_of_several_answers_is_drawn(mine):
    dataset = mine({"image": "a.jpg", "question": "?", "answer": ["x", "y"]})
    assert {dataset.get(0, random.Random(n)).turns[0].answer for n in range(20)} == {"x", "y"}


@pytest.mark.parametrize("first", ["<image>\nWhat?", "What?\n<image>", "What?"])
def test_a_conversation_shows_its_image_before_the_first_question(mine, first):
    dataset = mine({"id": "1", "image": "a.jpg", "conversations": said(first, "This.", "And\nnow?", "That.")})
    assert turns(dataset) == [(f"{SPAN} What? ", "This."), ("And\nnow? ", "That.")]


def test_line_breaks_inside_a_question_stay(mine):
    assert turns(mine({"image": "a.jpg", "conversations": said("<image>\nWhich?\nA. x\nB. y", "A")})) == [
        (f"{SPAN} Which?\nA. x\nB. y ", "A")
    ]


def test_several_images_stand_where_the_questions_show_them_or_in_front(mine):
    both = ["a.jpg", "b.jpg"]
    dataset = mine(
        {"image": both, "conversations": said("<image> or <image>?", "one")},
        {"image": both, "question": "Which?", "answer": "b"},
        {"images": both, "conversations": said("<image> first", "one", "now <image>", "two")},
    )
    assert turns(dataset, 0) == [(f"{SPAN} or {SPAN}? ", "one")]
    assert turns(dataset, 1) == [(f"{SPAN} {SPAN} Which? ", "b")]
    assert turns(dataset, 2) == [(f"{SPAN} first ", "one"), (f"now {SPAN} ", "two")]
    assert [image.shape[2] for image in dataset.get(0, random.Random(0)).images] == [5, 6]


def test_a_row_without_image_is_text_only(mine):
    assert turns(mine({"question": "Why?", "answer": "So."})) == [("Why?", "So.")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.jpg", "answer": "x"}, r"it needs 'conversations', or 'question' and 'answer' \(there are image,"),
        ({"question": "?"}, r"'answer' is missing \(there are question\)"),
        ({"question": "?", "answer": []}, "'answer' should be a list of one or more texts"),
        ({"question": "?", "answer": ""}, "an answer is empty"),
        ({"image": 3, "question": "?", "answer": "x"}, "'image' should be a file name or a list of them"),
        ({"image": "a.jpg", "question": "<image><image>", "answer": "x"}, "show <image> 2 times but it has 1 images"),
        ({"question": "<image>?", "answer": "x"}, "show <image> 1 times but it has 0 images"),
        (
            {"question": "<ImageHere>", "answer": "x"},
            "contains <ImageHere>, the placeholder of an image; write",
        ),
        ({"conversations": said("a")}, "should be questions with their answers, not 1 parts"),
        ({"conversations": said("a", "b", "c")}, "should be questions with their answers, not 3 parts"),
        ({"conversations": said("a", "b")[::-1]}, "part 1 of its conversation is from 'gpt' instead of human or user"),
        ({"conversations": ["a", "b"]}, "a part of a conversation should be an object with value, not 'a'"),
        (["x"], "a row should be an object"),
    ],
)
@pytest.mark.parametrize(("lines", "place"), [(False, r"a\.json: record 2"), (True, r"a\.jsonl: line 2")])
def test_a_wrong_row_is_named_with_its_file_and_number(mine, row, message, lines, place):
    dataset = mine({"question": "?", "answer": "x"}, row, lines=lines)
    assert dataset.report.num_bad == 1
    with pytest.raises(ValueError, match=rf"custom\[1\]: .*{place}: .*{message}"):
        dataset.get(1, random.Random(0))


def test_images_lie_beside_the_annotation_where_no_folder_is_set(tmp_path, build):
    Image.new("RGB", (5, 4)).save(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text(json.dumps([{"image": "a.jpg", "question": "?", "answer": "x"}]))
    assert build("custom", {"ann_path": f"{tmp_path}/a.json"}).report.num_missing == 0


def test_rows_come_from_tar_shards_too(tmp_path, build):
    Image.new("RGB", (7, 4)).save(tmp_path / "a.png")
    row = {"conversations": said("<image>\nWhat?", "This.", "And?", "That.")}
    good = {"1.png": (tmp_path / "a.png").read_bytes(), "1.json": json.dumps(row).encode()}
    wrong = {"2.png": good["1.png"], "2.json": b'{"caption": "no question"}'}
    write_shard(tmp_path / "0.tar", good | wrong)
    dataset = build("custom", {"storage": f"{tmp_path}/{{0..0}}.tar"})
    for index in range(6):
        assert turns(dataset, index) == [(f"{SPAN} What? ", "This."), ("And? ", "That.")]
    assert dataset.num_skipped > 0


def test_an_entry_of_any_name_takes_the_custom_builder(tmp_path):
    path = tmp_path / "x.yaml"
    entry = {"type": "custom", "build_info": {"ann_path": "my.jsonl"}, "batch_size": 3, "sample_ratio": 2}
    path.write_text(OmegaConf.to_yaml({"datasets": {"mydata": entry, "more_gqa": {"type": "gqa"}}}))
    cfg = Config.load(path)
    assert cfg.datasets_cfg.mydata.build_info.ann_path == "my.jsonl"
    assert cfg.datasets_cfg.mydata.vis_processor.train.name == "blip2_image_train"
    assert cfg.datasets_cfg.more_gqa.build_info.images.storage == "./train_dataset/gqa/images"


@pytest.mark.parametrize("kind", ["custm", None])
def test_an_unknown_name_or_type_is_refused_with_the_nearest(tmp_path, kind):
    path = tmp_path / "x.yaml"
    path.write_text(OmegaConf.to_yaml({"datasets": {"gqaa": {"type": kind} if kind else {"batch_size": 1}}}))
    nearest = "'custm'; did you mean 'custom'?" if kind else "'gqaa'; did you mean 'gqa'?"
    with pytest.raises(ValueError) as error:
        Config.load(path)
    assert f"datasets.gqaa: no builder is registered as {nearest} (your own data: type: custom)" in str(error.value)


ROW = '{"image": "a.jpg", "question": "What?", "answer": "a box"}'


@pytest.mark.parametrize(
    ("name", "text", "num_rows"),
    [
        ("a.json", f"\ufeff[{ROW}]\r\n\r\n", 1),
        ("a.json", f"{ROW}\n\n{ROW}\r\n\n", 2),
        ("a.jsonl", f"[{ROW},\n{ROW}]\n", 2),
        ("a.jsonl", f"\ufeff{ROW}\n \n{ROW}", 2),
    ],
)
def test_the_content_of_a_file_tells_how_its_rows_lie(mine, tmp_path, build, name, text, num_rows):
    mine({"question": "Q", "answer": "A"})
    (tmp_path / name).write_bytes(text.encode())
    dataset = build("custom", {"ann_path": str(tmp_path / name), "image_path": str(tmp_path / "pictures")})
    assert [turns(dataset, row) for row in range(len(dataset))] == [[(f"{SPAN} What? ", "a box")]] * num_rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"[{ROW}]\n[{ROW},\n{ROW}]\n", r"a\.json: more text after its list at byte 61"),
        (f"{ROW}\n\nx\n{ROW}", r"a\.json: line 3: is no JSON|more text after its object at byte 60"),
        (f"[{ROW}, {ROW[:-1]}", "broken or cut off JSON near byte"),
        ("version https://git-lfs.github.com/spec/v1\n", "is a pointer of git-lfs"),
    ],
)
def test_a_file_with_more_or_less_than_its_rows_is_an_error(mine, tmp_path, build, text, message):
    mine({"question": "Q", "answer": "A"})
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        build("custom", {"ann_path": str(tmp_path / "a.json"), "image_path": str(tmp_path / "pictures")})


def test_a_row_with_half_a_character_is_bad_and_named_at_its_line(mine, tmp_path, build):
    mine({"question": "Q", "answer": "A"})
    (tmp_path / "a.jsonl").write_text(f'{ROW}\n\n{{"question": "\\ud83d", "answer": "a"}}\n{ROW}\n')
    dataset = build("custom", {"ann_path": str(tmp_path / "a.jsonl"), "image_path": str(tmp_path / "pictures")})
    assert dataset.report.bad == [
        f"{tmp_path}/a.jsonl: line 3: a text holds half a character: a \\ud8xx escape without its other half"
    ]
    with pytest.raises(ValueError, match=r"custom\[1\]: .*a\.jsonl: line 3: a text holds half a character"):
        dataset.get(1, random.Random(0))
    assert turns(dataset, 2) == turns(dataset, 0)


@pytest.mark.parametrize(
    "row",
    [{"image": None, "images": ["b.jpg"]}, {"image": "b.jpg", "images": []}, {"image": "b.jpg", "images": "b.jpg"}],
)
def test_an_image_under_either_key_is_shown(mine, row):
    assert len(mine({**row, "question": "?", "answer": "x"}).get(0, random.Random(0)).images) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "a.jpg", "images": ["b.jpg"], "answer": "x"}, "it has both 'image' and 'images', and they differ"),
        ({"image": ["a.jpg", ""], "answer": "x"}, "'image' should be a file name or a list of them"),
        ({"image": "a.jpg", "answer": " "}, "an answer is empty"),
        ({"image": "a.jpg", "answer": ["x", "\n"]}, "an answer is empty"),
    ],
)
def test_a_row_that_would_be_trained_otherwise_than_meant_is_bad(mine, row, message):
    dataset = mine({"question": "?", "answer": "x"}, {"question": "?", **row})
    assert list(dataset.bad_rows().values()) == [message]


def test_an_image_under_a_key_that_is_not_read_is_told(mine):
    dataset = mine({"question": "?", "answer": "x"}, {"question": "?", "answer": "x", "img": "a.jpg"})
    assert dict(dataset.report.remarks) == {
        "asked without an image: 'img' is not read; name the image under 'image'": 1
    }


def test_a_folder_is_no_image(mine, tmp_path):
    (tmp_path / "pictures" / "sub").mkdir(parents=True)
    dataset = mine({"question": "?", "answer": "x"}, {"image": "sub", "question": "?", "answer": "x"})
    assert any("are not there" in line for line in dataset.report.mistakes())
