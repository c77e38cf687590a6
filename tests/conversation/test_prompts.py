"""The prompts of generation."""

import json
from pathlib import Path

import pytest

from minigpt4.conversation.conversation import Turn
from minigpt4.conversation.prompts import chat_prompt, generation_prompt, prompt_ends

RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "model" / "generate.json").read_text())


def test_one_question_is_asked_as_recorded():
    assert [generation_prompt(question) for question in RECORDED["questions"]] == RECORDED["texts"]


def test_a_question_without_an_image_has_no_image_span():
    assert generation_prompt("Name 2 colors.", has_image=False) == "<s>[INST] Name 2 colors. [/INST]"


def test_the_first_turn_of_a_chat_is_asked_as_recorded():
    recorded = RECORDED["conversation_prompts"]["CONV_VISION_minigptv2"]
    asked = chat_prompt([], "<Img><ImageHere></Img> [vqa] what is above the shelf?")
    assert asked == recorded["prompt_turn1"]


def test_a_later_turn_closes_the_answers_before_it_as_in_training_where_the_recording_leaves_them_open():
    past = [Turn("<Img><ImageHere></Img> [vqa] what is above the shelf?", "an answer")]
    asked = chat_prompt(past, "is the truck blue?")
    recorded = RECORDED["conversation_prompts"]["CONV_VISION_minigptv2"]["prompt_turn2"]
    assert asked == recorded.replace("an answer<s>", "an answer</s><s>")


def test_another_template_asks_as_it_trained():
    template = "USER: {} ASSISTANT:"
    assert generation_prompt("why?", template=template) == "<s>USER: <Img><ImageHere></Img> why? ASSISTANT:"
    asked = chat_prompt([Turn("a?", "b")], "c?", end_sym="\n", template=template)
    assert asked == "<s>USER: a? ASSISTANT:b\n<s>USER: c? ASSISTANT:"


@pytest.mark.parametrize(
    ("template", "end"),
    [("[INST] {} [/INST]", "[/INST]"), ("Q: {}\nA: ", "A: "), ("{}\n", "\n"), ("{}", ""), ("{{x}} {} {{y}}", "{y}")],
)
def test_the_end_of_a_template_is_what_follows_the_question(template, end):
    assert prompt_ends(template)[1] == end
