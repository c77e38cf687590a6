"""What users' evaluation files get wrong: read right, or named before a model is loaded."""

import base64
import io
import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from minigpt4.evaluation.benchmark import Prediction
from minigpt4.evaluation.evaluator import INFER, prepare
from minigpt4.evaluation.mistakes import load_mistakes
from minigpt4.evaluation.results import read_results
from minigpt4.evaluation.submissions import read_predictions

FOLDER = {"okvqa", "refcoco"}
GOOD = {
    "seed": {"image": "a.jpg", "text": "What?", "question_id": 1},
    "vizwiz": {"image": "a.jpg", "question": "Q?", "answers": [{"answer": "yes"}], "answer_type": "other"},
    "vsr": {"image": "a.jpg", "caption": "x", "label": 1, "relation": "on"},
    "gqa": {"image": "a.jpg", "question": "Q?", "answer": "yes"},
    "hm": {"img": "a.jpg", "text": "x", "label": 0},
    "iconvqa": {"image_id": "1", "question": "Q?", "choices": ["a", "b"], "answer": 1, "question_id": 7},
    "okvqa": {"question_id": 5, "question": "Q?", "image_id": 1},
    "refcoco": {"img_id": "a", "sents": "x", "bbox": [0, 1, 2.5, 3], "height": 5, "width": 6},
}
PEOPLE = {"question_id": 5, "question_type": "what", "answer_type": "other", "answers": [{"answer": "a"}]}
LABELS = {"vizwiz": "answers", "vsr": "label", "gqa": "answer", "hm": "label", "iconvqa": "answer", "refcoco": "bbox"}


def picture_text(colour="red"):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def bench(make_benchmarks, tmp_path):
    """Return the benchmark of a name whose file has these rows, or this text; its images are there."""

    def make(name, rows, *, people=None):
        for image in ("a.jpg", "1/image.png", "COCO_val2014_000000000001.jpg"):
            (tmp_path / image).parent.mkdir(exist_ok=True)
            Image.new("RGB", (6, 5)).save(tmp_path / image)
        file = {"okvqa": "okvqa_test_split.json", "refcoco": "refcoco_val.json", "mmbench": "mm.tsv"}
        path = tmp_path / file.get(name, "rows.json")
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
        annotations = {"annotations": [PEOPLE if people is None else people]}
        (tmp_path / "mscoco_val2014_annotations_clean.json").write_text(json.dumps(annotations))
        place = tmp_path if name in FOLDER else path
        return make_benchmarks(name, eval_file_path=str(place), img_path=str(tmp_path))[0]

    return make


def problem_of(benchmark, tmp_path):
    with pytest.raises(ValueError, match="the evaluation cannot start") as error:
        prepare([benchmark], save_path=tmp_path)
    return str(error.value).replace(f"{tmp_path}/", "")


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_good_row_is_a_question(bench, name, tmp_path):
    [prepared] = prepare([bench(name, [GOOD[name]])], save_path=tmp_path, only=INFER)
    assert len(prepared.questions) == 1


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("vsr", {"label": None}, "vsr[1]: rows.json: 'label' should be a number, not null"),
        ("vsr", {"label": "True"}, "vsr[1]: rows.json: 'label' should be a number, not 'True'"),
        ("vsr", {"label": 2}, "vsr[1]: rows.json: 'label' should be 0 or 1, not 2"),
        ("vsr", {"image": 5}, "vsr[1]: rows.json: 'image' should be a text, not 5"),
        ("vsr", {"relation": 5}, "vsr[1]: rows.json: 'relation' should be a text, not 5"),
        ("hm", {"label": None}, "hm[1]: rows.json: 'label' should be a number, not null"),
        ("hm", {"label": math.nan}, "hm[1]: rows.json: 'label' should be a number, not nan"),
        (
            "vizwiz",
            {"answers": None},
            "'answers' should be a list of one or more objects with a text 'answer', not null",
        ),
        ("vizwiz", {"answers": []}, "vizwiz[1]: rows.json: 'answers' should be a list of one or more objects"),
        ("vizwiz", {"answers": ["yes"]}, "'answers'[0]: a person's answer should be an object with answer, not 'yes'"),
        ("vizwiz", {"answers": [{"answer": None}]}, "'answers'[0]: 'answer' should be a text, not null"),
        ("iconvqa", {"answer": "b"}, "iconvqa[1]: rows.json: 'answer' should be a whole number, not 'b'"),
        ("iconvqa", {"answer": 2}, "'answer' should be the place of a choice, 0 to 1, not 2"),
        ("iconvqa", {"choices": []}, "'choices' should be a list of one or more texts, not an empty list"),
        ("seed", {"image": None}, "seed[1]: rows.json: 'image' should be a text, not null"),
        ("seed", {"text": None}, "seed[1]: rows.json: 'text' should be a text, not null"),
        ("seed", {"question_id": "en_1"}, "seed[1]: rows.json: 'question_id' should be a number, not 'en_1'"),
        ("gqa", {"answer": None}, "gqa[1]: rows.json: 'answer' should be a text, not null"),
        ("refcoco", {"bbox": []}, "refcoco_val[1]: refcoco_val.json: 'bbox' should be four numbers"),
        ("refcoco", {"bbox": None}, "refcoco_val[1]: refcoco_val.json: 'bbox' should be a list, not null"),
        ("refcoco", {"height": 0}, "'height' should be a positive number of pixels, not 0"),
        ("refcoco", {"img_id": 7}, "'img_id' should be a text, not 7"),
        ("okvqa", {"image_id": "x"}, "'image_id' should be a whole number, not 'x'"),
    ],
)
def test_a_value_of_a_wrong_type_is_named_with_its_file_row_and_key(bench, name, change, message, tmp_path):
    assert message in problem_of(bench(name, [GOOD[name], {**GOOD[name], **change}]), tmp_path)


