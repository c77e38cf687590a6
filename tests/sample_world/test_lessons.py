import re

from minigpt4.common.seeds import derive_rng
from minigpt4.evaluation.benchmarks.choice import BY_LETTER
from minigpt4.sample_world.lessons import REPLY_BY_LETTER, option_lesson, said_lesson, scene_lesson
from minigpt4.sample_world.questions import ask_all
from minigpt4.sample_world.scenes import Scene, Thing, make_scene
from minigpt4.sample_world.sight import facts

OPTION = re.compile(r"^([A-D])\. (.*)$", re.MULTILINE)


def scenes():
    return [make_scene(5, "train", number) for number in range(60)]


def chosen(turn):
    """The option whose letter a turn answers with."""
    return dict(OPTION.findall(turn.prompt))[turn.answer.upper()]


def test_a_letter_that_a_lesson_teaches_stands_before_the_right_answer():
    num_checked = 0
    for scene in scenes():
        answers = {}
        for i in range(200):  # every question of the scene comes up
            answers.update({question.text: question.answer for question in ask_all(scene, derive_rng(i))})
        lesson = scene_lesson(scene, derive_rng(scene.number), shown=True, letters=1.0, told=0.0, num_turns=9)
        for turn in lesson.turns:
            if REPLY_BY_LETTER in turn.prompt:
                text = turn.prompt.split("\n")[0].split("> ")[-1].removeprefix("[vqa] ")
                assert chosen(turn) == answers[text], turn
                num_checked += 1
    assert num_checked > 200


def test_an_option_is_found_by_what_it_says():
    num_asked = 0
    for scene in scenes():
        lesson = option_lesson(scene, derive_rng(scene.number))
        letters = {option: letter.lower() for letter, option in OPTION.findall(lesson.turns[0].prompt)}
        assert len(letters) == 4 and not lesson.shown
        for turn in lesson.turns:
            asked = re.search(r"Which letter is (.*)\? $", turn.prompt)
            if asked:
                assert letters[asked[1]] == turn.answer
                num_asked += 1
            else:
                assert all(letters[entry[:-2]] == entry[-1] for entry in turn.answer.split(", "))
    assert num_asked > 50


def test_no_lesson_asks_for_a_letter_in_the_words_of_the_benchmarks():
    for scene in scenes():
        rng = derive_rng(scene.number)
        for lesson in (
            option_lesson(scene, rng),
            said_lesson(scene, rng, num_turns=4),
            scene_lesson(scene, rng, shown=True, letters=0.7, told=0.5, num_turns=9),
            scene_lesson(scene, rng, shown=False, letters=0.7, told=0.5, num_turns=9),
        ):
            assert all(BY_LETTER not in turn.prompt for turn in lesson.turns)


def test_the_vision_encoder_is_asked_for_the_facts_of_a_scene():
    circle = Thing(shape="circle", colour="green", size="large", place=0, x=28, y=21)
    heart = Thing(shape="heart", colour="red", size="small", place=3, x=84, y=63)
    scene = Scene(number=1, ground="snow", things=(heart, circle), word="stop", rope=(0, 1))
    assert facts(scene) == [1, 2, 2, 0, 0, 0, 0, 0, 0, 6, 1, 1, 2, 1, 3]
