"""Folders that an earlier version wrote: today's code resumes, finishes, scores and reports them."""

import json
import re

import pytest
import torch

from tests.forked import run_script
from tests.old_folders import OLD, ROOT, copy_of_old
from tools.make_old_run import ANSWERS, evaluation, expected_of, training

SCRIPTS = ("eval_vqa.py", "eval_ref.py")
KEPT = {
    "okvqa": ("okvqa.json", "answer"),
    "seed": ("seed.jsonl", "text"),
    "refcocog_val": ("refcocog_val.json", "answer"),
}
"""Benchmarks with a part file: their result file, and the key of an answer in it."""


@pytest.fixture
def work(tmp_path):
    """Return a folder with the data, the model, the configs and the old folders."""
    return copy_of_old(tmp_path / "work")


def run(work, words):
    """Run a script of this checkout to its end; return what it says."""
    script, *arguments = words
    done = run_script([ROOT / script, *arguments], cwd=work)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(path):
    """Return the entries of a result file, in the order of the questions."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def mark(path):
    """Replace every answer of a part file, so that a row that is asked again is seen; return row -> new answer."""
    header, *lines = path.read_text(encoding="utf-8").splitlines()
    marked = {row: f"kept {row}" for row, _ in map(json.loads, lines)}
    path.write_text("\n".join([header, *map(json.dumps, marked.items())]) + "\n", encoding="utf-8")
    return marked


def test_a_run_that_an_earlier_version_began_resumes_bit_for_bit(work):
    run(work, training("half", "run.save_every_steps=6", "run.resume_ckpt_path=auto"))
    folder = work / "output/half"
    old_log = (OLD / "output/half/log.txt").read_text()
    log = (folder / "log.txt").read_text()
    assert log.startswith(old_log) and len(log.splitlines()) == 40, "it did not go on where it stopped"
    assert read_json(folder / "run.json")["changed_options"] == []
    found, expected = json.loads(json.dumps(expected_of(work))), read_json(OLD / "expected/training.json")
    if (found["torch"], found["cpu"]) == (expected["torch"], expected["cpu"]):
        assert found == expected
    assert found["losses"] == {step: pytest.approx(loss, rel=1e-4) for step, loss in expected["losses"].items()}
    assert (folder / "report.html").is_file()


def test_an_evaluation_that_an_earlier_version_began_asks_only_what_has_no_answer(work):
    folder = work / "evaluation_results/half"
    kept = {name: mark(folder / f"parts/{name}.rank0.jsonl") for name in KEPT}
    assert {name: len(answers) for name, answers in kept.items()} == {"okvqa": 32, "seed": 6, "refcocog_val": 2}
    for script in SCRIPTS:
        run(work, evaluation("half", script=script))
    expected = {name: rows_of(OLD / "expected" / name) for name in ANSWERS}
    for name, (file, key) in KEPT.items():
        for row, answer in kept[name].items():
            expected[file][row][key] = answer
    assert {name: rows_of(folder / name) for name in ANSWERS} == expected
    assert not (folder / "parts").exists()


def scores_of(path):
    """Return results.json without times and versions."""
    kept = ("accuracy", "interval", "num_questions", "num_unanswered", "num_unparsed", "accuracy_by_type")
    return {name: {key: facts.get(key) for key in kept} for name, facts in read_json(path).items()}


def read_wrong(folder):
    return (folder / "wrong.jsonl").read_text()


def numbers(text):
    return [int(number) for number in re.findall(r"\d+", text)]


def test_an_evaluation_that_an_earlier_version_finished_is_scored_and_reported_again(work):
    folder = work / "evaluation_results/finished"
    before = read_json(folder / "results.json")
    wrong = read_wrong(folder)
    for script in SCRIPTS:
        words = evaluation("finished", script=script)
        run(work, [*words[:1], "--only", "score", *words[1:]])
    assert scores_of(folder / "results.json") == scores_of(OLD / "evaluation_results/finished/results.json")
    after = read_json(folder / "results.json")
    for name, facts in before.items():
        assert facts.items() <= after[name].items(), name
    now, then = ([json.loads(line) for line in text.splitlines()] for text in (read_wrong(folder), wrong))
    for row, old_row in zip(now, then, strict=True):
        if row["benchmark"].startswith("refcoco"):  # it rounded a shown box otherwise; no score reads that text
            pairs = zip(numbers(row.pop("truth")), numbers(old_row.pop("truth")), strict=True)
            assert all(abs(one - other) <= 1 for one, other in pairs)
        assert row == old_row
    assert (folder / "report.html").is_file()


def test_the_folders_of_an_earlier_version_finished_to_the_same_answers():
    """The half-finished evaluation and the finished one ask the same of the same checkpoint."""
    for name in ANSWERS:
        assert (OLD / "expected" / name).read_text() == (OLD / "evaluation_results/finished" / name).read_text()
    assert scores_of(OLD / "expected/results.json") == scores_of(OLD / "evaluation_results/finished/results.json")


def test_a_checkpoint_of_an_earlier_version_holds_what_it_held():
    saved = torch.load(OLD / "output/half/checkpoint_step_10.pth", weights_only=True)
    assert {"model", "optimizer", "scaler", "config", "epoch", "step", "history", "base_model"} <= set(saved)
