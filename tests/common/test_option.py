"""Loading a config finds all values out of range, before anything else is loaded."""

import dataclasses
from types import SimpleNamespace

import pytest

from minigpt4.common import schema
from minigpt4.common.config import Config

YAML = """
model: {lora_r: 8}
datasets:
  mine: {type: custom, build_info: {ann_path: a.json}, batch_size: 2, sample_ratio: 1}
  other: {type: custom, build_info: {ann_path: a.json}, sample_ratio: 0}
evaluation_datasets:
  gqa: {eval_file_path: a.json}
run: {device: cpu}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text(YAML)
    return file


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("datasets.mine.batch_size=0", "datasets.mine.batch_size: expected at least 1, got 0"),
        ("datasets.mine.sample_ratio=-1", "datasets.mine.sample_ratio: expected at least 0, got -1.0"),
        ("datasets.mine.sample_ratio=nan", "datasets.mine.sample_ratio: expected a finite number, got nan"),
        ("datasets.mine.sample_ratio=.inf", "datasets.mine.sample_ratio: expected a finite number, got inf"),
        ("datasets.mine.sample_ratio=0", "datasets: at least one sample_ratio should be above 0"),
        ("run.device=gpu", "run.device: torch knows no device 'gpu'; did you mean 'cuda'? (cuda, cuda:0, cpu)"),
        ("run.device=", "run.device: expected str, got None"),
        ("run.device=meta", "run.device: a meta device computes nothing; expected cuda, cuda:0 or cpu"),
        ("run.init_lr=1e999", "run.init_lr: expected a finite number, got inf"),
        ("run.beta2=1", "run.beta2: expected less than 1, got 1.0"),
        ("run.lr_decay_rate=-1", "run.lr_decay_rate: expected at least 0, got -1.0"),
        ("run.seed=9223372036854775808", "run.seed: expected at most 9223372036854775807, got a number of 64 bits"),
        ("run.lr_sched=cosine", "run.lr_sched: no lr_scheduler is registered as 'cosine' (there are linear_warmup_"),
        ("run.task=caption", "run.task: no task is registered as 'caption' (there are image_text_pretrain)"),
        ("run.runner=base", "run.runner: no runner is registered as 'base' (there are runner_base)"),
        ("run.strategy=dpp", "run.strategy: expected one of ddp, fsdp, got 'dpp'; did you mean 'ddp'?"),
        ("run.compile=[vit, lm]", "run.compile: expected one of vit, llm, got 'lm'; did you mean 'llm'?"),
        ("model.lora_r=-1", "model.lora_r: expected at least 0, got -1"),
        ("model.lora_alpha=0", "model.lora_alpha: expected at least 1, got 0"),
        ("model.lora_dropout=1.5", "model.lora_dropout: expected at most 1, got 1.5"),
        ("model.lora_target_modules=[q_prj]", "Llama has no layer 'q_prj'; did you mean 'q_proj'?"),
        ("model.lora_target_modules=[]", "model.lora_target_modules: expected at least one layer, got none"),
        ("model.image_size=450", "model.image_size: expected a multiple of 28, two patches of model.vit, got 450"),
        ("model.vit.num_heads=3", "model.vit.embed_dim: expected a multiple of num_heads, 3, got 1408"),
        ("model.vit.patch_size=0", "model.vit.patch_size: expected at least 1, got 0"),
        ("model.vit_precision=fp23", "model.vit_precision: expected one of fp16, bf16, fp32, got 'fp23'"),
        ("model.max_txt_len=0", "model.max_txt_len: expected at least 1, got 0"),
        ("model.prompt_template=hello", "model.prompt_template: 'hello' has no {} where the question goes"),
        ("model.prompt_template={} {x}", "model.prompt_template: '{} {x}' cannot be filled in: KeyError 'x'"),
        ("evaluation_datasets.gqa.batch_size=0", "evaluation_datasets.gqa.batch_size: expected at least 1, got 0"),
        ("evaluation_datasets.gqa.max_new_tokens=-3", "gqa.max_new_tokens: expected at least 1, got -3"),
        (
            "preprocess.vis_processor.train.image_size=0",
            "preprocess.vis_processor.train.image_size: expected at least 1, got 0",
        ),
        (
            "datasets.mine.vis_processor.train={name: nix}",
            "datasets.mine.vis_processor.train.name: no processor is registered as 'nix'",
        ),
        (
            "datasets.mine.vis_processor.train={name: blip2_image_train, mean: [0]}",
            "datasets.mine.vis_processor.train.mean: expected 3 numbers, got 1",
        ),
    ],
)
def test_a_value_out_of_range_is_an_error_of_one_line(path, option, message):
    with pytest.raises(ValueError) as error:
        Config.load(path, [option])
    first, *more = str(error.value).split("\n")
    assert first.startswith(f"{path}: these options are wrong:")
    assert message in str(error.value)
    assert more == [] or option.startswith("preprocess")  # the datasets take its processors, and the mistake with them


def test_a_dataset_of_a_mixture_may_have_the_ratio_0(path):
    assert Config.load(path).datasets_cfg.other.sample_ratio == 0


def test_values_out_of_range_come_together_with_all_other_mistakes(path):
    options = ["run.init_lrr=1", "datasets.mine.batch_size=0", "run.amp=maybe", "model.lora_r=-3"]
    with pytest.raises(ValueError) as error:
        Config.load(path, options)
    assert str(error.value).split("\n  ") == [
        f"{path}: these options are wrong:",
        "run.init_lrr: no such option; did you mean init_lr?",
        "run.amp: expected bool, got 'maybe'",
        "model.lora_r: expected at least 0, got -3",
        "datasets.mine.batch_size: expected at least 1, got 0",
    ]


def test_values_that_a_command_line_sets_later_are_checked_too(path):
    from minigpt4.cli.evaluation import load_config

    words = {"ckpt": None, "lora_r": -1, "lora_alpha": None, "batch_size": 0, "max_new_tokens": None}
    with pytest.raises(ValueError) as error:
        load_config(SimpleNamespace(cfg_path=str(path), options=[], **words))
    assert "model.lora_r: expected at least 0, got -1" in str(error.value)
    assert "evaluation_datasets.gqa.batch_size: expected at least 1, got 0" in str(error.value)


def test_every_default_of_the_schema_lies_in_its_range(path):
    Config.load(path)
    for cls in (schema.RunConfig, schema.ModelConfig, schema.VitSize, schema.DatasetConfig):
        for field in dataclasses.fields(cls):
            if isinstance(field.default, int | float) and "at_least" in field.metadata:
                assert field.default >= field.metadata["at_least"], field.name


def test_layers_and_patches_of_a_plugins_part_are_not_compared_with_those_of_llama_and_eva(path):
    from minigpt4.common.registry import registry
    from minigpt4.models.language.language_model import LanguageModel
    from minigpt4.models.vision.vision_tower import VisionTower

    methods = dict.fromkeys(("encode", "count_patches", "from_config"))
    registry.register_language_model("test_option_family")(type("Family", (LanguageModel,), {}))
    registry.register_vision_tower("test_option_tower")(type("Tower", (VisionTower,), methods))
    cfg = Config.load(path, ["model.language_model=test_option_family", "model.lora_target_modules=[c_attn]"])
    assert cfg.model_cfg.lora_target_modules == ["c_attn"]
    assert Config.load(path, ["model.vit_model=test_option_tower", "model.image_size=400"]).model_cfg.image_size == 400
