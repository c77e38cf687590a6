"""Answers that would harm a file, a terminal, a page or a sheet, through everything that is written of them."""

import json
import re
from pathlib import Path

import pytest

from minigpt4.evaluation.report import write_report
from minigpt4.evaluation.results import read_results
from tests.evaluation.one_run import add_result, order_asked, run
from tests.forked import run_script

ROOT = Path(__file__).parents[2]
HOSTILE = [
    "=1+1",
    "@SUM(A1)",
    "a\nb\r\nc",
    "\x00\x07\x1b[31m\x7f",
    "x" * 10_000,
    "a\u2028b\u2029c\x85d",
    "half \ud800 a pair",
    '"]}, {"text": "B"}',
    "<script>document.title='harmed'</script>",
    "{<1><2><3>",
]
CHANGES = {"vsr": {"eval_file_path": "evaluation_dataset/vsr/test.jsonl"}}
GENERATED = ["seed", "mmbench", "okvqa", "vizwiz", "vsr", "gqa", "hm", "refcoco", "refcoco+", "refcocog"]
"""All benchmarks but IconQA, whose answers are ranks and no text."""


def evaluate(name, make_benchmarks, recorded_model, processor, save_path):
    """Answer everything with hostile texts; return the benchmarks with their questions."""
    benchmarks = make_benchmarks(name, **CHANGES.get(name, {}))
    for benchmark in benchmarks:
        num_questions = len(order_asked(benchmark))
        model = recorded_model([HOSTILE[row % len(HOSTILE)] for row in range(num_questions)])
        add_result(save_path, benchmark.name, run(benchmark, model, processor, save_path=save_path))
    write_report(save_path)
    return benchmarks


def texts_of(benchmark, save_path):
    """The answers of a result file, read as another tool would: one JSON document, or one in each line."""
    content = (save_path / benchmark.result_file).read_bytes().decode("ascii")
    lines = content.split("\n")
    rows = (
        [json.loads(line) for line in lines[:-1]] if benchmark.result_file.endswith(".jsonl") else json.loads(content)
    )
    return [next(row[key] for key in ("text", "answer", "pred") if key in row) for row in rows]


@pytest.mark.parametrize("name", GENERATED)
def test_hostile_answers_pass_through_every_result_file_and_the_page(
    name, make_benchmarks, recorded_model, processor, tmp_path
):
    for benchmark in evaluate(name, make_benchmarks, recorded_model, processor, tmp_path):
        texts = texts_of(benchmark, tmp_path)
        expected = [benchmark.clean(HOSTILE[row % len(HOSTILE)]) for row in range(len(texts))]
        assert texts == expected and len(texts) > 2
        facts = read_results(tmp_path)[benchmark.name]
        assert (facts["num_questions"], facts["num_unanswered"]) == (len(texts), 0)
        known = [benchmark.score_one(*pair) for pair in zip(benchmark.questions(), texts, strict=True)]
        wrong = [row for row in wrong_rows(tmp_path) if row["benchmark"] == benchmark.name]
        assert [row["answer"] for row in wrong] == [t for t, right in zip(texts, known, strict=True) if right == 0]
        assert len(wrong) > 2
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and not re.search("[\x00-\x08\x0b\x1b\x7f\x85\ud800]", page)
    assert "x" * 700 not in page


def wrong_rows(save_path):
    lines = (save_path / "wrong.jsonl").read_bytes().decode("ascii").split("\n")
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize(
    ("name", "script", "annotation"),
    [
        ("seed", "convert_seed_for_submission_minigpt4.py", "seed/SEED-Bench-image.json"),
        ("mmbench", "convert_mmbench_for_submission.py", "mmbench/mmbench_dev_20230712.tsv"),
    ],
)
def test_a_result_file_of_hostile_answers_is_converted_and_valid(
    name, script, annotation, make_benchmarks, recorded_model, processor, tmp_path, in_golden_data
):
    [benchmark] = evaluate(name, make_benchmarks, recorded_model, processor, tmp_path)
    command = [ROOT / "eval_scripts" / script, "--annotation-file", f"evaluation_dataset/{annotation}"]
    command += ["--result-file", str(tmp_path / benchmark.result_file)]
    out = ["--output-file", str(tmp_path / "mmbench.xlsx")] if name == "mmbench" else []
    for words in (out, ["--validate"]):
        done = run_script([*command, *words], cwd=in_golden_data)
        assert done.returncode == 0, done.stderr
        assert not re.search(r"[\x00\x07\x1b\x7f]", done.stdout + done.stderr)
    assert "answers that name no option" in done.stdout
