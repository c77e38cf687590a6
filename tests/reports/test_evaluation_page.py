import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest
from PIL import Image

from minigpt4.evaluation.mistakes import Mistake, write_mistakes
from minigpt4.evaluation.report import write_report
from minigpt4.reports.page import cut, environment
from tests.evaluation.one_run import add_result

HOSTILE = "<script>document.title='harmed'</script>\x00\x1b[31m\ud800" + "x" * 10_000
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def make_page(tmp_path, num_wrong=3, **row):
    Image.new("RGB", (640, 480), "green").save(tmp_path / "picture.jpg")
    wrong = {
        **{"benchmark": "seed", "type": "Instance Location", "type_accuracy": 25.0, "prompt": "[vqa] Where?\nA. left"},
        **{"options": {"A": "left", "B": "right"}, "truth": "B", "answer": "A", "right": 0.0},
        **{"image": str(tmp_path / "picture.jpg"), **row},
    }
    by_type = {"Instance Location": 25.0, "Scene Understanding": 75.0}
    facts = {"accuracy": 50.0, "interval": [40.0, 60.0], "num_questions": 8, "num_unanswered": 0, "num_unparsed": 1}
    add_result(tmp_path, "seed", {**facts, "accuracy_by_type": by_type, "ckpt": "my.pth"})
    write_mistakes(tmp_path, {"seed": [Mistake(**wrong, question_id=number) for number in range(num_wrong)]})
    return write_report(tmp_path).read_text(encoding="utf-8")


def test_the_page_shows_types_from_the_weakest_on_and_wrong_answers_with_their_pictures(tmp_path):
    page = make_page(tmp_path)
    assert page.index("Instance Location") < page.index("Scene Understanding")
    assert page.count("<article>") == page.count('src="data:image/jpeg;base64,') == 3
    options = '<ul><li><b>A</b> left</li><li class="right"><b>B</b> right</li></ul>'
    assert f'<p class="question">[vqa] Where?</p>{options}' in page
    assert '<q class="wrong">A</q>' in page and '<q class="right">B</q>' in page
    assert "40.00 .. 60.00" in page and "63.83" in page and "checkpoint my.pth, 8 questions, 3 wrong" in page


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    class Links(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attrs):
            assert tag not in ("script", "link", "iframe")
            self.found += [value for name, value in attrs if name in ("src", "href")]

    page = make_page(tmp_path)
    Links().feed(page)
    assert len(Links.found) == 5
    assert all(value.startswith(("data:image/jpeg;base64,", "#")) for value in Links.found)
    assert "url(" not in page and "@import" not in page


def test_the_number_of_wrong_answers_on_the_page_is_limited(tmp_path):
    page = make_page(tmp_path, num_wrong=40)
    assert page.count("<article>") == 12
    assert "28 more are in wrong.jsonl" in page
    assert page == make_page(tmp_path, num_wrong=40)


@pytest.mark.parametrize("key", ["answer", "truth", "prompt", "type", "image", "options"])
def test_hostile_texts_are_shown_not_run(key, tmp_path):
    page = make_page(tmp_path, **{key: [HOSTILE] if key == "options" else HOSTILE})
    assert "<script" not in page and not re.search("[\x00\x1b\ud800]", page)
    assert "&lt;script&gt;" in page
    assert "x" * 700 not in page


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    page = make_page(tmp_path, image="gone/<b>.jpg")
    assert "cannot read gone/&lt;b&gt;.jpg" in page and "<img" not in page


def test_true_and_given_boxes_are_drawn(tmp_path):
    plain = make_page(tmp_path, num_wrong=1, truth="none")
    boxed = make_page(tmp_path, num_wrong=1, truth="{<10><10><50><50>}", answer="{<60><60><90><90>}")
    pictures = [re.search(r"base64,([^\"]+)", page)[1] for page in (plain, boxed)]
    assert pictures[0] != pictures[1]


def test_long_texts_are_cut_with_their_length():
    assert cut("a" * 50, 3) == "aaa \u2026 (50 characters)"
    assert environment().from_string("{{ value | cut }}").render(value="a&b") == "a&amp;b"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to look at the page with")
def test_a_browser_shows_the_page_without_harm(tmp_path):
    make_page(tmp_path, answer=HOSTILE)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    page = f"file://{tmp_path / 'report.html'}"
    shot = [f"--screenshot={tmp_path / 'page.png'}", "--window-size=1280,900"]
    subprocess.run([CHROMIUM, *flags, *shot, page], check=True, capture_output=True, timeout=600)
    with Image.open(tmp_path / "page.png") as image:
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
    assert image.size == (1280, 900)
    assert any(colour == (9, 105, 218) and count > 1000 for count, colour in colours)  # the bars
    done = subprocess.run([CHROMIUM, *flags, "--dump-dom", page], check=True, capture_output=True, timeout=600)
    assert b"<title>Evaluation</title>" in done.stdout
