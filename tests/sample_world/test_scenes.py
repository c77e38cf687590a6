from collections import Counter

import pytest

from minigpt4.common.seeds import derive_rng
from minigpt4.sample_world.drawing import GROUND_RGB, RGB, draw_scene
from minigpt4.sample_world.questions import NUMBERS, TYPE_NAMES, ask, ask_all, occasions
from minigpt4.sample_world.scenes import SIDE, SIGN_TOP, Scene, Thing, make_scene


def scenes(num_scenes, split="train", seed=0):
    return [make_scene(seed, split, number) for number in range(num_scenes)]


RED_CIRCLE = Thing(shape="circle", colour="red", size="large", place=0, x=28, y=21)
BLUE_STAR = Thing(shape="star", colour="blue", size="small", place=1, x=84, y=21)
BLUE_HEART = Thing(shape="heart", colour="blue", size="small", place=3, x=84, y=63)
SCENE = Scene(number=1, ground="sand", things=(RED_CIRCLE, BLUE_STAR, BLUE_HEART), word="taxi", rope=(0, 2))


def answers(qtype):
    asked = (ask(SCENE, qtype, derive_rng(i), plain=True) for i in range(200))
    return {question.text: question.answer for question in asked}


def test_a_scene_is_a_function_of_seed_split_and_number():
    assert scenes(20) == scenes(20)
    assert scenes(20) != scenes(20, seed=1)
    assert draw_scene(scenes(3)[2]).tobytes() == draw_scene(scenes(3)[2]).tobytes()


def test_no_scene_of_one_split_shows_what_one_of_another_shows():
    train = {scene.content for scene in scenes(3000)}
    evaluation = {scene.content for scene in scenes(600, "evaluation")}
    dev = {scene.content for scene in scenes(600, "dev")}
    assert not train & evaluation and not train & dev and not dev & evaluation
    for split in ("train", "dev", "evaluation"):
        assert {scene.split for scene in scenes(200, split)} == {split}


def test_the_picture_shows_what_the_scene_says():
    for scene in scenes(60):
        image = draw_scene(scene)
        assert image.size == (SIDE, SIDE)
        for thing in scene.things:
            x, y, width, height = thing.box
            assert image.getpixel((thing.x, thing.y)) == RGB[thing.colour]
            assert x >= 0 and y >= 0 and x + width <= SIDE and y + height <= SIGN_TOP + 4
            assert (thing.x < SIDE / 2) == (thing.place % 2 == 0)
            assert (thing.y < SIGN_TOP / 2) == (thing.place // 2 == 0)
        most_common = max(image.getcolors(SIDE * SIDE))[1]
        assert most_common == GROUND_RGB[scene.ground]
        assert (image.getpixel((SIDE // 2 - 26, SIDE - 6)) == (255, 255, 255)) == (scene.word is not None)


@pytest.mark.parametrize(
    ("qtype", "expected"),
    [
        (1, {"What is the background of the picture?": "sand"}),
        (
            2,
            {
                "What is in the top left?": "circle",
                "What is in the top right?": "star",
                "What is in the bottom right?": "heart",
            },
        ),
        (
            3,
            {
                "What color is the circle?": "red",
                "What does the circle look like?": "large and red",
                "What color is the star?": "blue",
                "What does the star look like?": "small and blue",
                "What color is the heart?": "blue",
                "What does the heart look like?": "small and blue",
            },
        ),
        (
            4,
            {
                "Where is the red circle?": "top left",
                "Where is the blue star?": "top right",
                "Where is the blue heart?": "bottom right",
            },
        ),
        (
            5,
            {
                "How many objects are there?": "three",
                "How many squares are there?": "zero",
                "How many circles are there?": "one",
                "How many stars are there?": "one",
                "How many hearts are there?": "one",
                "How many green objects are there?": "zero",
                "How many red objects are there?": "one",
                "How many blue objects are there?": "two",
            },
        ),
        (
            6,
            {
                "Where is the red circle seen from the blue star?": "left",
                "Where is the blue star seen from the red circle?": "right",
                "Where is the blue star seen from the blue heart?": "above",
                "Where is the blue heart seen from the blue star?": "below",
            },
        ),
        (
            7,
            {
                "What is the red circle tied to?": "blue heart",
                "What is the blue heart tied to?": "red circle",
            },
        ),
        (
            8,
            {
                "Which color is there most of?": "blue",
                "How many objects are left without the red ones?": "two",
                "How many objects are left without the blue ones?": "one",
            },
        ),
        (9, {"What word is on the sign?": "taxi"}),
    ],
)
def test_questions_of_every_type_have_the_right_answer(qtype, expected):
    assert answers(qtype) == expected


def test_a_question_has_three_wrong_answers_and_its_right_one_where_it_is_wanted():
    for scene in scenes(100):
        for question in ask_all(scene, derive_rng(scene.number)):
            assert len({*question.wrong, question.answer}) == 4
            for position in range(4):
                assert question.options(position)[position] == question.answer


@pytest.mark.parametrize(
    ("qtype", "text", "answer"),
    [
        (1, "What is behind the blue star?", "sand"),
        (2, "What is the red object?", "circle"),
        (3, "What color is the object in the bottom right?", "blue"),
        (4, "In which corner is the blue heart?", "bottom right"),
        (5, "How many objects are there besides the red circle?", "two"),
        (6, "Is the red circle to the left of the blue star?", "yes"),
        (6, "Is the blue heart over the blue star?", "no"),
        (6, "On which side of the blue star is the blue heart?", "below"),
        (7, "Which object is tied to the red circle?", "blue heart"),
        (8, "Without the stars, how many objects can be seen?", "two"),
        (9, "Which word can be seen under the blue star?", "taxi"),
    ],
)
def test_the_engine_and_the_benchmarks_have_wordings_and_questions_that_the_base_datasets_lack(qtype, text, answer):
    asked = {wording: one.answer for one in occasions(SCENE, qtype) for wording in one.wordings}
    assert asked[text] == answer and text not in answers(qtype)
    assert text in {ask(SCENE, qtype, derive_rng(i)).text for i in range(300)}


def test_a_scene_without_sign_and_rope_is_not_asked_about_them():
    scene = Scene(number=1, ground="snow", things=(RED_CIRCLE,), word=None, rope=None)
    asked = {question.qtype for question in ask_all(scene, derive_rng(0))}
    assert asked == set(TYPE_NAMES) - {6, 7, 9}


def test_no_answer_is_much_more_frequent_than_the_others_of_its_type():
    counts = Counter()
    for scene in scenes(2000):
        for question in ask_all(scene, derive_rng(scene.number)):
            if question.answer in NUMBERS:
                counts[question.answer] += 1
    assert counts.most_common(1)[0][1] < 0.5 * counts.total()


def test_a_scene_of_an_unknown_split_is_an_error():
    with pytest.raises(ValueError, match="has no split 'val', only train, dev, evaluation"):
        make_scene(0, "val", 1)