def test_an_annotation_of_okvqa_is_checked_too(bench, tmp_path):
    benchmark = bench("okvqa", [GOOD["okvqa"]], people={**PEOPLE, "answers": [{"answer": 1}]})
    found = "mscoco_val2014_annotations_clean.json: annotation 0: 'answers'[0]: 'answer' should be a text, not 1"
    assert found in problem_of(benchmark, tmp_path)


@pytest.mark.parametrize("name", sorted(LABELS))
def test_a_file_without_any_label_is_answered_with_accuracy_unknown(bench, name, caplog):
    row = {key: value for key, value in GOOD[name].items() if key != LABELS[name]}
    benchmark = bench(name, [row])
    [question] = benchmark.questions()
    answer = [0, 1] if name == "iconvqa" else "yes"
    score = benchmark.score([Prediction(question, answer)])
    assert (score["accuracy"], score["num_questions"]) == (None, 1)
    assert question.truth is None
    assert json.loads(json.dumps(benchmark.export(question, answer)))
    assert f"has '{LABELS[name]}', so no accuracy is known" in caplog.text


@pytest.mark.parametrize("name", sorted(LABELS))
def test_a_label_that_only_some_rows_lack_is_an_error(bench, name, tmp_path):
    row = {key: value for key, value in GOOD[name].items() if key != LABELS[name]}
    problem = problem_of(bench(name, [GOOD[name], row]), tmp_path)
    assert f"[1]: {'refcoco_val' if name == 'refcoco' else 'rows'}.json: '{LABELS[name]}' is missing" in problem


def test_all_bad_rows_of_all_benchmarks_are_counted_and_the_first_shown(bench, tmp_path):
    rows = [{"image": "a.jpg", "caption": "x", "label": None}] * 8
    (tmp_path / "other").mkdir()
    first, second = bench("vsr", rows), bench("hm", "[1]")
    first.eval_file = tmp_path / "vsr.json"
    first.cfg.eval_file_path = str(first.eval_file)
    first.eval_file.write_text(json.dumps(rows))
    with pytest.raises(ValueError, match="the evaluation cannot start") as error:
        prepare([first, second], save_path=tmp_path)
    text = str(error.value)
    assert text.count("'label' should be a number, not null") == 5
    assert "and 3 more; 8 bad rows in all" in text
    assert "hm[0]: " in text and "a row should be an object with img, text, not 1" in text


def test_a_file_without_rows_is_an_error(bench, tmp_path):
    assert "gqa: rows.json holds no question" in problem_of(bench("gqa", []), tmp_path)


@pytest.mark.parametrize("name", ["seed", "vsr", "gqa", "vizwiz", "hm", "iconvqa", "okvqa", "refcoco"])
def test_a_question_that_shows_an_image_itself_is_named(bench, name, tmp_path):
    key = next(key for key in ("sents", "caption", "question", "text") if key in GOOD[name])
    problem = problem_of(bench(name, [{**GOOD[name], key: "What <ImageHere>?"}]), tmp_path)
    assert "]: its question holds <ImageHere>, which stands for an image" in problem


