import hashlib
import json
import re
from collections import Counter

import pytest
from PIL import Image

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.evaluation.benchmark import Prediction
from minigpt4.sample_world.drawing import draw_scene
from minigpt4.sample_world.questions import PHRASES, TYPE_NAMES, occasions
from minigpt4.sample_world.scenes import SIDE, make_scene
from tests.sample_world.conftest import SEED

NUM_QUESTIONS = {
    **{"mmbench": 76, "okvqa": 32, "vizwiz": 32, "vsr": 36, "gqa": 32, "hm": 32, "iconvqa": 21, "seed": 74},
    **{"refcoco_val": 14, "refcoco_testA": 13, "refcoco_testB": 8, "refcocog_val": 14, "refcocog_test": 27},
    **{"refcoco+_val": 14, "refcoco+_testA": 13, "refcoco+_testB": 8},
}
"""36 of 40 scenes have two things in one row or column; MMBench rotates 21 questions, RefCOCO asks for each thing."""
SAID = {phrase: relation for relation, phrases in PHRASES.items() for phrase in phrases}
STATEMENT = re.compile(rf"(?:The|Is the) (\w+ \w+)(?: is)? ({'|'.join(SAID)}) the (\w+ \w+)[.?]")


@pytest.fixture(scope="module")
def benchmarks(world):
    entries = Config.load(world / "eval_configs/sample_world.yaml").evaluation_datasets_cfg
    made = [part for name in entries for part in registry.get_benchmark_class(name).build(entries[name], name=name)]
    return {benchmark.name: benchmark for benchmark in made}


def read(world, name):
    path = world / "evaluation_dataset" / name
    lines = path.read_text()
    return [json.loads(line) for line in lines.splitlines()] if path.suffix == ".jsonl" else json.loads(lines)


def scene_of(image):
    """The held-out scene whose number a file name ends with."""
    return make_scene(SEED, "evaluation", int(re.findall(r"\d+", image)[-1]))


def answers(scene):
    """Every question of a scene with its answer."""
    asked = (asked for qtype in TYPE_NAMES for asked in occasions(scene, qtype))
    return {text: question.answer for question in asked for text in question.wordings}


def is_true(scene, statement):
    """Whether a statement fits where the two things are drawn."""
    subject, phrase, other = STATEMENT.fullmatch(statement).groups()
    one, two = (next(thing for thing in scene.things if thing.name == name) for name in (subject, other))
    found = {
        **{"left": one.x < two.x and one.row == two.row, "right": one.x > two.x and one.row == two.row},
        **{"above": one.y < two.y and one.column == two.column, "below": one.y > two.y and one.column == two.column},
    }
    return found[SAID[phrase]]


def test_every_benchmark_is_listed(benchmarks):
    assert set(benchmarks) == set(NUM_QUESTIONS)


@pytest.mark.parametrize("name", NUM_QUESTIONS)
def test_a_benchmark_reads_its_questions_and_pictures(name, benchmarks):
    benchmark = benchmarks[name]
    questions = benchmark.questions()
    benchmark.check_images(questions)
    assert len(questions) == NUM_QUESTIONS[name]
    assert all(benchmark.open_image(question).size == (SIDE, SIDE) for question in questions)


def truth(question):
    if question.choices:
        return [question.choices.index(question.truth)]
    return question.truth.split(" (")[0]


@pytest.mark.parametrize("name", NUM_QUESTIONS)
def test_the_truth_scores_100_percent(name, benchmarks):
    benchmark = benchmarks[name]
    answered = [Prediction(question, truth(question)) for question in benchmark.questions()]
    score = benchmark.score(answered)
    assert (score["accuracy"], score["num_unparsed"]) == (100, 0)


def test_people_mostly_give_the_right_answer_to_okvqa(world):
    asked = {row["question_id"]: row for row in read(world, "okvqa/okvqa_test_split.json")}
    assert read(world, "okvqa/OpenEnded_mscoco_val2014_questions_clean.json")["questions"] == list(asked.values())
    annotations = read(world, "okvqa/mscoco_val2014_annotations_clean.json")["annotations"]
    assert [row["question_id"] for row in annotations] == list(asked)
    for row in annotations:
        counts = Counter(person["answer"] for person in row["answers"])
        assert [person["answer_id"] for person in row["answers"]] == list(range(1, 11))
        [(answer, votes)] = counts.most_common(1)
        assert votes >= 7
        assert answers(make_scene(SEED, "evaluation", row["image_id"]))[asked[row["question_id"]]["question"]] == answer
    assert any(len({person["answer"] for person in row["answers"]}) > 1 for row in annotations)


