"""What `--help-options` and docs/options.md say of the options."""

import re

import pytest

from minigpt4.cli import main
from minigpt4.common.option_help import described, help_text
from minigpt4.common.registry import registry
from minigpt4.common.schema import SECTIONS
from tools.write_options import PAGE, page

ALL = [one for section in SECTIONS for one in described(section)]


def test_the_page_of_options_is_current():
    assert PAGE.read_text(encoding="utf-8") == page(), "run python -m tools.write_options"


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.paths[0])
def test_every_option_has_a_help_of_whole_sentences(one):
    assert re.fullmatch(r"([A-Z`]|as_seen: |fp32 |float8, ).*\.", one.help), one.help
    assert all(len(sentence.split()) <= 25 for sentence in one.help.split(". ")), one.help


def test_every_section_has_options():
    paths = {path for one in ALL for path in one.paths}
    assert {"run.seed", "model.vit.depth", "datasets.NAME.build_info.annotations.val.storage"} <= paths
    assert {"preprocess.vis_processor.eval.std", "evaluation_datasets.NAME.only_ids"} <= paths
    assert len(paths) == sum(len(one.paths) for one in ALL)


def test_an_option_is_one_line_with_its_help_below():
    titles, first, help_of_first = help_text(["run"], "run.beta2").splitlines()
    assert titles.split() == ["OPTION", "TYPE", "DEFAULT", "RANGE"]
    assert first.split(maxsplit=3) == ["run.beta2", "float", "0.999", "at least 0, less than 1"]
    assert help_of_first == "    Second beta of AdamW; the first is 0.9."


def test_an_option_of_several_places_is_shown_once():
    lines = help_text(["datasets"], "text_processor.eval.max_words").splitlines()
    assert lines[1].split()[0] == "datasets.NAME.{vis_processor,text_processor}.{train,eval}.max_words"
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("option", "cells"),
    [
        ("run.job_id", "str or null unset"),
        ("run.compile", "list[str] [] vit, llm"),
        ("run.lr_sched", "str linear_warmup_cosine_lr any registered lr_scheduler"),
        ("run.device", "str cuda cuda, cuda:0, cpu"),
        ("run.amp ", "bool true"),
        ("model.vit_options", "dict[str, Any] {}"),
        ("model.model_type", "str pretrain"),
        ("evaluation_datasets.NAME.eval_file_path", "str required"),
        ("preprocess.vis_processor.train.std", "list[float] or null unset 3 numbers, more than 0"),
        ("datasets.NAME.build_info.images.url", "a path or a list of paths unset"),
    ],
)
def test_a_line_has_type_default_and_range(option, cells):
    line = help_text(list(SECTIONS), option).splitlines()[1]
    assert " ".join(line.split()[1:]) == cells


def test_names_that_a_plugin_may_add_are_not_listed():
    names = {name for kind in ("lr_scheduler", "processor", "vision_tower") for name in registry.names(kind)}
    assert not names & {word for one in ALL for word in one.cells()[3].split(", ")}


@pytest.mark.parametrize(
    ("command", "has", "lacks"), [("train", "datasets.", "evaluation_datasets."), ("eval", "only_ids", "sample_ratio")]
)
def test_a_command_lists_the_options_that_it_reads(capsys, command, has, lacks):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help-options"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "\nrun.max_epoch " in said and has in said and lacks not in said


def test_a_text_chooses_options_by_name_and_by_help(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help-options", "LoRA"])
    names = re.findall(r"^(\S+\.\S+)", capsys.readouterr().out, re.MULTILINE)
    assert {"model.lora_r", "model.lora_target_modules", "model.allow_mismatch"} <= set(names)
    assert "run.seed" not in names
    assert help_text(["run"], "nonsense") == "no option has 'nonsense' in its name or its help"