def test_ids_that_come_twice_are_told(bench, tmp_path, caplog):
    prepare([bench("seed", [GOOD["seed"]] * 2)], save_path=tmp_path)
    assert "seed: 1 ids come more than once, such as 1" in caplog.text


def test_an_evaluation_file_is_read_as_a_training_file_is(bench, tmp_path):
    row, benchmark = json.dumps(GOOD["hm"]), bench("hm", "[]")
    for text, number in ((f"\ufeff{row}\r\n\r\n{row}\r\n", 2), (f"[{row}]", 1), (f"\ufeff[{row},\n{row}]\n\n", 2)):
        benchmark.eval_file.write_bytes(text.encode())
        assert len(benchmark.questions()) == number
    for text, message in (
        (f"[{row}]\n[{row}]", "hm: rows.json: more text after its list at byte 44"),
        (f'[{row[:-1]}, "n": "\\ud83d"}}]', "hm: rows.json: record 1: a text holds half a character"),
        ("version https://git-lfs.github.com/spec/v1", "run `git lfs pull`"),
        (row, "rows.json: holds one object, not a list of rows"),
    ):
        benchmark.eval_file.write_text(text)
        assert message in problem_of(benchmark, tmp_path)


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from([1, "1", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["answer", "a"]), inner, max_size=2),
    max_leaves=5,
)


