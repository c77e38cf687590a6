import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minigpt4.cli import COMMANDS
from minigpt4.cli.evaluation import evaluate, load_config
from minigpt4.common.user_errors import plain_errors
from minigpt4.evaluation.evaluator import choose
from minigpt4.evaluation.results import settings_of

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

    def merged(self) -> AbstractContextManager[None]:
        return nullcontext()

    def encode_images(self, images: Tensor) -> Tensor:
        assert images.shape[1:] == (3, 448, 448)
        return images

    def generate(self, images: Tensor, prompts: list[str], **how: Any) -> list[str]:
        return ["yes" for _ in prompts]

    def rank(self, images: Tensor, prompts: list[str], choices: list[list[str]], **how: Any) -> list[list[int]]:
        raise AssertionError("nothing here is ranked")


def parse(tmp_path: Path, *words: str) -> Any:
    path = tmp_path / "eval.yaml"
    path.write_text(YAML)
    return COMMANDS["eval"].parser("test").parse_args(["--cfg-path", str(path), *words])


def names(tmp_path: Path, dataset: str | None, script: str = "eval_vqa.py") -> list[str]:
    cfg = load_config(parse(tmp_path))
    names = [name for name in (dataset or "").split(",") if name]
    return [benchmark.name for benchmark in choose(cfg, names, script=script, option="--dataset")]


def test_without_names_a_script_evaluates_all_that_is_its_own(tmp_path):
    assert names(tmp_path, None) == ["seed", "hm"]
    assert names(tmp_path, None, "eval_ref.py") == ["refcocog_val", "refcocog_test"]
    assert names(tmp_path, "hm,seed,") == ["hm", "seed"]


def test_unknown_names_are_refused_all_at_once_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="sead") as error:
        names(tmp_path, "sead,hm,refcocog,gqa")
    assert "--dataset sead: evaluation_datasets has seed, hm, refcocog; did you mean 'seed'?" in str(error.value)
    assert "--dataset gqa: evaluation_datasets has seed, hm, refcocog\n" in str(error.value)
    assert "--dataset refcocog: eval_scripts/eval_ref.py evaluates it" in str(error.value)


def test_the_command_line_overrides_the_yaml(tmp_path):
    words = "--ckpt my.pth --lora_r 8 --lora_alpha 4 --batch_size 3 --max_new_tokens 5"
    cfg = load_config(parse(tmp_path, *words.split(), "--options", "run.save_path=there", "run.seed", "7"))
    assert (cfg.model_cfg.ckpt, cfg.model_cfg.lora_r, cfg.model_cfg.lora_alpha) == ("my.pth", 8, 4)
    assert [(e.batch_size, e.max_new_tokens) for e in cfg.evaluation_datasets_cfg.values()] == [(3, 5)] * 3
    assert (cfg.run_cfg.save_path, cfg.run_cfg.seed) == ("there", 7)


def test_the_yaml_holds_where_the_command_line_is_silent(tmp_path):
    cfg = load_config(parse(tmp_path))
    assert (cfg.model_cfg.ckpt, cfg.model_cfg.lora_r) == ("yaml.pth", 64)
    assert [e.batch_size for e in cfg.evaluation_datasets_cfg.values()] == [10, 10, 6]


def test_everything_that_is_missing_is_told_before_the_model_is_loaded(tmp_path, in_golden_data):
    def load(cfg: Any, device: torch.device, dtype: torch.dtype) -> Yes:
        raise AssertionError("the model was loaded")

    options = ["evaluation_datasets.seed.eval_file_path=nowhere.jsonl", "evaluation_datasets.hm.img_path=nowhere"]
    with pytest.raises(ValueError, match="the evaluation cannot start") as error:
        evaluate(parse(tmp_path, "--options", *options), "eval_vqa.py", load)
    assert "seed: nowhere.jsonl does not exist (evaluation_datasets.seed.eval_file_path)" in str(error.value)
    assert "hm: 16 questions have no image (evaluation_datasets.hm.img_path)" in str(error.value)


