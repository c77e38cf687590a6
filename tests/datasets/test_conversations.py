import json
import random

import pytest
from PIL import Image

from minigpt4.datasets.conversations import without_image_tag


@pytest.fixture
def llava(tmp_path, build):
    """Return a function that writes conversations and builds; image 000000000007 is there."""
    Image.new("RGB", (5, 4)).save(tmp_path / "COCO_train2014_000000000007.jpg")

    def make(*said, name="llava_conversation"):
        rows = [{"id": "000000000007", "conversations": [{"from": "x", "value": text} for text in one]} for one in said]
        (tmp_path / "a.json").write_text(json.dumps(rows))
        return build(name, {"ann_path": f"{tmp_path}/a.json", "image_path": str(tmp_path)})

    return make


def turns(dataset, index=0):
    return [(turn.prompt, turn.answer) for turn in dataset.get(index, random.Random(0)).turns]


@pytest.mark.parametrize(
    ("question", "cleaned"),
    [
        ("What?\n<image>", "What?"),
        ("<image>\nOne\ntwo <image> three", "Onetwo  three"),
        ("<image>", ""),
        ("  a  \n<image>\n", "a"),
    ],
)
def test_a_first_question_loses_image_tags_and_line_breaks(question, cleaned):
    assert without_image_tag(question) == cleaned


def test_only_the_first_question_shows_the_image_and_later_ones_are_as_written(llava):
    assert turns(llava(["<image>\nHi!", " yes.", "<image> and\nNow? ", "NO"])) == [
        ("<Img><ImageHere></Img> Hi! ", " yes."),
        ("<image> and\nNow?  ", "NO"),
    ]


def test_a_question_at_the_end_without_answer_is_left_out(llava):
    assert turns(llava(["a", "b", "c"])) == [("<Img><ImageHere></Img> a ", "b")]


def test_descriptions_take_the_first_turn_and_clean_its_question_as_a_caption(llava):
    assert turns(llava(["Say: IT!\n<image>", "It.", "c", "d"], name="llava_detail")) == [
        ("<Img><ImageHere></Img> say it ", "It.")
    ]


def test_a_conversation_without_an_answer_is_a_bad_row(llava):
    dataset = llava(["a", "b"], ["a"], [])
    assert dataset.report.num_bad == 2
    with pytest.raises(
        ValueError,
        match=r"llava_conversation\[1\]: .*a\.json: record 2: a conversation should have a question",
    ):
        dataset.get(1, random.Random(0))


def test_a_placeholder_in_a_later_question_is_refused(llava):
    with pytest.raises(ValueError, match=r"llava_conversation\[0\] .*7\.jpg: its own text contains <ImageHere>"):
        turns(llava(["a", "b", "see <ImageHere>", "d"]))


@pytest.fixture
def instructions(tmp_path, build):
    def make(*instances, folder="unnatural_instructions"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.json").write_text(json.dumps([{"instances": list(one)} for one in instances]))
        return build("unnatural_instruction", {"ann_path": f"{tmp_path}/unnatural_instructions/a.json"})

    return make


INSTANCE = {"instruction_with_input": "List: two", "constraints": None, "output": "One. Two."}


def test_an_instruction_has_no_image(instructions):
    example = instructions([INSTANCE]).get(0, random.Random(0))
    assert (example.id, example.images) == ("unnatural_instruction[0]", ())
    assert [(turn.prompt, turn.answer) for turn in example.turns] == [("list two", "one two")]


def test_constraints_follow_the_instruction(instructions):
    assert turns(instructions([{**INSTANCE, "constraints": "None."}])) == [("list two none", "one two")]


def test_either_folder_of_the_instructions_is_found(instructions):
    assert len(instructions([INSTANCE], folder="nlp")) == 1


def test_a_placeholder_in_an_instruction_is_refused(instructions):
    dataset = instructions([{**INSTANCE, "instruction_with_input": "<ImageHere>"}])
    dataset.text_processor = str
    with pytest.raises(ValueError, match=r"unnatural_instruction\[0\]: its own text contains <ImageHere>"):
        turns(dataset)


def test_a_record_without_instances_is_a_bad_row(instructions):
    assert instructions([INSTANCE], []).report.num_bad == 1
