"""The chat layout of Llama-2 and of families that differ from it in every mark."""

import json
from pathlib import Path

import pytest

from minigpt4.conversation.chat_format import LLAMA_2
from minigpt4.conversation.conversation import Turn

RECORDED = json.loads((Path(__file__).parents[1] / "golden" / "model" / "generate.json").read_text())


def test_one_question_is_asked_as_recorded():
    assert [LLAMA_2.generation_prompt(question) for question in RECORDED["questions"]] == RECORDED["texts"]


def test_a_question_without_an_image_has_no_image_span():
    assert LLAMA_2.generation_prompt("Name 2 colors.", has_image=False) == "<s>[INST] Name 2 colors. [/INST]"


def test_the_first_turn_of_a_chat_is_asked_as_recorded():
    recorded = RECORDED["conversation_prompts"]["CONV_VISION_minigptv2"]
    asked = LLAMA_2.chat_prompt([], "<Img><ImageHere></Img> [vqa] what is above the shelf?")
    assert asked == recorded["prompt_turn1"]


def test_a_later_turn_closes_the_answers_before_it_as_in_training_where_the_recording_leaves_them_open():
    past = [Turn("<Img><ImageHere></Img> [vqa] what is above the shelf?", "an answer")]
    asked = LLAMA_2.chat_prompt(past, "is the truck blue?")
    recorded = RECORDED["conversation_prompts"]["CONV_VISION_minigptv2"]["prompt_turn2"]
    assert asked == recorded.replace("an answer<s>", "an answer</s><s>")


def test_another_template_asks_as_it_trained():
    chat_format = LLAMA_2.override(template="USER: {} ASSISTANT:", end="\n")
    assert chat_format.generation_prompt("why?") == "<s>USER: <Img><ImageHere></Img> why? ASSISTANT:"
    asked = chat_format.chat_prompt([Turn("a?", "b")], "c?")
    assert asked == "<s>USER: a? ASSISTANT:b\n<s>USER: c? ASSISTANT:"


@pytest.mark.parametrize(
    ("template", "end"),
    [("[INST] {} [/INST]", "[/INST]"), ("Q: {}\nA: ", "A: "), ("{}\n", "\n"), ("{}", ""), ("{{x}} {} {{y}}", "{y}")],
)
def test_the_end_of_a_template_is_what_follows_the_question(template, end):
    assert LLAMA_2.override(template=template).around_question[1] == end