def test_an_evaluation_prints_a_line_and_keeps_earlier_results(tmp_path, in_golden_data, capsys):
    (tmp_path / "results.json").write_text('{"vsr": {"accuracy": 61.0}, "hm": {"accuracy": 1.0}}')
    args = parse(tmp_path, "--dataset", "hm", "--options", f"run.save_path={tmp_path}")
    evaluate(args, "eval_vqa.py", lambda cfg, device, dtype: Yes())
    # 7 of the 16 rows of dev.jsonl are labelled 1
    out = capsys.readouterr().out
    assert out.startswith("hm: 43.75% (23.10 .. 66.82) of 16 questions (0 unanswered, 0 do not parse), ")
    assert "| hm        | 43.75    | 23.10 .. 66.82 | 16        | 0          | 0            | " in out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["vsr"] == {"accuracy": 61.0}
    assert (results["hm"]["accuracy"], results["hm"]["num_questions"], results["hm"]["ckpt"]) == (43.75, 16, "yaml.pth")
    assert json.loads((tmp_path / "hm.json").read_text())[2] == {"pred": 1, "gt": 1}


def test_another_checkpoint_file_is_another_run(tmp_path):
    cfg = load_config(parse(tmp_path, "--ckpt", str(tmp_path / "my.pth")))
    seen = [settings_of(cfg)]
    for content in (b"old", b"newer"):
        (tmp_path / "my.pth").write_bytes(content)
        seen.append(settings_of(cfg))
    assert seen[0] != seen[1] != seen[2] != seen[0]


def load_yes(cfg: Any, device: torch.device, dtype: torch.dtype) -> Yes:
    return Yes()


def load_nothing(cfg: Any, device: torch.device, dtype: torch.dtype) -> Yes:
    raise AssertionError("the model was loaded")


def test_asking_and_scoring_apart_give_what_one_run_gives(tmp_path, in_golden_data, capsys):
    found = []
    for folder, steps in (("once", [None]), ("apart", ["infer", "score"])):
        words = ["--dataset", "seed,hm", "--options", f"run.save_path={tmp_path / folder}"]
        for step in steps:
            args = parse(tmp_path, *words, *(["--only", step] if step else []))
            capsys.readouterr()
            evaluate(args, "eval_vqa.py", load_nothing if step == "score" else load_yes)
            if step == "infer":
                assert capsys.readouterr().out == ""
                assert "accuracy" not in json.loads((tmp_path / folder / "results.json").read_text())["hm"]
        results = json.loads((tmp_path / folder / "results.json").read_text())
        found.append({name: {**facts, "seconds": 0} for name, facts in results.items()})
    assert found[0] == found[1]
    assert found[0]["seed"]["published"] == {"baseline": 49.21, "engine": 63.83} and "published" not in found[0]["hm"]
    for name in ("seed.jsonl", "hm.json", "wrong.jsonl", "report.html"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "apart" / name).read_bytes()


def test_scoring_alone_names_every_result_file_that_is_not_there(tmp_path, in_golden_data):
    words = ["--only", "score", "--dataset", "seed,hm", "--options", f"run.save_path={tmp_path}"]
    with pytest.raises(ValueError, match=r"seed: .*seed.jsonl does not exist .run.save_path.\n .*hm.json does not"):
        evaluate(parse(tmp_path, *words), "eval_vqa.py", load_nothing)


def test_another_tools_file_is_scored_without_the_provenance_of_ours(tmp_path, in_golden_data):
    words = ["--dataset", "hm", "--options", f"run.save_path={tmp_path}"]
    evaluate(parse(tmp_path, *words), "eval_vqa.py", load_yes)
    entries = json.loads((tmp_path / "hm.json").read_text())
    (tmp_path / "hm.json").write_text(json.dumps([{**entry, "pred": 0} for entry in entries]))
    evaluate(parse(tmp_path, "--only", "score", *words), "eval_vqa.py", load_nothing)
    facts = json.loads((tmp_path / "results.json").read_text())["hm"]
    assert facts["accuracy"] == 56.25
    assert "seconds" not in facts and "ckpt" not in facts


