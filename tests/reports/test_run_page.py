import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image

from minigpt4.cli import main
from minigpt4.reports.metrics_log import read_metrics_log
from minigpt4.reports.run_page import state, write_run_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RUN = {
    "versions": {"torch": "2.11.0", "timm": "1.0.20"},
    "num_trainable": 56627200,
    "mixture": [
        {"dataset": "gqa", "num_rows": 943000, "batch_size": 6, "sample_ratio": 50, "share": 0.25},
        {"dataset": "laion", "num_rows": None, "batch_size": 2, "sample_ratio": 1, "share": 0.005},
    ],
    "config": {"run": {"max_epoch": 2, "iters_per_epoch": 100, "job_name": "<script>alert(1)</script>"}},
}


def write_run(folder, *, num_lines=100, run=RUN):
    folder.mkdir(exist_ok=True)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(num_lines):
            loss = 1 + 4 / (step + 1)
            line = {"step": step, "lr": 1e-5, "loss": loss, "loss_by_dataset": {"gqa": loss, "a<b>&": 2.0}}
            line |= {
                "samples_per_s": 10.0,
                "eta_s": 60.0,
                "num_bad_samples": {"gqa": 3},
                "start_step": 50 * (step >= 50),
            }
            file.write(json.dumps(line) + "\n")
        valid = {"step": num_lines - 1, "valid_loss": 1.25, "valid_loss_by_dataset": {"gqa/val": 1.25}}
        file.write(json.dumps(valid) + "\n")
    if run is not None:
        (folder / "run.json").write_text(json.dumps(run))
    return folder


