"""`minigpt4 COMMAND`: what each command does, in this process."""

import json
import re
import subprocess
import sys

import pytest
import yaml

import minigpt4
from minigpt4.cli import COMMANDS, main
from tests.old_folders import OLD, ROOT, copy_of_old
from tests.runners.tiny import DATA, environment, log_lines, tiny_config, write_config
from tools.make_old_run import ANSWERS


@pytest.fixture
def old(tmp_path, monkeypatch):
    """Work in a copy of the folders that an earlier version wrote; return it."""
    folder = copy_of_old(tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def in_data(monkeypatch):
    monkeypatch.chdir(DATA)


def said_by(capsys, *words):
    """Run a command to its end; return its exit code and what it printed."""
    try:
        code = main(words)
    except SystemExit as end:
        code = end.code
    printed = capsys.readouterr()
    return code, printed.err + printed.out


def test_help_lists_every_command(capsys):
    code, said = said_by(capsys, "--help")
    assert code == 0
    names = re.findall(r"^  (\w+) ", said, re.MULTILINE)
    assert names == ["train", "check", "preview", "eval", "convert", "chat", "export", "report", "demo", "env"]


def test_without_a_command_the_help_is_shown_and_the_exit_code_says_that_nothing_ran(capsys):
    code, said = said_by(capsys)
    assert code == 2 and "usage: minigpt4" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_shows_an_example(capsys, name):
    code, said = said_by(capsys, name, "--help")
    assert code == 0
    assert f"minigpt4 {name}" in said.partition("example")[2], said


@pytest.mark.parametrize(
    "words",
    [
        *(["--help"], ["--version"], ["trian"], ["train", "--help"], ["eval", "--help"], ["convert", "seed", "-h"]),
        *(["train", "--help-options"], ["eval", "--help-options", "batch"]),
    ],
)
def test_help_and_mistakes_do_not_wait_for_pytorch(words):
    code = "import sys; from minigpt4.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print(sorted({'torch', 'transformers', 'omegaconf', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code, *words], env=environment(), capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_an_unknown_command_names_the_nearest_one(capsys):
    code, said = said_by(capsys, "trian", "--cfg-path", "x.yaml")
    assert code == 2
    assert said.startswith("minigpt4: no such command: trian; did you mean 'train'? (there are train, check, ")


def test_the_version_is_that_of_the_package(capsys):
    assert said_by(capsys, "--version") == (0, f"minigpt4 {minigpt4.__version__}\n")
    assert re.fullmatch(r"\d+\.\d+\.\d+", minigpt4.__version__)


def test_env_prints_versions_and_devices(capsys):
    import torch

    code, said = said_by(capsys, "env")
    facts = dict(line.split(maxsplit=1) for line in said.splitlines())
    assert code == 0
    assert (facts["minigpt4"], facts["torch"]) == (minigpt4.__version__, torch.__version__.partition("+")[0])
    assert {"python", "system", "transformers", "peft", "timm", "bitsandbytes", "cpu", "cuda", "gpu"} <= set(facts)


def test_train_check_and_preview_of_one_file(tmp_path, capsys, in_data):
    path = str(write_config(tmp_path, tiny_config(max_epoch=1, iters_per_epoch=2, output_dir=str(tmp_path / "out"))))
    code, said = said_by(capsys, "check", "--full", "--cfg-path", path)
    assert (code, said.splitlines()[-1]) == (0, "training could start")
    assert said_by(capsys, "train", "--check", "full", "--cfg-path", path)[1].splitlines()[-1] == said.splitlines()[-1]
    code, said = said_by(capsys, "preview", "1", "--cfg-path", path)
    assert code == 0 and "preview.html" in said.splitlines()[-1]
    code, said = said_by(capsys, "train", "--cfg-path", path, "--options", "run.job_id=job")
    assert code == 0, said
    assert [line["step"] for line in log_lines(tmp_path)] == [0, 1]


def test_check_ends_with_1_where_training_could_not_start(tmp_path, capsys, in_data):
    path = str(write_config(tmp_path, tiny_config()))
    missing = "datasets.gqa.build_info.annotations.train.storage=[nowhere.json]"
    code, said = said_by(capsys, "check", "--cfg-path", path, "--options", missing)
    assert code == 1 and "nowhere.json" in said


@pytest.mark.parametrize("name", ["train", "check", "eval", "chat"])
def test_a_mistake_in_the_yaml_ends_a_command_in_one_line(tmp_path, capsys, name):
    path = str(write_config(tmp_path, {"model": {"arch": "minigpt_v2"}, "run": {"max_epok": 1}}))
    code, _ = said_by(capsys, name, "--cfg-path", path)
    assert "run.max_epok: no such option; did you mean max_epoch?" in code and "\n" not in code
    assert code.startswith(f"minigpt4 {name}: " if name != "chat" else "chat: ")


def test_eval_answers_every_benchmark_as_the_two_scripts_do(old, capsys):
    words = ["--ckpt", "output/finished/checkpoint_1.pth", "--batch_size", "2", "--max_new_tokens", "6", "--resample"]
    code, said = said_by(capsys, "eval", "--cfg-path", "eval.yaml", *words)
    assert code == 0 and "refcocog_test: " in said and "seed: " in said
    for name in ANSWERS:
        assert (old / "evaluation_results" / name).read_text() == (OLD / "expected" / name).read_text(), name
    facts = json.loads((old / "evaluation_results/results.json").read_text())
    assert [facts[name]["decoding"]["num_tries"] for name in ("seed", "refcocog_val")] == [0, 5]


def test_report_writes_the_page_of_a_run_and_of_an_evaluation(old, capsys):
    for folder in ("output/finished", "output/half", "evaluation_results/finished", "evaluation_results/half"):
        assert not (old / folder / "report.html").exists()
        assert said_by(capsys, "report", folder) == (0, f"wrote {folder}/report.html\n")
        assert "</html>" in (old / folder / "report.html").read_text()


def test_report_of_another_folder_says_what_it_lacks(tmp_path, capsys):
    code, said = said_by(capsys, "report", str(tmp_path))
    assert code.startswith(f"minigpt4 report: {tmp_path} has neither metrics.jsonl, ") and said == ""


def test_convert_prints_and_writes_what_the_published_scripts_do(old, tmp_path, capsys):
    files = ["--annotation-file", str(DATA / "evaluation_dataset/seed/SEED-Bench-image.json")]
    files += ["--result-file", str(OLD / "expected/seed.jsonl")]
    code, said = said_by(capsys, "convert", "seed", *files)
    assert code == 0 and re.search(r"^Total accuracy: \d+\.\d+%$", said, re.MULTILINE)
    assert said_by(capsys, "convert", "seed", "--validate", *files)[0] == 0
    code, said = said_by(capsys, "convert", "mmbench", *files)
    missing = "the following arguments are required: --output-file (or --validate)"
    assert (code, said) == (2, f"minigpt4 convert: error: {missing}\n")


def test_torchrun_starts_the_command_line_as_a_module(tmp_path):
    config = tiny_config(max_epoch=1, iters_per_epoch=2, output_dir=str(tmp_path / "out"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = [*launcher, "-m", "minigpt4.cli", "train", "--cfg-path", str(write_config(tmp_path, config))]
    done = subprocess.run(words, cwd=DATA, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/job/run.json").read_text())["world_size"] == 2


def test_the_entry_point_is_the_command_line():
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^\[project.scripts\]\nminigpt4 = "minigpt4.cli:main"$', text, re.MULTILINE)


@pytest.mark.parametrize("name", ["minigptv2_finetune_dataengine", "train_configs/minigptv2_finetune_dataengine.yaml"])
def test_a_shipped_file_is_found_by_name_from_any_folder(tmp_path, monkeypatch, name):
    from minigpt4.common.config import Config

    monkeypatch.chdir(tmp_path)
    expected = yaml.safe_load((ROOT / "train_configs/minigptv2_finetune_dataengine.yaml").read_text())
    assert list(Config.load(name).datasets_cfg) == list(expected["datasets"])


def test_a_file_of_the_user_wins_over_a_shipped_one_of_the_same_name(tmp_path, monkeypatch):
    from minigpt4.common.config import Config

    monkeypatch.chdir(tmp_path)
    (tmp_path / "minigptv2_eval").write_text("model: {arch: minigpt_v2, lora_r: 3}\nrun: {device: cpu}\n")
    assert Config.load("minigptv2_eval").model_cfg.lora_r == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minigptv2_finetun", "the package ships no YAML file of this name; did you mean 'minigptv2_finetune'?"),
        ("sample_world", "names two files that the package ships: train_configs/sample_world and eval_configs/"),
        ("nowhere/mine.yaml", "cannot read nowhere/mine.yaml: No such file"),
    ],
)
def test_a_name_that_no_file_has_is_refused_with_the_names_that_there_are(tmp_path, monkeypatch, name, message):
    from minigpt4.common.config import Config

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        Config.load(name)
