"""Every (prompt, answer) pair that was recorded of the reference is reachable, and nothing else."""

import pickle

import pytest

from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.prompt_templates import load_templates

CANONICAL = {
    "caption": ["[caption] Briefly describe this image."],
    "vqa": ["[vqa] {}", "[vqa] Based on the image, respond to this question with a short answer: {}"],
    "refer": ["[refer] {}", "[refer] give me the location of {}"],
    "identify": ["[identify] {}", "[identify] what object is in this location {}"],
    "grounding": ["[grounding] please describe this image in details"],
}
ANSWERED_ONCE = [
    "coco_caption",
    "textcaps_caption",
    "coco_vqa",
    "ok_vqa",
    "aok_vqa",
    "gqa",
    "ocrvqa",
    "engine_da",
    "engine_mc",
    "refcoco",
    "refcocop",
    "refcocog",
    "invrefcoco",
    "invrefcocop",
    "invrefcocog",
    "refvg",
    "flickr_grounded_caption",
    "flickr_CaptionToPhrase",
    "flickr_ObjectToPhrase",
    "llava_detail",
    "llava_reason",
    "unnatural_instruction",
]


def draw(dataset, index, *, times):
    """Return the set of turns that a row can be drawn as, and one of its examples."""
    examples = [dataset.get(index, derive_rng(1, dataset.name, turn, index)) for turn in range(times)]
    return {example.turns for example in examples}, examples[0]


def assert_same_picture(example, item, name, index):
    """Compare file and size with the recording; pictures of GQA lie twice in the recorded files."""
    if item["image"] is None:
        assert example.id == f"{name}[{index}]" and example.images == ()
        return
    files = {item["image"], item["image"].replace("gqa/images/train", "gqa/images")}
    assert example.id in {f"{name}[{index}] {file}" for file in files}
    width, height = item["image_wh"]
    assert [image.shape for image in example.images] == [(3, height, width)]


@pytest.mark.parametrize("name", ANSWERED_ONCE)
def test_the_reachable_pairs_are_the_recorded_ones(name, recording, recorded_dataset):
    expected = recording(name)
    dataset = recorded_dataset(name)
    if dataset.templates_name:
        assert dataset.templates[: len(CANONICAL[dataset.templates_name])] == CANONICAL[dataset.templates_name]
        dataset.templates = CANONICAL[dataset.templates_name]
    assert len(dataset) == expected["len"]
    for index, item in enumerate(expected["items"]):
        turns, example = draw(dataset, index, times=200 if len(item["pairs"]) > 1 else 5)
        assert {(turn.prompt, turn.answer) for (turn,) in turns} == {tuple(pair) for pair in item["pairs"]}
        assert_same_picture(example, item, name, index)


@pytest.mark.parametrize("name", ["llava_conversation", "multitask_conversation"])
def test_the_turns_of_a_conversation_are_the_recorded_ones(name, recording, recorded_dataset):
    expected = recording(name)
    dataset = recorded_dataset(name)
    assert len(dataset) == expected["len"]
    for index, item in enumerate(expected["items"]):
        (turns,), example = draw(dataset, index, times=5)
        ((questions, answers, between),) = item["pairs"]
        recorded = list(zip(questions.split(between), answers.split(between), strict=False))
        if (name, index) == ("llava_conversation", 4):  # it ends on a question, which ours leaves out
            recorded = [("<Img><ImageHere></Img> ends with the human ", "one answer")]
        assert [(turn.prompt, turn.answer) for turn in turns] == recorded
        assert_same_picture(example, item, name, index)


def test_captions_of_cc_sbu_align_are_the_recorded_ones_behind_a_caption_template(recording, recorded_dataset):
    expected = recording("cc_sbu_align")
    dataset = recorded_dataset("cc_sbu_align")
    assert len(dataset) == expected["len"]
    for index, item in enumerate(expected["items"]):
        turns, example = draw(dataset, index, times=300)
        asked = {f"<Img><ImageHere></Img> {template} " for template in load_templates("caption")}
        assert {turn.prompt for (turn,) in turns} == asked
        assert {(turn.answer,) for (turn,) in turns} == {tuple(pair) for pair in item["pairs"]}
        assert_same_picture(example, item, "cc_sbu_align", index)


def test_option_orders_of_engine_mcp_are_the_recorded_ones_over_many_seeds(recording, recorded_dataset):
    items = recording("engine_mcp")["items"]
    seen = [set() for _ in items]
    for seed in range(400):
        dataset = recorded_dataset("engine_mcp", seed=seed)
        assert len(dataset) == len(items)
        for index, pairs in enumerate(seen):
            (turn,) = dataset.turns(dataset.row(index), derive_rng(0))
            pairs.add((turn.prompt, turn.answer))
    assert seen == [{tuple(pair) for pair in item["pairs"]} for item in items]


def test_the_option_order_of_engine_mcp_stays_for_the_run(recorded_dataset):
    dataset = recorded_dataset("engine_mcp", seed=3)
    for index in range(len(dataset)):
        turns, _ = draw(dataset, index, times=10)
        assert len(turns) == 1
    first, again = (recorded_dataset("engine_mcp", seed=3).get(0, derive_rng(rng)).turns for rng in (1, 2))
    assert first == again


def test_answers_are_drawn_by_their_frequency(recorded_dataset):
    dataset = recorded_dataset("coco_vqa")
    row = dataset.row(1)  # "can't tell" 4 of 10, "hi-fi" 4, "mt. fuji" 2
    answers = [dataset.turns(row, derive_rng(7, turn))[0].answer for turn in range(4000)]
    share = {answer: answers.count(answer) / 4000 for answer in set(answers)}
    # four standard deviations of a share of 4000 draws are at most 0.031
    assert share == {
        "can't tell": pytest.approx(0.4, abs=0.031),
        "hi-fi": pytest.approx(0.4, abs=0.031),
        "mt fuji": pytest.approx(0.2, abs=0.031),
    }


def test_all_prompt_templates_of_a_name_are_taken_equally_often(recorded_dataset):
    dataset = recorded_dataset("coco_caption")
    row = dataset.row(0)
    prompts = [dataset.turns(row, derive_rng(7, turn))[0].prompt for turn in range(3400)]
    counts = [prompts.count(f"<Img><ImageHere></Img> {template} ") for template in load_templates("caption")]
    assert sum(counts) == 3400
    expected = 3400 / len(counts)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts)  # five standard deviations


@pytest.mark.parametrize("name", ["coco_vqa", "ocrvqa", "refcoco", "refvg", "engine_mcp", "laion"])
def test_a_dataset_is_the_same_in_another_process(name, recorded_dataset):
    dataset = recorded_dataset(name)
    first = dataset.get(1, derive_rng(5))
    copy = pickle.loads(pickle.dumps(dataset)).get(1, derive_rng(5))
    assert (copy.id, copy.turns) == (first.id, first.turns)
