import json
import re

from minigpt4.common.seeds import derive_rng
from minigpt4.evaluation.benchmarks.vqa import VizWiz
from minigpt4.sample_world.questions import PHRASES, ask_in_vain
from minigpt4.sample_world.scenes import Scene
from minigpt4.sample_world.statements import claim, state
from tests.sample_world.test_scenes import RED_CIRCLE, SCENE

ALONE = Scene(number=1, ground="snow", things=(RED_CIRCLE,), word=None, rope=None)


def stated(scene, *, is_true, plain=True):
    return [state(scene, derive_rng(i), is_true=is_true, plain=plain) for i in range(60)]


def test_true_statements_say_what_is_there():
    assert {statement.text for statement in stated(SCENE, is_true=True)} == {
        "The red circle is left of the blue star.",
        "The blue star is right of the red circle.",
        "The blue star is above the blue heart.",
        "The blue heart is below the blue star.",
    }


def test_false_statements_say_the_opposite():
    assert {statement.question for statement in stated(SCENE, is_true=False)} == {
        "Is the red circle right of the blue star?",
        "Is the blue star left of the red circle?",
        "Is the blue star below the blue heart?",
        "Is the blue heart above the blue star?",
    }


def test_the_benchmarks_say_relations_in_more_phrases_than_the_base_datasets():
    said = {one.phrase for flag in (True, False) for one in stated(SCENE, is_true=flag, plain=False)}
    assert said == {phrase for phrases in PHRASES.values() for phrase in phrases}
    assert "The red circle is on the left side of the blue star." in {
        one.text for one in stated(SCENE, is_true=True, plain=False)
    }


def test_a_claim_names_what_is_there_or_contradicts_the_picture():
    true = {claim(SCENE, derive_rng(i), is_true=True) for i in range(60)}
    false = {claim(SCENE, derive_rng(i), is_true=False) for i in range(300)}
    assert true == {"red circle", "blue star", "blue heart"}
    assert false >= {"red star", "green circle", "blue circle"} and not true & false
    assert all({"red", "circle"} & {*words.split()} or {"blue", "star", "heart"} & {*words.split()} for words in false)


def test_a_statement_knows_both_ways_to_judge_it():
    said = {(statement.truth, statement.answer) for flag in (True, False) for statement in stated(SCENE, is_true=flag)}
    assert said == {("true", "yes"), ("false", "no")}


def test_nothing_is_stated_of_a_thing_alone():
    assert stated(ALONE, is_true=True) == [None] * 60


def test_what_is_asked_in_vain_is_not_there():
    absent = {f"What color is the {shape}?" for shape in ("square", "triangle", "star", "cross", "heart")}
    assert {ask_in_vain(ALONE, derive_rng(i)) for i in range(60)} == {"What word is on the sign?", *absent}
    asked = {ask_in_vain(SCENE, derive_rng(i)) for i in range(60)}
    assert asked == {f"What color is the {shape}?" for shape in ("square", "triangle", "cross")}


def test_training_has_statements_and_the_wordings_of_vizwiz_and_hateful_memes(world):
    coco = json.loads((world / "train_dataset/vqav2/vqa_train.json").read_text())
    gqa = json.loads((world / "train_dataset/gqa/train_balanced_questions.json").read_text())
    judged = [row["answer"][0] for row in coco if "true or false" in row["question"]]
    confirmed = [row["answer"] for row in gqa if row["question"].startswith("Is the ")]
    assert set(judged) == {"true", "false"} and set(confirmed) == {"yes", "no"}
    pattern = re.escape(VizWiz.template.removeprefix("[vqa] ")).replace(r"\{\}", r"\w[^']+\?")
    worded = [row for row in coco if re.fullmatch(pattern, row["question"])]
    assert 0.25 < len(worded) / len(coco) < 0.55
    unanswerable = [row for row in worded if row["answer"][0] == "unanswerable"]
    assert len(unanswerable) == len(worded) / 3
    memes = {
        row["answer"][0] for row in coco if re.fullmatch(r"This is an image writting '\w+ \w+'.*", row["question"])
    }
    assert memes == {"yes", "no"}
