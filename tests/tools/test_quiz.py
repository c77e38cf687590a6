import re

from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.prompt_templates import BY_LETTER
from minigpt4.sample_world.scenes import Scene, Thing, make_scene
from tools.tiny_weights.quiz import FIRST_KINDS, KINDS, facts, letter_quiz_lesson, quiz_lesson

CIRCLE = Thing(shape="circle", colour="green", size="large", place=0, x=28, y=21)
HEART = Thing(shape="heart", colour="red", size="small", place=2, x=28, y=63)
STAR = Thing(shape="star", colour="red", size="small", place=3, x=84, y=63)
SCENE = Scene(number=1, ground="snow", things=(HEART, CIRCLE, STAR), word="stop", rope=(0, 1))
TRUTH = {
    "green circle": "top left",
    "red heart": "bottom left",
    "red star": "bottom right",
    "top left shape": "circle",
    "top left color": "green",
    "top left": "green circle",
    "top right shape": "nothing",
    "top right color": "nothing",
    "top right": "nothing",
    "bottom left shape": "heart",
    "bottom left color": "red",
    "bottom left": "red heart",
    "bottom right shape": "star",
    "bottom right color": "red",
    "bottom right": "red star",
    "green circle object": "large green circle top left",
    "red heart object": "small red heart bottom left",
    "red star object": "small red star bottom right",
    "circle object": "large green circle top left",
    "heart object": "small red heart bottom left",
    "star object": "small red star bottom right",
    "green object": "large green circle top left",
    "green circle size": "large",
    "red heart size": "small",
    "red star size": "small",
    "circle color": "green",
    "heart color": "red",
    "star color": "red",
    "circle look": "large and green",
    "heart look": "small and red",
    "star look": "small and red",
    "green circle there": "yes",
    "red heart there": "yes",
    "red star there": "yes",
    "green circle tied": "red heart",
    "red heart tied": "green circle",
    "red star tied": "nothing",
    "green circle from red heart": "above",
    "red heart from green circle": "below",
    "red heart from red star": "left",
    "red star from red heart": "right",
    "objects": "three",
    "circles": "one",
    "hearts": "one",
    "stars": "one",
    "crosses": "zero",
    "squares": "zero",
    "triangles": "zero",
    "red objects": "two",
    "green objects": "one",
    "blue objects": "zero",
    "yellow objects": "zero",
    "purple objects": "zero",
    "orange objects": "zero",
    "without the red ones": "one",
    "without the green ones": "two",
    "without the blue ones": "three",
    "without the yellow ones": "three",
    "without the purple ones": "three",
    "without the orange ones": "three",
    "most color": "red",
    "sign": "stop",
    "background": "snow",
}
STATEMENT = re.compile(
    r"(?P<choice>yes or no|true or false) (?P<one>\w+ \w+) ((?P<between>left|right|above|below)|from) "
    r"(?P<other>\w+ \w+)( (?P<last>left|right|above|below)(?P<why> because)?)?"
)
ARE_TRUE = {
    ("green circle", "above", "red heart"),
    ("red heart", "below", "green circle"),
    ("red heart", "left", "red star"),
    ("red star", "right", "red heart"),
}


def drawn_facts(kinds=KINDS):
    drawn = {}
    for i in range(200):
        drawn.update(facts(SCENE, derive_rng("facts", i), num_drawn=30, kinds=kinds))
    return drawn


def test_a_quiz_asks_for_everything_in_a_picture_and_has_the_right_answers():
    drawn = drawn_facts()
    assert {asked: answer for asked, answer in drawn.items() if asked in TRUTH} == TRUTH


def test_the_first_quizzes_ask_for_names_places_sizes_and_the_sign():
    names = {"green circle", "red heart", "red star"}
    places = {"top left", "top right", "bottom left", "bottom right"}
    drawn = drawn_facts(FIRST_KINDS)
    asked = names | places | {f"{name} size" for name in names} | {"sign", "background"}
    assert {fact: drawn[fact] for fact in asked} == {fact: TRUTH[fact] for fact in asked}
    assert {drawn[fact] for fact in drawn.keys() - asked} == {"nothing"}


def test_what_a_quiz_says_of_relations_is_judged_rightly():
    found = {match: answer for asked, answer in drawn_facts().items() if (match := STATEMENT.fullmatch(asked))}
    assert len(found) == 48  # four pairs, said rightly and wrongly, in three ways, for two kinds of answers
    for match, answer in found.items():
        yes, no = match["choice"].split(" or ")
        said = match["one"], match["between"] or match["last"], match["other"]
        truth = yes if said in ARE_TRUE else no
        (relation,) = (relation for one, relation, other in ARE_TRUE if (one, other) == (said[0], said[2]))
        assert answer == (f"{relation} {truth}" if match["why"] else truth), match[0]


def test_a_quiz_asks_for_things_that_are_not_there_too():
    drawn = drawn_facts()
    rest = {asked: answer for asked, answer in drawn.items() if asked not in TRUTH and not STATEMENT.match(asked)}
    places = {asked: answer for asked, answer in rest.items() if len(asked.split()) == 2}
    there = {asked: answer for asked, answer in rest.items() if asked.endswith(" there")}
    assert len(places) + len(there) == len(rest)
    assert len(places) > 10 and set(places.values()) == {"nothing"}
    assert len(there) > 10 and set(there.values()) == {"no"}


OPTIONS = re.compile(r"(.*?) A\. (.*?) B\. (.*?) C\. (.*?) D\. (.*)")


def asked_with_options(turn):
    """Each part of a quiz by letter: what is asked for, the four options, and what stands behind them."""
    for part in turn.answer.split(", "):
        asked, letter = part.split(": ")
        match = OPTIONS.fullmatch(asked)
        yield match[1], match.groups()[1:], letter


def letter_quizzes(judged):
    for i in range(200):
        lesson = letter_quiz_lesson(SCENE, derive_rng("letters", i), judged=judged)
        assert lesson.shown
        yield lesson.turns[0]


def test_a_letter_in_a_quiz_is_that_of_the_option_that_answers():
    num_checked = 0
    for turn in letter_quizzes(judged=0):
        for asked, options, letter in asked_with_options(turn):
            assert len(set(options)) == 4 and BY_LETTER not in turn.prompt
            if asked in TRUTH:
                assert options["abcd".index(letter)] == TRUTH[asked]
                num_checked += 1
    assert num_checked > 500


def test_a_quiz_by_letter_may_say_of_each_option_whether_it_is_right():
    for turn in letter_quizzes(judged=1):
        for asked, options, letter in asked_with_options(turn):
            verdicts = ["no"] * 4
            verdicts["abcd".index(letter)] = "yes"
            assert [option.split()[-1] for option in options] == verdicts
            if asked in TRUTH:
                assert options["abcd".index(letter)] == f"{TRUTH[asked]} yes"


def test_every_scene_gives_a_quiz():
    for number in range(100):
        scene = make_scene(5, "train", number)
        rng = derive_rng(number)
        for lesson in (quiz_lesson(scene, rng), letter_quiz_lesson(scene, rng, judged=0.5)):
            assert lesson.turns[0].answer.count(": ") >= 1