class Page(HTMLParser):
    """Counts tags and gathers what a page would fetch."""

    VOID = frozenset({"meta", "line", "circle", "polyline", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.fetched = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_whole_escaped_and_fetches_nothing(tmp_path):
    text = write_run_page(write_run(tmp_path / "job & co")).read_text()
    page = Page(text)
    assert page.open == [] and page.fetched == []
    assert "url(" not in text and "@import" not in text
    assert page.tags.count("script") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "a&lt;b&gt;&amp;" in text and "job &amp; co" in text


def test_the_page_has_a_chart_of_the_loss_of_each_dataset_and_of_each_speed(tmp_path):
    text = write_run_page(write_run(tmp_path / "job")).read_text()
    titles = ["loss", "a&lt;b&gt;&amp;", "gqa", "learning rate", "samples a second"]
    assert text.count('<svg class="chart"') == len(titles)
    assert all(f"<figcaption><b>{title}</b>" in text for title in titles)
    assert text.count("resumed at step 50") == len(titles)


def test_a_number_has_a_chart_where_the_log_has_it_and_a_single_rank_is_never_the_slowest(tmp_path):
    lines = [{"step": step, "grad_norm": 0.5, "slowest_rank_share": 1.0, "mfu": 0.4} for step in range(3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = write_run_page(tmp_path).read_text()
    found = [part.split("</b>")[0] for part in text.split("<figcaption><b>")[1:]]
    assert found == ["gradient norm", "model FLOPs utilisation, %"]
    assert ">40</text>" in text and "<b>40.0%</b>MFU" in text


def test_the_state_says_how_far_the_run_is(tmp_path):
    log = read_metrics_log(write_run(tmp_path / "job") / "metrics.jsonl")
    assert state(log, RUN) == "step 100 of 200 (50%) · 0:01:00 to go · resumed at 50"
    assert state(log, {}) == "step 100 · 0:01:00 to go · resumed at 50"


def test_the_table_joins_the_mixture_with_losses_and_what_was_left_out(tmp_path):
    page = write_run_page(write_run(tmp_path / "job")).read_text()
    rows = page.split("<tbody>")[1].split("</tbody>")[0].split("<tr>")[1:]
    cells = [row.strip().removesuffix("</td></tr>").removeprefix("<td>").split("</td><td>") for row in rows]
    assert cells[0][:5] == ["gqa", "943,000", "6", "50", "25.0%"]
    assert cells[0][7:] == ["1.2500", "3", "0", "0"]
    assert cells[1][:7] == ["laion", "", "2", "1", "0.5%", "", ""]
    assert cells[2][0] == "a&lt;b&gt;&amp;"
    titles = page.split("<thead>")[1].split("</thead>")[0].removesuffix("</th></tr>").split("</th><th>")
    assert titles[-6:] == ["expected samples", "loss", "validation", "bad", "too long", "skipped"]


def test_the_facts_are_those_of_run_json_in_words(tmp_path):
    page = write_run_page(write_run(tmp_path / "job")).read_text()
    facts = page.split('<div class="scroll facts"><table>')[1].split("</table>")[0].strip().splitlines()
    assert facts == [
        "<tr><th>versions</th><td>torch 2.11.0, timm 1.0.20</td></tr>",
        "<tr><th>num trainable</th><td>56,627,200</td></tr>",
    ]


@pytest.mark.parametrize("torn", [None, '{"versions": {'])
def test_a_run_json_that_is_not_there_or_torn_costs_only_what_it_says(tmp_path, torn):
    folder = write_run(tmp_path / "job", run=None)
    if torn is not None:
        (folder / "run.json").write_text(torn)
    text = write_run_page(folder).read_text()
    assert "There is no run.json." in text and "<figcaption><b>gqa</b>" in text


@pytest.mark.parametrize("lines", ["", '{"step": 0}\n', '{"step": 7, "loss": 2.5}\n'])
def test_a_run_that_has_hardly_begun_has_a_page_and_a_picture_too(tmp_path, lines):
    (tmp_path / "metrics.jsonl").write_text(lines)
    assert Page(write_run_page(tmp_path).read_text()).open == []
    with Image.open(tmp_path / "loss.png") as image:
        assert image.size == (1080, 600)


def test_an_empty_folder_has_a_page_without_figures(tmp_path):
    page = write_run_page(tmp_path).read_text()
    assert "no step is logged yet" in page and "<p>No step is logged yet.</p>" in page
    assert not {"figure", "svg"} & set(Page(page).tags) and 'class="tiles"' not in page


def test_thirty_thousand_lines_make_a_small_page(tmp_path):
    few, many = (write_run_page(write_run(tmp_path / str(n), num_lines=n)).stat().st_size for n in (3000, 30000))
    assert many < 1.2 * few < 400_000


def test_the_page_is_written_also_when_the_picture_cannot_be_drawn(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError):
        write_run_page(write_run(tmp_path / "job"))
    assert "<figcaption><b>gqa</b>" in (tmp_path / "job/report.html").read_text()


def test_the_picture_shows_the_loss(tmp_path):
    write_run_page(write_run(tmp_path / "dollar$_$job"))
    with Image.open(tmp_path / "dollar$_$job" / "loss.png") as image:
        assert image.size == (1080, 600)
        colours = {colour for count, colour in image.convert("RGB").getcolors(1 << 20) if count > 20}
    assert {(9, 105, 218), (188, 76, 0)} <= colours  # the mean and the validation


def test_the_page_is_also_written_by_hand(tmp_path, capsys):
    assert main(["report", str(write_run(tmp_path / "job"))]) == 0
    assert capsys.readouterr().out.strip() == f"wrote {tmp_path / 'job' / 'report.html'}"
    with pytest.raises(SystemExit, match=r"has neither metrics\.jsonl, as the folder of a run, nor results\.json"):
        main(["report", str(tmp_path)])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_shows_the_page_and_the_values_under_the_pointer(tmp_path):
    page = write_run_page(write_run(tmp_path / "job"))
    probe = """<script>
      const chart = document.querySelector("svg.chart"), box = chart.getBoundingClientRect();
      chart.dispatchEvent(new PointerEvent("pointermove", {clientX: box.right}));
      document.title = [box.width > 600, document.documentElement.scrollWidth <= innerWidth,
        chart.parentNode.querySelector(".note").textContent].join("; ");
    </script>"""
    page.write_text(page.read_text() + probe)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'user'}"]
    command = [CHROMIUM, *options, "--window-size=1240,900", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    title = done.stdout.split("<title>")[1].split("</title>")[0]
    assert title == "true; true; step 100 · raw 1.04 · mean 1.041 · validation 1.25", done.stderr
