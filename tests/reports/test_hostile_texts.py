"""Texts that would harm a page, in every field of every page: they are shown, and the page keeps its elements."""

import json
import re
from html.parser import HTMLParser
from importlib import resources

import jinja2
import pytest
import torch
from PIL import Image

from minigpt4.evaluation.mistakes import Mistake, write_mistakes
from minigpt4.evaluation.report import write_report
from minigpt4.reports.page import environment, render, write_page
from minigpt4.reports.preview_page import DatasetView, Sample, Token, write_preview_page
from minigpt4.reports.run_page import write_run_page
from tests.evaluation.one_run import add_result

HOSTILE = "\"'><script>a(1)</script>{{7*7}}\x00\x1b"
SHOWN = "\"'><script>a(1)</script>{{7*7}}\ufffd\ufffd"
HOSTILE_NAME = "\"'><script>a(1)<img src=x onerror=b(2)>{{7*7}}&amp;\x1b"  # a folder's name has no slash
TEMPLATES = sorted((resources.files("minigpt4.reports") / "templates").iterdir(), key=str)


class Parsed(HTMLParser):
    """A page's elements with the names of their attributes, its scripts, and the texts that it shows."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.scripts, self.texts = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, [name for name, _ in attributes]))
        self.texts += [value or "" for _, value in attributes]

    def handle_data(self, data):
        in_script = self.elements[-1:] and self.elements[-1][0] == "script"
        (self.scripts if in_script else self.texts).append(data)


def assert_harmless(make, shown=SHOWN, hostile=HOSTILE):
    page = make(hostile)
    parsed, plain = Parsed(page), Parsed(make("harmless"))
    assert parsed.elements == plain.elements
    assert parsed.scripts == plain.scripts
    assert any(shown in text for text in parsed.texts)
    assert not re.search("[\x00\x1b]", page)


RUN_FIELDS = ["dataset", "split", "mixture", "key", "value", "inner key", "inner value", "option", "option's value"]


@pytest.mark.parametrize("field", RUN_FIELDS)
def test_a_run_page_shows_hostile_texts(field, tmp_path):
    def make(text):
        of = dict.fromkeys(RUN_FIELDS, "plain") | {field: text}
        dataset = f"z{of['dataset']}"  # behind gqa, whatever the text begins with
        folder = tmp_path / str(text == HOSTILE)
        folder.mkdir()
        line = {"step": 0, "loss": 1.0, "loss_by_dataset": {dataset: 1.0}}
        line |= {"valid_loss_by_dataset": {f"gqa/{of['split']}": 1.5}, "num_bad_samples": {dataset: 2}}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        config = {"run": {of["option"]: of["option's value"]}}
        run = {"config": config, of["key"]: of["value"], "versions": {of["inner key"]: of["inner value"]}}
        mixture = [{"dataset": "mixed" + of["mixture"], "num_rows": 3}]
        (folder / "run.json").write_text(json.dumps({**run, "mixture": mixture}))
        return write_run_page(folder).read_text(encoding="utf-8").replace(f"<h1>{folder.name}<", "<h1><")

    # YAML writes quotes and control characters in its own way
    assert_harmless(make, shown="<script>a(1)</script>{{7*7}}" if field.startswith("option") else SHOWN)


def test_a_run_page_shows_a_hostile_folder_name(tmp_path):
    def make(name):
        (tmp_path / name).mkdir()
        return write_run_page(tmp_path / name).read_text(encoding="utf-8")

    assert_harmless(make, hostile=HOSTILE_NAME, shown=HOSTILE_NAME.replace("\x1b", "\ufffd"))


FIELDS = ["benchmark", "type", "letter", "option", "prompt", "truth", "answer", "image", "question_id", "ckpt"]


def evaluation_page(folder, text, field):
    of = dict.fromkeys(FIELDS, "plain") | {field: text}
    folder.mkdir()
    row = {key: of[key] for key in ("benchmark", "type", "prompt", "truth", "answer", "image", "question_id")}
    options = {of["letter"]: of["option"]} if field != "list" else [text]
    rows = [Mistake(**row, options=options, right=0.0, type_accuracy=10.0)]
    add_result(folder, of["benchmark"], {"accuracy": 10.0, "accuracy_by_type": {of["type"]: 10.0}, "ckpt": of["ckpt"]})
    write_mistakes(folder, {of["benchmark"]: rows})
    return write_report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("field", [*FIELDS, "list"])
def test_an_evaluation_page_shows_hostile_texts(field, tmp_path):
    assert_harmless(lambda text: evaluation_page(tmp_path / str(text == HOSTILE), text, field))


def test_an_evaluation_page_shows_a_picture_with_a_hostile_name(tmp_path):
    def make(name):
        Image.new("RGB", (64, 48)).save(tmp_path / name, format="PNG")
        page = evaluation_page(tmp_path / f"{name} results", str(tmp_path / name), "image")
        assert page.count('src="data:image/jpeg;base64,') == 1
        return page

    assert_harmless(make, hostile=HOSTILE_NAME, shown=HOSTILE_NAME.replace("\x1b", "\ufffd"))


@pytest.mark.parametrize("field", ["name", "id", "prompt", "answer", "token", "remark", "unusable"])
def test_a_preview_shows_hostile_texts(field, tmp_path):
    def make(text):
        of = dict.fromkeys(("name", "id", "prompt", "answer", "token", "remark", "unusable"), "plain") | {field: text}
        sample = Sample(
            id=of["id"],
            turns=[(of["prompt"] + "{<1><2><30><40>}", of["answer"])],
            pictures=[torch.zeros(3, 8, 8, dtype=torch.uint8)],
            tokens=[Token("image", trained=False, count=4, is_image=True), Token(of["token"], trained=True)],
            num_tokens=5,
            num_trained=1,
        )
        view = DatasetView(
            **{"name": of["name"], "num_rows": None, "batch_size": 1, "ratio": 1.0, "share": 1.0},
            **{"samples": [sample], "remarks": [of["remark"]], "unusable": [of["unusable"]]},
        )
        return write_preview_page(tmp_path / "preview.html", [view]).read_text(encoding="utf-8")

    assert_harmless(make)


def test_boxes_in_a_preview_are_marked_and_drawn_also_beyond_its_edges(tmp_path):
    turns = [("where? {<-5><0><50><100>}", "<p>a</p> {<60><60><120><70>} {<1><2>} {<" + "9" * 5000 + "><1><2><3>}")]
    picture = torch.zeros(3, 8, 8, dtype=torch.uint8)
    sample = Sample(id="a[0]", turns=turns, pictures=[picture], tokens=[], num_tokens=0, num_trained=0)
    view = DatasetView(name="a", num_rows=1, batch_size=1, ratio=1.0, share=1.0, samples=[sample])
    page = write_preview_page(tmp_path / "preview.html", [view]).read_text(encoding="utf-8")
    assert '<span class="asked">{&lt;-5&gt;&lt;0&gt;&lt;50&gt;&lt;100&gt;}</span></div>' in page
    assert '<b class="answered">answer</b>&lt;p&gt;a&lt;/p&gt; <span class="answered">{&lt;60&gt;' in page
    assert re.findall("<rect class.*/>", page) == [
        '<rect class="asked" x="-5" y="0" width="55" height="100"/>',
        '<rect class="answered" x="60" y="60" width="60" height="10"/>',
    ]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda template: template.name)
def test_no_template_turns_the_escaping_off_or_leaves_an_attribute_without_quotes(template):
    text = template.read_text(encoding="utf-8")
    assert environment().autoescape is True
    assert not re.search(r"\bsafe\b|\bautoescape\b|\bMarkup\b", text)
    assert not re.search(r"=\s*\{[{%]", re.sub(r"\{%.*?%\}", "", text))
    scripts = re.findall("<script>.*?</script>", text, flags=re.DOTALL)
    assert not any("{{" in script or "{%" in script for script in scripts)


def test_a_value_that_a_template_needs_is_an_error_when_it_is_missing(tmp_path):
    with pytest.raises(jinja2.UndefinedError, match="'sections' is undefined"):
        write_page(tmp_path / "page.html", "evaluation.html.j2")
    assert list(tmp_path.iterdir()) == []


def test_an_evaluation_without_results_and_a_preview_without_datasets_are_pages_too(tmp_path):
    assert '<h2 id="overview">' in write_report(tmp_path).read_text(encoding="utf-8")
    assert "0 samples" in write_preview_page(tmp_path / "preview.html", []).read_text(encoding="utf-8")


def test_results_with_nothing_but_an_unknown_accuracy_have_dashes(tmp_path):
    add_result(tmp_path, "gqa", {"accuracy": None})
    add_result(tmp_path, "seed", {"accuracy": 50.0})
    rows = write_report(tmp_path).read_text(encoding="utf-8").split("<tbody>")[1].split("</tbody>")[0].split("<tr>")
    cells = [re.findall("<td>(.*)</td>", row)[1:] for row in rows[1:]]
    assert cells == [
        ["<b>-</b>", "-", "-", "-", "-", "0", "-", "-"],
        ["<b>50.00</b>", "-", "49.21", "63.83", "-", "0", "-", "-"],
    ]


def test_counts_of_left_out_samples_that_are_no_counts_by_dataset_leave_their_column_empty():
    class Log:
        def last(self, key):
            return {"num_bad_samples": 7, "num_too_long": {"gqa": 1234}}.get(key)

    values = {"state": "", "tiles": [], "speed": [], "config": "", "title": "job", "run": {}, "log": Log()}
    loss = type("Chart", (), {"lines": ()})
    page = render("run.html.j2", loss=loss, mixture={"gqa": {"share": 0.5}}, datasets={}, **values)
    row = "<tr><td>gqa</td><td></td><td></td><td></td><td>50.0%</td><td></td><td></td><td></td>"
    assert f"{row}<td></td><td>1,234</td><td>0</td></tr>" in page