@pytest.mark.parametrize("num_examples", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_any_value_in_any_key_gives_questions_or_one_error(bench, tmp_path, num_examples):
    @settings(max_examples=num_examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def check(data):
        name = data.draw(st.sampled_from(sorted(GOOD)))
        change = data.draw(st.dictionaries(st.sampled_from([*GOOD[name], *PEOPLE]), ANY, min_size=1, max_size=2))
        rows = [GOOD[name], {**GOOD[name], **change}, *data.draw(st.lists(ANY, max_size=1))]
        benchmark = bench(name, rows, people={**PEOPLE, **change})
        try:
            [prepared] = prepare([benchmark], save_path=tmp_path)
        except ValueError:
            return
        answer = [0] if name == "iconvqa" else "{<1><2><3><4>}"
        json.dumps(benchmark.score([Prediction(question, answer) for question in prepared.questions]))
        for question in prepared.questions:
            json.dumps([benchmark.export(question, answer), question.type, question.options, question.truth])

    check()


def mm(*rows, header="index\tquestion\tA\tB\tanswer\timage"):
    return "\n".join([header, *("\t".join(map(str, row)) for row in rows), ""])


def test_a_row_whose_image_names_another_row_shows_its_picture(bench, tmp_path):
    red, blue = picture_text(), picture_text("blue")
    rows = [(1, "Q", "x", "y", "A", red), (2, "Q", "x", "y", "A", f"data:image/png;base64,{blue}")]
    rotated = [(1_000_001, "Q", "y", "x", "B", 1), (1_000_002, "Q", "y", "x", "B", 2)]
    benchmark = bench("mmbench", mm(*rows, *rotated))
    [prepared] = prepare([benchmark], save_path=tmp_path)
    assert [question.image for question in prepared.questions] == [red, blue, red, blue]
    answers = zip(prepared.questions, "ABBB", strict=True)
    score = benchmark.score([Prediction(question, answer) for question, answer in answers])
    assert (score["accuracy"], score["circular_accuracy"]) == (75.0, 50.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": 7}, "mmbench[2]: mm.tsv: its image names the row of index 7, which is not there"),
        ({"image": 2}, "mmbench[2]: mm.tsv: its image names the row of index 2, which holds no picture itself"),
        ({"image": 3}, "mmbench[2]: mm.tsv: its image names the row of index 3, which holds no picture itself"),
        ({"image": ""}, "mmbench[2]: mm.tsv: holds no image in this row"),
        ({"image": "['a', 'b']"}, "mmbench[2]: mm.tsv: its image is a list of pictures; a question has one"),
        ({"image": "%%%"}, "mmbench[2]: cannot read its image from base64 text"),
        ({"image": "AAAA"}, "mmbench[2]: cannot read its image from base64 text: cannot identify image file"),
        ({"question": ""}, "mmbench[2]: mm.tsv: holds no question in this row"),
        ({"question": "<ImageHere>?"}, "mmbench[2]: its question holds <ImageHere>, which stands for an image"),
        ({"A": "<ImageHere>"}, "mmbench[2]: its question holds <ImageHere>, which stands for an image"),
        ({"answer": "E"}, "mmbench[2]: mm.tsv: 'answer' should be one of A, B, C, D, not 'E'"),
        ({"index": "en_1"}, "mmbench: mm.tsv: row 2: index 'en_1' should be a number"),
        ({"index": 1}, "mmbench: mm.tsv: row 2: index 1 is that of row 1 too"),
        ({"index": ""}, "mmbench: mm.tsv: row 2: index '' should be a number"),
        ({"question": '"Stop'}, "mmbench: mm.tsv: line 3: the quotation mark that begins its 'question' is not closed"),
        ({"question": "a\tb"}, "mmbench: mm.tsv: line 3: has 7 fields, though the first line has 6"),
    ],
)
def test_a_row_of_mmbench_that_cannot_be_asked_is_named(bench, change, message, tmp_path):
    names = ["index", "question", "A", "B", "answer", "image"]
    row = {**dict(zip(names, (2, "Q", "x", "y", "A", picture_text()), strict=True)), **change}
    rows = [(1, "Q", "x", "y", "A", picture_text()), row.values(), (3, "Q", "x", "y", "A", 1)]
    assert message in problem_of(bench("mmbench", mm(*rows)), tmp_path)


def test_a_file_with_commas_says_so(bench, tmp_path):
    problem = problem_of(bench("mmbench", mm((1, "Q")).replace("\t", ",")), tmp_path)
    assert "mm.tsv: has no column index, question, image; is it separated by commas instead of tabs?" in problem


def test_a_quotation_mark_that_a_later_row_closes_is_named(bench, tmp_path):
    rows = [(number, "What is it?", "red", "blue", "A", picture_text()) for number in range(1, 7)]
    for second, fifth in (('"Stop', 'say "hi" to'), ('"Stop', 'say hi"'), ('"Stop', '"hi" he said')):
        rows[1] = (2, second, *rows[1][2:])
        rows[4] = (5, fifth, *rows[4][2:])
        problem = problem_of(bench("mmbench", mm(*rows)), tmp_path)
        assert "mm.tsv: line 3: the quotation mark that begins its 'question' is not closed; 3 further lines" in problem


def test_a_table_with_a_mark_at_its_begin_and_windows_line_ends_is_read(bench, tmp_path):
    text = "\ufeff" + mm((1, '"two\nlines ""quoted"""', "x", "y", "A", picture_text()))
    benchmark = bench("mmbench", "")
    Path(benchmark.eval_file).write_bytes(text.replace("\n", "\r\n").encode())
    [question] = benchmark.questions()
    assert question.prompt.startswith('[vqa] two\r\nlines "quoted"\nA. x')


@pytest.mark.parametrize(
    ("name", "entry"),
    [("gqa", {"pred": None, "gt": "yes"}), ("vizwiz", {"answer": 5}), ("iconvqa", {"ranks": []}), ("iconvqa", 5)],
)
def test_an_answer_of_a_wrong_type_is_named_with_its_row(bench, tmp_path, name, entry):
    benchmark = bench(name, [GOOD[name]])
    (tmp_path / "res.json").write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match=rf"{name}: .*res\.json, row 0: no answer in "):
        read_predictions(benchmark, benchmark.questions(), tmp_path / "res.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "should hold an object for each benchmark"),
        ('{"vsr": 5}', "should hold an object for each benchmark"),
        ('{"vsr": {"accuracy": "61"}}', "'accuracy' should be a number or null"),
        ('{"vsr": {}} x', "more text after its object at byte 12"),
        ("", "is empty"),
    ],
)
def test_a_file_of_results_that_does_not_fit_is_named(tmp_path, content, message):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ValueError, match=rf"results\.json.*{message}.*; remove or mend this file"):
        read_results(tmp_path)


def test_a_damaged_line_of_wrong_answers_is_named(tmp_path):
    (tmp_path / "wrong.jsonl").write_text('{"benchmark": "vsr"}\n{"bench')
    with pytest.raises(ValueError, match=r"wrong\.jsonl: line 2: is no JSON"):
        load_mistakes(tmp_path / "wrong.jsonl")
