import json
import subprocess
from pathlib import Path

import pytest
from openpyxl import load_workbook

from tests.forked import run_script

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "golden" / "data"
SEED = "convert_seed_for_submission_minigpt4.py"
MMBENCH = "convert_mmbench_for_submission.py"


def convert(script: str, *args: str | Path) -> subprocess.CompletedProcess[str]:
    return run_script([ROOT / "eval_scripts" / script, *args], cwd=DATA)


def golden(name: str) -> dict[str, dict]:
    return json.loads((DATA / "golden" / "eval" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["seed_results_empty_and_duplicate.jsonl", "seed_results_type_all_wrong.jsonl"])
def test_the_seed_converter_prints_the_recording(name):
    recorded = golden("seed_convert")[name]
    done = convert(SEED, *recorded["args"])
    assert done.returncode == 0
    assert done.stdout == recorded.get("stdout_if_missing_key_counts_as_zero", recorded["stdout"])


def test_the_seed_converter_tells_missing_answers_apart_from_its_report():
    done = convert(SEED, *golden("seed_convert")["seed_results_missing_rows.jsonl"]["args"])
    assert done.stdout == golden("seed_convert")["seed_results_missing_rows.jsonl"]["stdout"]
    assert "19 questions without an answer: " in done.stderr


def test_the_mmbench_converter_writes_the_recorded_sheet(tmp_path):
    recorded = golden("mmbench_convert")["mmbench_results_partial"]
    done = convert(MMBENCH, *recorded["args"][:-1], tmp_path / "new" / "out.xlsx")
    assert (done.returncode, done.stdout) == (0, "")
    sheet = load_workbook(tmp_path / "new" / "out.xlsx").active
    assert [list(row) for row in sheet.iter_rows(values_only=True)] == recorded["cells"]
    assert "20 questions without an answer: 1000, 1011, 1033, 1055, 1066, .." in done.stderr
    assert "1 answers to no question: -1" in done.stderr
    assert "1 questions answered more than once: 1022" in done.stderr


@pytest.mark.parametrize("script", [SEED, MMBENCH])
def test_a_converter_names_a_file_that_is_not_there(script, tmp_path):
    out = ["--output-file", tmp_path / "x.xlsx"] if script == MMBENCH else []
    done = convert(script, "--annotation-file", "none.json", "--result-file", "none.jsonl", *out)
    assert done.returncode == 2
    assert "cannot read none.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_validating_an_mmbench_file_reports_and_fails_where_ids_do_not_fit():
    args = golden("mmbench_convert")["mmbench_results_partial"]["args"][:4]
    done = convert(MMBENCH, *args, "--validate")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "rows: 4, questions: 22",
        "questions without an answer: 20 (1000, 1011, 1033, 1055, 1066, ..)",
        "answers to no question: 1 (-1)",
        "questions answered more than once: 1 (1022)",
        "empty answers: 1 (1044)",
        "videos without an answer: 0",
        "letters out of range: 1 (1022 'c. SOME Text')",
        "answers that name no option: 0",
        "accuracy: 0.00% of 18 rows that tell their answer",
    ]


def test_a_recorded_sheet_is_valid():
    args = golden("mmbench_convert")["mmbench_results_end_to_end"]["args"][:2]
    done = convert(MMBENCH, *args, "--result-file", "golden/eval/mmbench_results_end_to_end.xlsx", "--validate")
    assert done.returncode == 0, done.stdout
    assert "columns missing: 0\ncolumns not wanted: 0\n" in done.stdout


def test_validating_a_seed_file_ends_with_its_accuracy():
    done = convert(SEED, *golden("seed_convert")["seed_results_end_to_end.jsonl"]["args"], "--validate")
    assert done.returncode == 0, done.stdout
    assert "videos without an answer: 7 (" in done.stdout
    assert done.stdout.endswith("Total accuracy: 59.46%\nimage accuracy: 73.33%\n")


def test_hostile_answers_pass_through_both_converters(tmp_path):
    hostile = ["=1+1", "A\nB", "\x00\x1b[31m", "x" * 10_000, "\ud800", '"]}', "\u2028A", "=cmd|' /C calc'!A0"]
    for script, name, ids in (
        (SEED, "seed.jsonl", range(101000, 101024, 3)),
        (MMBENCH, "mm.jsonl", range(1000, 1088, 11)),
    ):
        rows = [{"question_id": i, "text": text} for i, text in zip(ids, hostile, strict=True)]
        rows.append({"question_id": "\ud800\x1b", "text": "A"})
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        recorded = "seed_results_missing_rows.jsonl" if script == SEED else "mmbench_results_partial"
        args = golden("seed_convert" if script == SEED else "mmbench_convert")[recorded]["args"][:2]
        out = ["--output-file", tmp_path / "out.xlsx"] if script == MMBENCH else []
        done = convert(script, *args, "--result-file", tmp_path / name, *out)
        assert done.returncode == 0, done.stderr
        assert "1 answers to no question: '\\ud800\\x1b'" in done.stderr
        assert convert(script, *args, "--result-file", tmp_path / name, "--validate").returncode == 1
    cells = [row[6] for row in load_workbook(tmp_path / "out.xlsx").active.iter_rows(min_row=2, max_row=9)]
    assert [(cell.value or "")[:6] for cell in cells] == [
        "=1+1",
        "A\nb",
        "[31m",
        "Xxxxxx",
        "",
        '"]}',
        "\u2028a",
        "=cmd|'",
    ]
    assert {cell.data_type for cell in cells if cell.value} == {"s"}
