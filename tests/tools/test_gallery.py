import base64
import io
import json
import re

import pytest
from PIL import Image

from tools.gallery import GIVEN_COLOUR, SHOWN, TRUE_COLOUR, cards, places, write_gallery
from tools.screenshots import MARGIN, in_few_colours, without_empty_rest

GREY, TRUE, GIVEN = "#808080", TRUE_COLOUR, GIVEN_COLOUR
OPTIONS = {f"choice_{letter}": letter * 3 for letter in "abcd"}
SEED = {
    "question_type": {"Scene Understanding": 1},
    "questions": [
        {"question_id": number, "question_type_id": 1, "data_type": "image", "answer": "B", **OPTIONS}
        for number in range(4)
    ],
}
PEOPLE = [{"answer": "one"}] * 9 + [{"answer": "two"}]
ANNOTATION = {"question_id": 7, "image_id": 1, "question_type": "how", "answer_type": "other", "answers": PEOPLE}
REFERRED = {"sents": "the star", "width": 112, "height": 112, "bbox": [28, 56, 56, 28]}
EVALUATION = {
    "seed/seed-bench-image.jsonl": [
        {"image": "1.png", "text": f"Question {number}?\nA. aaa", "question_id": number} for number in range(4)
    ],
    "seed/SEED-Bench-image.json": SEED,
    "vsr/test.jsonl": [{"image": "1.png", "caption": "<b>2 & 3</b>", "label": 1}],
    "vizwiz/val.json": [{"image": "1.png", "question": "How many?", "answers": PEOPLE}],
    "okvqa/okvqa_test_split.json": [{"question_id": 7, "question": "Which one?", "image_id": 1}],
    "okvqa/mscoco_val2014_annotations_clean.json": {"annotations": [ANNOTATION]},
    "hateful_meme/dev.jsonl": [{"img": "1.png", "text": "word", "label": 0}],
    "refcoco/refcoco/refcoco_val.json": [{"img_id": f"COCO_train2014_00000000000{n}_1", **REFERRED} for n in (1, 2)],
}
REF_ROWS = [{"img_id": f"COCO_train2014_00000000000{n}_1", "sents": "the star"} for n in (1, 2)]
RESULTS = {
    "seed.jsonl": [{"text": text, "question_id": number} for number, text in enumerate("abcd")],
    "vsr.json": [{"pred": "<i>true</i>", "gt": "true"}],
    "vizwiz.json": [{"answer": "two"}],
    "okvqa.json": [{"answer": "", "question_id": 7}],
    "hm.json": [{"pred": 0, "gt": 0}],
    "refcoco_val.json": [{**REF_ROWS[0], "answer": "{<30><50><75><70>}"}, {**REF_ROWS[1], "answer": "there"}],
}
FILES = {
    "seed": "seed/seed-bench-image.jsonl",
    "vsr": "vsr/test.jsonl",
    "vizwiz": "vizwiz/val.json",
    "okvqa": "okvqa",
    "hm": "hateful_meme/dev.jsonl",
    "refcoco": "refcoco",
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.suffix == ".jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content))


@pytest.fixture
def demo(tmp_path):
    """A folder as a demo leaves it; every picture is grey."""
    world = tmp_path / "sample_world"
    for name, content in EVALUATION.items():
        write(world / "evaluation_dataset" / name, content)
    for name, content in RESULTS.items():
        write(tmp_path / "evaluation_results" / name, content)
    (world / "pictures").mkdir()
    for name in ("1.png", "COCO_val2014_000000000001.jpg", *(f"COCO_train2014_00000000000{n}.jpg" for n in (1, 2))):
        Image.new("RGB", (112, 112), GREY).save(world / "pictures" / name)
    entries = {
        name: {"eval_file_path": f"sample_world/evaluation_dataset/{file}", "img_path": "sample_world/pictures"}
        for name, file in FILES.items()
    }
    write(world / "eval_configs/sample_world.yaml", {"evaluation_datasets": entries})  # JSON is YAML, too
    return tmp_path


def colours(picture):
    return {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in picture.getcolors()}


def pixel(picture, x, y):
    return "#{:02x}{:02x}{:02x}".format(*picture.getpixel((x, y)))


def test_a_page_has_a_card_for_each_chosen_question(demo):
    found = list(cards(demo))
    assert [card.title for card in found] == [title for title, number in SHOWN.values() for _ in range(number)]
    assert [(card.answer, card.truth, card.right) for card in found[:6]] == [
        ("b", "B", 1),
        ("d", "B", 0),
        ("<i>true</i>", "true", 0),
        ("two", "one (9), two (1)", 1 / 3),
        ("", "one (9), two (1)", 0),
        ("no", "no", 1),
    ]
    assert [card.right for card in found[6:]] == [1, 0]
    assert [(card.accuracy, card.num_questions) for card in (found[0], found[6])] == [(25, 4), (50, 2)]


def test_a_card_tells_the_question_from_the_words_that_the_prompt_adds(demo):
    prompts = [card.prompt for card in cards(demo)]
    assert prompts[1] == ("[vqa] ", "Question 3?\nA. aaa", "")
    assert prompts[3][0].endswith("The question is '") and prompts[3][1:2] == ("How many?",)
    assert prompts[4][1:] == ("Which one?", "")
    assert prompts[6] == ("[refer] give me the location of ", "the star", "")


def test_the_rows_of_a_page_are_evenly_spaced():
    assert places(600, 2) == [150, 450]
    assert places(21, 1) == [10]
    assert places(2, 2) == [0, 1]


def test_the_true_box_is_drawn_thick_and_the_box_of_the_answer_thin(demo):
    picture = list(cards(demo))[6].picture
    assert picture.size == (224, 224)
    assert [pixel(picture, x, 120) for x in (54, 56, 59, 61)] == [GREY, TRUE, TRUE, GREY]  # from x = 28 of 112 pixels
    assert [pixel(picture, x, 120) for x in (65, 67, 68, 70)] == [GREY, GIVEN, GIVEN, GREY]  # 30 % of 224 is 67.2
    assert [pixel(picture, 110, y) for y in (110, 112, 116)] == [GREY, GIVEN, GREY]  # 50 %, over the true box
    assert [pixel(picture, 110, y) for y in (154, 156, 160)] == [GREY, GIVEN, GREY]  # 70 % is 156.8
    assert pixel(picture, 110, 168) == TRUE  # the lower side of the truth: 56 + 28 = 84 of 112


def test_an_answer_without_a_box_is_drawn_without_one(demo):
    assert colours(list(cards(demo))[7].picture) == {GREY, TRUE}


def test_a_question_without_boxes_has_its_picture_alone(demo):
    assert [colours(card.picture) for card in list(cards(demo))[:6]] == [{GREY}] * 6


def test_the_page_holds_the_cards_and_their_pictures(demo):
    page = write_gallery(demo, demo / "gallery.html").read_text(encoding="utf-8")
    assert page.count("<article>") == 8
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    opened = [Image.open(io.BytesIO(base64.b64decode(text))) for text in pictures]
    assert [picture.size for picture in opened] == [(224, 224)] * 8
    assert colours(opened[6].convert("RGB")) == {GREY, TRUE, GIVEN}
    assert page.count('(<span class="right">right</span>)') == 3
    assert '(<span class="wrong">33% right</span>)' in page
    assert '<i class="wrong">nothing</i>' in page
    assert re.search(r"<h2>SEED <small>25\.00 % of 4</small>", page)
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_no_text_of_the_data_becomes_markup(demo):
    page = write_gallery(demo, demo / "gallery.html").read_text(encoding="utf-8")
    assert "<b>2" not in page and "&lt;b&gt;2 &amp; 3&lt;/b&gt;" in page
    assert "<i>true" not in page and "&lt;i&gt;true&lt;/i&gt;" in page


def test_a_missing_result_file_is_named(demo):
    (demo / "evaluation_results/hm.json").unlink()
    with pytest.raises(ValueError, match=r"hm\.json"):
        write_gallery(demo, demo / "gallery.html")


def test_a_photograph_ends_below_the_last_thing_on_the_page():
    page = Image.new("RGB", (100, 500), "#f6f8fa")
    page.paste("black", (10, 20, 30, 80))
    assert without_empty_rest(page).size == (100, 80 + MARGIN)
    assert without_empty_rest(Image.new("RGB", (100, 500))).size == (100, 500)


def test_the_palette_of_a_photograph_keeps_the_colours_of_the_small_world_and_of_the_pages_apart():
    page = Image.linear_gradient("L").resize((512, 512)).convert("RGB")
    kept = [(220, 30, 30), (150, 40, 170), (246, 248, 250), (255, 255, 255)]  # red, purple, a page, a card
    for number, colour in enumerate(kept):
        page.paste(colour, (40 * number, 0, 40 * number + 20, 20))
    small = in_few_colours(page)
    shown = [small.convert("RGB").getpixel((40 * number + 5, 5)) for number in range(len(kept))]
    assert small.mode == "P" and len(set(shown)) == len(kept)
    assert all(abs(a - b) <= 4 for one, other in zip(kept, shown, strict=True) for a, b in zip(one, other, strict=True))
