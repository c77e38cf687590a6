"""Every benchmark of the world, asked of the model that ships: alone, by two processes, killed and continued."""

import json
import signal
import time
from pathlib import Path

import pytest

from tests.evaluation.processes import num_lines
from tests.forked import SECONDS, run_ranks, run_script, start_ranks

ROOT = Path(__file__).parents[2]
BY_VQA = ["seed.jsonl", "mmbench.jsonl", "okvqa.json", "vizwiz.json", "vsr.json", "gqa.json", "hm.json", "iconvqa.json"]
BY_REF = [f"{name}_{split}.json" for name in ("refcoco", "refcoco+") for split in ("val", "testA", "testB")]
BY_REF += ["refcocog_val.json", "refcocog_test.json"]


def command(script: str, world: Path, results: Path) -> list[str]:
    words = ["--cfg-path", str(world / "eval_configs/sample_world.yaml"), "--batch_size", "6", "--max_new_tokens", "8"]
    words += ["--resample"] * (script == "eval_ref.py")
    script_file = str(ROOT / "eval_scripts" / script)
    return [script_file, *words, "--options", f"run.save_path={results}"]


def evaluate(script: str, world: Path, results: Path, *, num_ranks: int) -> str:
    words = command(script, world, results)
    done = run_script(words, cwd=ROOT) if num_ranks == 1 else run_ranks(words, cwd=ROOT, num_ranks=num_ranks)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def alone(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("alone")
    for script in ("eval_vqa.py", "eval_ref.py"):
        evaluate(script, world, results, num_ranks=1)
    return results


def test_one_process_evaluates_every_benchmark(alone):
    results = json.loads((alone / "results.json").read_text())
    assert set(results) == {name.split(".")[0] for name in [*BY_VQA, *BY_REF]}
    assert all(facts["num_questions"] > 0 and facts["num_processes"] == 1 for facts in results.values())
    answers = [entry.get("answer", entry.get("pred")) for name in BY_VQA[2:7] for entry in read(alone / name)]
    assert len({str(answer) for answer in answers}) > 20  # the model has something to say
    assert len({tuple(entry["ranks"]) for entry in read(alone / "iconvqa.json")}) > 5
    assert results["okvqa"]["accuracy"] > 20


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text())


def test_two_processes_refer_to_the_same_boxes(alone, world, tmp_path):
    evaluate("eval_ref.py", world, tmp_path, num_ranks=2)
    for name in BY_REF:
        assert (tmp_path / name).read_bytes() == (alone / name).read_bytes(), name


def test_two_processes_that_were_killed_and_went_on_write_the_same_bytes(alone, world, tmp_path):
    part = tmp_path / "parts/vizwiz.rank0.jsonl"
    folder = tmp_path.parent / "ranks"
    folder.mkdir()
    ranks = start_ranks(command("eval_vqa.py", world, tmp_path), folder, cwd=ROOT)
    deadline = time.monotonic() + SECONDS
    while num_lines(part) < 2:
        assert all(rank.poll() is None for rank in ranks) and time.monotonic() < deadline
        time.sleep(0.002)
    for rank in ranks:
        rank.kill()
    assert [rank.wait() for rank in ranks] == [-signal.SIGKILL] * 2
    assert [name for name in BY_VQA if (tmp_path / name).exists()] == BY_VQA[:3]
    log = evaluate("eval_vqa.py", world, tmp_path, num_ranks=2)
    assert "seed: 74 questions, 74 answered before" in log and "vsr: 36 questions, 0 answered before" in log
    for name in BY_VQA:
        assert (tmp_path / name).read_bytes() == (alone / name).read_bytes(), name
    assert not (tmp_path / "parts").exists()