def test_a_result_says_what_it_was_made_with(tmp_path, in_golden_data):
    (tmp_path / "my.pth").write_bytes(b"weights")
    words = ["--dataset", "hm", "--ckpt", str(tmp_path / "my.pth"), "--options", f"run.save_path={tmp_path}"]
    evaluate(parse(tmp_path, *words), "eval_vqa.py", load_yes)
    facts = json.loads((tmp_path / "results.json").read_text())["hm"]
    assert facts["ckpt_sha256"] == "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert facts["prompt_template"] == "<s>[INST] <Img><ImageHere></Img> {} [/INST]"
    assert facts["first_prompt"].startswith("<s>[INST] <Img><ImageHere></Img> This is an image writting 'when")
    assert facts["decoding"] == {
        **{"do_sample": False, "num_beams": 1, "max_new_tokens": 20, "batch_size": 10, "num_tries": 0},
        **{"seed": 42, "dtype": "float32"},
    }
    assert (facts["device"], facts["num_processes"], facts["versions"]["torch"]) == ("cpu", 1, torch.__version__)


class Counting(Yes):
    """Counts what it is asked; dies at the first question with a tag where `dies` says so."""

    def __init__(self, *, dies: bool) -> None:
        self.dies = dies
        self.asked: list[str] = []

    def generate(self, images: Tensor, prompts: list[str], **how: Any) -> list[str]:
        if self.dies and "[vqa]" in prompts[0]:
            raise RuntimeError("out of memory")
        self.asked += prompts
        return super().generate(images, prompts)


def test_benchmarks_that_a_run_finished_before_it_died_are_not_asked_again(tmp_path, in_golden_data):
    first, second = Counting(dies=True), Counting(dies=False)
    args = parse(tmp_path, "--dataset", "hm,seed", "--options", f"run.save_path={tmp_path}")
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(args, "eval_vqa.py", lambda *_: first)
    evaluate(args, "eval_vqa.py", lambda *_: second)
    assert (len(first.asked), len(second.asked)) == (16, 30)
    assert not (tmp_path / "parts").exists()


class Mismatched(Counting):
    """Loaded a checkpoint that another model trained, which the user allowed."""

    mismatches = ("x.pth was trained with model.lora_alpha=64, this run has 16",)


def test_questions_and_results_have_the_models_own_template_and_what_was_allowed(tmp_path, in_golden_data):
    model, template = Mismatched(dies=False), "model.prompt_template='USER: {} ASSISTANT:'"
    args = parse(tmp_path, "--dataset", "hm", "--options", f"run.save_path={tmp_path}", template)
    evaluate(args, "eval_vqa.py", lambda *_: model)
    start, end = "<s>USER: <Img><ImageHere></Img> This is an image", "yes or no. Answer: ASSISTANT:"
    assert all(prompt.startswith(start) and prompt.endswith(end) for prompt in model.asked)
    facts = json.loads((tmp_path / "results.json").read_text())["hm"]
    assert facts["prompt_template"] == "<s>USER: <Img><ImageHere></Img> {} ASSISTANT:"
    assert facts["first_prompt"].startswith(start)
    assert facts["mismatches"] == list(Mismatched.mismatches)


@pytest.mark.parametrize("section", ["", "evaluation_datasets:\n", "evaluation_datasets: {}\n", None])
def test_a_script_with_nothing_to_evaluate_says_so_before_the_model_is_loaded(tmp_path, section):
    section = "evaluation_datasets: {hm: {eval_file_path: a.json}}\n" if section is None else section
    (tmp_path / "none.yaml").write_text("model: {arch: minigpt_v2}\n" + section + "run: {device: cpu}\n")
    args = COMMANDS["eval"].parser("test").parse_args(["--cfg-path", str(tmp_path / "none.yaml")])
    with pytest.raises(ValueError, match=r"^evaluation_datasets lists none of refcoco, refcoco\+, refcocog$"):
        evaluate(args, "eval_ref.py", load_nothing)


def test_a_script_ends_with_one_line_and_code_1_where_there_is_nothing_to_evaluate(capsys):
    with pytest.raises(SystemExit) as error, plain_errors("eval_ref.py"):
        raise ValueError("evaluation_datasets lists none of refcoco")
    assert error.value.code == "eval_ref.py: evaluation_datasets lists none of refcoco"  # printed, with code 1