def test_vizwiz_asks_in_vain_now_and_then(world):
    rows = read(world, "vizwiz/val.json")
    for row in rows:
        [(answer, votes)] = Counter(person["answer"] for person in row["answers"]).most_common(1)
        assert votes >= 7 and {person["answer_confidence"] for person in row["answers"]} <= {"yes", "maybe"}
        right = answers(scene_of(row["image"])).get(row["question"], "unanswerable")
        assert (answer, row["answerable"]) == (right, int(right != "unanswerable"))
        assert (row["answer_type"] == "unanswerable") == (right == "unanswerable")
    assert sum(row["answerable"] for row in rows) == 24


def test_vsr_labels_what_is_drawn(world):
    rows = read(world, "vsr/test.jsonl")
    assert [row["label"] for row in rows] == [1, 0] * 18
    for row in rows:
        assert is_true(scene_of(row["image"].removesuffix(".jpg")), row["caption"]) == (row["label"] == 1)
        assert row["caption"] == f"The {row['subj']} is {row['relation']} the {row['obj']}."


def test_gqa_answers_are_what_is_drawn(world):
    rows = read(world, "gqa/testdev_balanced_questions.json")
    for row in rows:
        scene = scene_of(row["image"])
        if row["answer"] in ("yes", "no"):
            assert is_true(scene, row["question"]) == (row["answer"] == "yes")
        else:
            assert answers(scene)[row["question"]] == row["answer"]
    assert {"yes", "no"} & {row["answer"] for row in rows}


def test_a_meme_is_labelled_1_when_its_words_contradict_its_picture(world):
    rows = read(world, "hateful_meme/dev.jsonl")
    for row in rows:
        things = scene_of(row["img"]).things
        assert row["label"] == (row["text"] not in {thing.name for thing in things})
        color, shape = row["text"].split()
        assert any(color == thing.colour or shape == thing.shape for thing in things)
    assert [row["label"] for row in rows] == [0, 1] * (len(rows) // 2)


def test_a_meme_shows_its_text(world):
    [row] = read(world, "hateful_meme/dev.jsonl")[:1]
    with Image.open(world / "evaluation_dataset/hateful_meme/hm_images" / row["img"]) as image:
        assert image.convert("RGB").tobytes() == draw_scene(scene_of(row["img"]), meme=row["text"]).tobytes()


def test_iconqa_has_two_to_four_choices_and_the_right_one_among_them(world):
    rows = read(world, "iconvqa/choose_text_val.json")
    for row in rows:
        assert answers(scene_of(row["image_id"]))[row["question"]] == row["choices"][row["answer"]]
        assert len(set(row["choices"])) == len(row["choices"])
        with Image.open(world / f"evaluation_dataset/iconvqa/iconvqa_images/{row['image_id']}/image.png") as image:
            assert image.format == "PNG"
    assert {len(row["choices"]) for row in rows} == {2, 3, 4}


@pytest.mark.parametrize("name", ["refcoco_val", "refcoco_testA", "refcoco+_testB", "refcocog_val", "refcocog_test"])
def test_a_referred_thing_has_its_box(name, world):
    folder = name.split("_")[0]
    for row in read(world, f"{folder}/{folder}/{name}.json"):
        image, number = re.fullmatch(r"(COCO_train2014_\d{12})_(\d+)", row["img_id"]).groups()
        scene = scene_of(image)
        [thing] = [thing for thing in scene.things if thing.name in row["sents"]]
        assert int(number) == scene.number * 10 + scene.things.index(thing)
        assert (row["bbox"], row["width"], row["height"]) == (list(thing.box), SIDE, SIDE)


def test_the_two_tests_of_refcoco_refer_to_different_kinds_of_things_in_different_pictures(world):
    kinds, images = [], []
    for split in ("testA", "testB"):
        rows = read(world, f"refcoco/refcoco/refcoco_{split}.json")
        kinds.append({row["sents"].split()[1] for row in rows})
        images.append({row["img_id"][:27] for row in rows})
    assert kinds[0] <= {"circle", "square", "triangle"} and kinds[1] <= {"star", "cross", "heart"}
    assert not images[0] & images[1]


def pictures(benchmark):
    return {hashlib.sha256(benchmark.open_image(q).tobytes()).hexdigest() for q in benchmark.questions()}


def test_no_picture_of_evaluation_is_one_of_training_or_of_another_benchmark(world, benchmarks):
    trained = set()
    for path in (world / "train_dataset").rglob("*.jpg"):
        with Image.open(path) as image:
            trained.add(hashlib.sha256(image.convert("RGB").tobytes()).hexdigest())
    assert len(trained) > 80
    seen: dict[str, str] = {}
    for name, benchmark in benchmarks.items():
        kind = "refcoco" if name.startswith("refcoco") else name
        for picture in pictures(benchmark):
            assert picture not in trained
            assert seen.setdefault(picture, kind) == kind
