import re

from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.box_text import box_text
from minigpt4.conversation.prompt_templates import BY_LETTER
from minigpt4.sample_world.questions import TYPE_NAMES, occasions
from minigpt4.sample_world.scenes import SIDE, Scene, Thing, make_scene
from tools.tiny_weights.exam import is_near
from tools.tiny_weights.lessons import (
    REPLY_BY_LETTER,
    letter_turn,
    refer_turn,
    scene_lesson,
    told_lesson,
)
from tools.tiny_weights.quiz import letter_quiz_lesson, quiz_lesson
from tools.tiny_weights.sight import NOTHING, place_facts, sign_facts

OPTION = re.compile(r"^([A-D])\. (.*)$", re.MULTILINE)


def scenes():
    return [make_scene(5, "train", number) for number in range(60)]


def chosen(turn):
    """The option whose letter a turn answers with."""
    return dict(OPTION.findall(turn.prompt))[turn.answer.upper()]


def test_a_letter_that_a_lesson_teaches_is_that_of_the_right_answer():
    num_checked = 0
    for scene in scenes():
        asked = (one for qtype in TYPE_NAMES for one in occasions(scene, qtype))
        answers = {one.wordings[0]: one.answer for one in asked if one.plain}
        for i in range(5):
            turn = letter_turn(scene, derive_rng(scene.number, i))
            if REPLY_BY_LETTER in turn.prompt:
                assert chosen(turn) == answers[turn.prompt.split("\n")[0].removeprefix("[vqa] ")], turn
                num_checked += 1
    assert num_checked > 200


def test_no_lesson_asks_for_a_letter_in_the_words_of_the_benchmarks():
    for scene in scenes():
        rng = derive_rng(scene.number)
        for lesson in (
            quiz_lesson(scene, rng),
            letter_quiz_lesson(scene, rng, judged=0.5),
            scene_lesson(scene, rng, num_turns=30),
            told_lesson(scene, rng, num_turns=9),
        ):
            assert all(BY_LETTER not in turn.prompt for turn in lesson.turns)


def test_lessons_about_pictures_have_the_plain_wordings_alone():
    for scene in scenes():
        asked = [one for qtype in TYPE_NAMES for one in occasions(scene, qtype)]
        varied = {text for one in asked for text in one.wordings[1 if one.plain else 0 :]}
        turns = scene_lesson(scene, derive_rng(scene.number), num_turns=30).turns
        assert not {text.lower() for text in varied} & {turn.prompt.strip().lower() for turn in turns}


def test_a_referring_expression_is_answered_by_the_box_of_its_thing():
    for scene in scenes():
        turn = refer_turn(scene, derive_rng(scene.number))
        named = [thing for thing in scene.things if thing.name in turn.prompt]
        assert [box_text(thing.box, (SIDE, SIDE)) for thing in named] == [turn.answer]


def test_the_vision_encoder_is_asked_for_the_facts_of_a_place():
    circle = Thing(shape="circle", colour="green", size="large", place=0, x=28, y=21)
    heart = Thing(shape="heart", colour="red", size="small", place=3, x=84, y=63)
    scene = Scene(number=1, ground="snow", things=(heart, circle), word="stop", rope=(0, 1))
    box = [0, 9, 0, 3, 4, 1, 3, 4]  # 11 / 112, 4 / 112, 46 / 112 and 39 / 112, in hundredths by tens and ones
    assert place_facts(scene, 0) == [0, 1, 2, 2, 1, 6, 1, 1, *box]
    assert place_facts(scene, 1) == [1, 0, 0, 0] + [NOTHING] * 12
    assert sign_facts(scene) == [2, 1, 2]


def test_the_exam_marks_a_box_by_its_overlap():
    assert is_near("{<10><10><50><50>}", "{<10><10><50><40>}")
    assert not is_near("{<10><10><50><50>}", "{<30><10><70><50>}")
    assert not is_near("{<10><10><50>}", "{<10><10><50><50>}")
    assert not is_near("red circle", "{<10><10><50><50>}")
