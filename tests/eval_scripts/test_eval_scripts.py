import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "golden" / "data"
TINY = """
model:
  random_weights: True
  image_size: 28
  vit: {embed_dim: 32, depth: 1, num_heads: 2}
  vit_precision: fp32
  llama_config:
    {hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2}
  lora_r: 2
preprocess: {vis_processor: {eval: {image_size: 28}}}
evaluation_datasets:
  seed: {eval_file_path: evaluation_dataset/seed/seed-bench-image.jsonl, img_path: evaluation_dataset/seed}
  mmbench: {eval_file_path: evaluation_dataset/mmbench/mmbench_dev_20230712.tsv}
  iconvqa:
    eval_file_path: evaluation_dataset/iconvqa/choose_text_val.json
    img_path: evaluation_dataset/iconvqa/iconvqa_images
  refcocog: {eval_file_path: evaluation_dataset/refcocog, img_path: evaluation_dataset/coco2014_train}
run: {device: cpu}
"""


def evaluate(script: str, tmp_path: Path, *words: str, num_ranks: int = 0) -> subprocess.CompletedProcess[str]:
    (tmp_path / "tiny.yaml").write_text(TINY)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={num_ranks}"] if num_ranks else []
    command = [
        sys.executable,
        *launcher,
        str(ROOT / "eval_scripts" / script),
        "--cfg-path",
        str(tmp_path / "tiny.yaml"),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.run([*command, *words], cwd=DATA, env=env, capture_output=True, text=True, encoding="utf-8")


def test_two_ranks_write_the_same_bytes_as_one_process(tmp_path):
    files = ["seed.jsonl", "mmbench.jsonl", "iconvqa.json"]
    for num_ranks, batch_size in ((0, "1"), (2, "10")):
        words = ["--batch_size", batch_size, "--options", f"run.save_path={tmp_path / str(num_ranks)}"]
        done = evaluate("eval_vqa.py", tmp_path, *words, num_ranks=num_ranks)
        assert done.returncode == 0, done.stderr
        assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["seed", "mmbench", "iconvqa"]
        assert sorted(path.name for path in (tmp_path / str(num_ranks)).iterdir()) == sorted([*files, "results.json"])
    for name in files:
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    ranks = [tuple(row["ranks"]) for row in json.loads((tmp_path / "2" / "iconvqa.json").read_text())]
    assert len(set(ranks)) > 5  # the tiny model does tell choices apart


def test_eval_ref_writes_a_file_a_split_in_the_order_of_the_rows(tmp_path):
    done = evaluate("eval_ref.py", tmp_path, "--options", f"run.save_path={tmp_path}")
    assert done.returncode == 0, done.stderr
    for split in ("val", "test"):
        rows = json.loads(
            (DATA / "evaluation_dataset" / "refcocog" / "refcocog" / f"refcocog_{split}.json").read_text()
        )
        saved = json.loads((tmp_path / f"refcocog_{split}.json").read_text())
        assert [(row["img_id"], row["sents"]) for row in saved] == [(row["img_id"], row["sents"]) for row in rows]


@pytest.mark.parametrize(("script", "name"), [("eval_vqa.py", "sead"), ("eval_ref.py", "seed")])
def test_a_name_that_cannot_be_evaluated_is_refused(script, name, tmp_path):
    done = evaluate(script, tmp_path, "--dataset", name)
    assert done.returncode != 0
    assert f"--dataset {name}: " in done.stderr and done.stdout == ""
