import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minigpt4.evaluation import command

YAML = """
model: {arch: minigpt_v2, ckpt: yaml.pth, lora_r: 64}
evaluation_datasets:
  seed: {eval_file_path: evaluation_dataset/seed/seed-bench-image.jsonl, img_path: evaluation_dataset/seed}
  hm: {eval_file_path: evaluation_dataset/hateful_meme/dev.jsonl, img_path: evaluation_dataset/hateful_meme/hm_images}
  refcocog: {eval_file_path: evaluation_dataset/refcocog, img_path: evaluation_dataset/coco2014_train, batch_size: 6}
run: {device: cpu}
"""


class Yes:
    """Says yes to everything."""

    def generate(self, images: Tensor, prompts: list[str], *, max_new_tokens: int = 0, **how: Any) -> list[str]:
        assert images.shape[1:] == (3, 448, 448)
        return ["yes" for _ in prompts]

    def rank(self, images: Tensor, prompts: list[str], choices: list[list[str]]) -> list[list[int]]:
        raise AssertionError("nothing here is ranked")


def parse(tmp_path: Path, *words: str) -> Any:
    path = tmp_path / "eval.yaml"
    path.write_text(YAML)
    return command.make_parser("test").parse_args(["--cfg-path", str(path), *words])


def names(tmp_path: Path, dataset: str | None, script: str = "eval_vqa.py") -> list[str]:
    cfg = command.load_config(parse(tmp_path))
    return [benchmark.name for benchmark in command.choose(cfg, dataset, script)]


def test_without_names_a_script_evaluates_all_that_is_its_own(tmp_path):
    assert names(tmp_path, None) == ["seed", "hm"]
    assert names(tmp_path, None, "eval_ref.py") == ["refcocog_val", "refcocog_test"]
    assert names(tmp_path, "hm,seed,") == ["hm", "seed"]


def test_unknown_names_are_refused_all_at_once_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="sead") as error:
        names(tmp_path, "sead,hm,refcocog,gqa")
    assert "--dataset sead: evaluation_datasets has seed, hm, refcocog; did you mean 'seed'?" in str(error.value)
    assert "--dataset gqa: evaluation_datasets has seed, hm, refcocog" in str(error.value)
    assert "--dataset refcocog: eval_scripts/eval_ref.py evaluates it" in str(error.value)


def test_the_command_line_overrides_the_yaml(tmp_path):
    words = "--ckpt my.pth --lora_r 8 --lora_alpha 4 --batch_size 3 --max_new_tokens 5"
    cfg = command.load_config(parse(tmp_path, *words.split(), "--options", "run.save_path=there", "run.seed", "7"))
    assert (cfg.model_cfg.ckpt, cfg.model_cfg.lora_r, cfg.model_cfg.lora_alpha) == ("my.pth", 8, 4)
    assert [(e.batch_size, e.max_new_tokens) for e in cfg.evaluation_datasets_cfg.values()] == [(3, 5)] * 3
    assert (cfg.run_cfg.save_path, cfg.run_cfg.seed) == ("there", 7)


def test_the_yaml_holds_where_the_command_line_is_silent(tmp_path):
    cfg = command.load_config(parse(tmp_path))
    assert (cfg.model_cfg.ckpt, cfg.model_cfg.lora_r) == ("yaml.pth", 64)
    assert [e.batch_size for e in cfg.evaluation_datasets_cfg.values()] == [10, 10, 6]


def test_everything_that_is_missing_is_told_before_the_model_is_loaded(tmp_path, in_golden_data):
    def load(cfg: Any, device: torch.device, dtype: torch.dtype) -> Yes:
        raise AssertionError("the model was loaded")

    options = ["evaluation_datasets.seed.eval_file_path=nowhere.jsonl", "evaluation_datasets.hm.img_path=nowhere"]
    with pytest.raises(ValueError, match="files of the evaluation are missing") as error:
        command.evaluate(parse(tmp_path, "--options", *options), "eval_vqa.py", load)
    assert "seed: nowhere.jsonl does not exist (evaluation_datasets.seed.eval_file_path)" in str(error.value)
    assert "hm: 16 questions have no image (evaluation_datasets.hm.img_path)" in str(error.value)


def test_an_evaluation_prints_a_line_and_keeps_earlier_results(tmp_path, in_golden_data, capsys):
    (tmp_path / "results.json").write_text('{"vsr": {"accuracy": 61.0}, "hm": {"accuracy": 1.0}}')
    args = parse(tmp_path, "--dataset", "hm", "--options", f"run.save_path={tmp_path}")
    command.evaluate(args, "eval_vqa.py", lambda cfg, device, dtype: Yes())
    # 7 of the 16 rows of dev.jsonl are labelled 1
    assert capsys.readouterr().out.startswith("hm: 43.75% of 16 questions (0 unanswered, 0 do not parse), ")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["vsr"] == {"accuracy": 61.0}
    assert (results["hm"]["accuracy"], results["hm"]["num_questions"], results["hm"]["ckpt"]) == (43.75, 16, "yaml.pth")
    assert json.loads((tmp_path / "hm.json").read_text())[2] == {"pred": 1, "gt": 1}


def test_another_checkpoint_file_is_another_run(tmp_path):
    cfg = command.load_config(parse(tmp_path, "--ckpt", str(tmp_path / "my.pth")))
    seen = [command.settings_of(cfg)]
    for content in (b"old", b"newer"):
        (tmp_path / "my.pth").write_bytes(content)
        seen.append(command.settings_of(cfg))
    assert seen[0] != seen[1] != seen[2] != seen[0]
