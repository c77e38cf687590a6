import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.evaluation.processes import kill_tree, num_lines
from tests.forked import environment, run_ranks, run_script

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "golden" / "data"
ASSETS = ROOT / "tests" / "golden" / "model" / "assets"
TINY = f"""
model:
  image_size: 56
  vit: {{embed_dim: 32, depth: 2, num_heads: 4}}
  vit_precision: fp32
  vit_ckpt: {ASSETS / "eva_tiny_28.pth"}
  llama_model: {ASSETS / "llama_tiny"}
  ckpt: {ASSETS / "minigptv2_tiny_ckpt.pth"}
  lora_r: 4
  end_sym: "</s>"
preprocess: {{vis_processor: {{eval: {{image_size: 56}}}}}}
evaluation_datasets:
  seed: {{eval_file_path: evaluation_dataset/seed/seed-bench-image.jsonl, img_path: evaluation_dataset/seed}}
  mmbench: {{eval_file_path: evaluation_dataset/mmbench/mmbench_dev_20230712.tsv}}
  iconvqa:
    eval_file_path: evaluation_dataset/iconvqa/choose_text_val.json
    img_path: evaluation_dataset/iconvqa/iconvqa_images
  refcocog: {{eval_file_path: evaluation_dataset/refcocog, img_path: evaluation_dataset/coco2014_train}}
run: {{device: cpu}}
"""
FILES = ["seed.jsonl", "mmbench.jsonl", "iconvqa.json"]


def command(script: str, tmp_path: Path, *words: str) -> list[str]:
    (tmp_path / "tiny.yaml").write_text(TINY)
    return [str(ROOT / "eval_scripts" / script), "--cfg-path", str(tmp_path / "tiny.yaml"), *words]


def torchrun(*words: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *words]


def evaluate(script: str, tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_script(command(script, tmp_path, *words), cwd=DATA)


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory) -> Path:
    """The results of one process that asks one question at a time."""
    folder = tmp_path_factory.mktemp("alone")
    done = evaluate("eval_vqa.py", folder, "--batch_size", "1", "--options", f"run.save_path={folder}")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()[:3]] == ["seed", "mmbench", "iconvqa"]
    return folder


def test_two_ranks_and_large_batches_write_the_same_bytes_as_one_question_at_a_time(one_by_one, tmp_path):
    words = ["--batch_size", "10", "--options", f"run.save_path={tmp_path}"]
    done = run_ranks(command("eval_vqa.py", tmp_path, *words), cwd=DATA)
    assert done.returncode == 0, done.stderr
    for name in [*FILES, "wrong.jsonl"]:
        alone, shared = ((folder / name).read_text().replace(str(folder), "") for folder in (one_by_one, tmp_path))
        assert alone == shared
    answers = [json.loads(line)["text"] for name in FILES[:2] for line in (tmp_path / name).read_text().splitlines()]
    assert len(set(answers)) > 30  # the tiny model has something to say
    ranks = [tuple(row["ranks"]) for row in json.loads((tmp_path / "iconvqa.json").read_text())]
    assert len(set(ranks)) > 5  # and does tell choices apart


def test_a_killed_evaluation_continues_and_writes_the_same_bytes(one_by_one, tmp_path):
    words = ["--batch_size", "1", "--options", f"run.save_path={tmp_path}"]
    parts = [tmp_path / "parts" / f"seed.rank{rank}.jsonl" for rank in range(2)]
    line = torchrun(*command("eval_vqa.py", tmp_path, *words))
    with subprocess.Popen(line, cwd=DATA, env=environment(), stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 600
        while min(num_lines(path) for path in parts) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        kill_tree(process.pid)
    num_answered = sum(num_lines(path) - 1 for path in parts)
    assert 4 <= num_answered < 30 and not (tmp_path / "seed.jsonl").exists()
    done = evaluate("eval_vqa.py", tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert f"seed: 30 questions, {num_answered} answered before" in done.stderr
    for name in FILES:
        assert (one_by_one / name).read_bytes() == (tmp_path / name).read_bytes()
    assert not (tmp_path / "parts").exists()


def test_eval_ref_writes_a_file_a_split_in_the_order_of_the_rows(tmp_path):
    done = evaluate("eval_ref.py", tmp_path, "--options", f"run.save_path={tmp_path}")
    assert done.returncode == 0, done.stderr
    for split in ("val", "test"):
        rows = json.loads(
            (DATA / "evaluation_dataset" / "refcocog" / "refcocog" / f"refcocog_{split}.json").read_text()
        )
        saved = json.loads((tmp_path / f"refcocog_{split}.json").read_text())
        assert [(row["img_id"], row["sents"]) for row in saved] == [(row["img_id"], row["sents"]) for row in rows]


def test_a_name_that_cannot_be_evaluated_is_refused(tmp_path):
    done = evaluate("eval_ref.py", tmp_path, "--dataset", "seed")
    assert done.returncode != 0
    assert "--dataset seed: eval_scripts/eval_vqa.py evaluates it" in done.stderr and done.stdout == ""
