from types import SimpleNamespace

import pytest

from minigpt4.common.config import Config
from minigpt4.common.registry import registry

YAML = """
model:
  arch: minigpt_v2
  lora_r: 8
datasets:
  gqa:
    batch_size: 6
    sample_ratio: 50
  coco_caption:
run:
  init_lr: 1e-5
  max_epoch: 3
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(YAML)
    return file


def mistakes(path, *options):
    with pytest.raises(ValueError) as error:
        Config.load(path, options)
    return str(error.value)


def test_options_override_the_yaml_and_the_yaml_overrides_the_defaults(path):
    cfg = Config(SimpleNamespace(cfg_path=str(path), options=["run.max_epoch=9"]))
    assert (cfg.run_cfg.weight_decay, cfg.run_cfg.init_lr, cfg.run_cfg.max_epoch) == (0.05, 1e-5, 9)
    assert (cfg.model_cfg.lora_r, cfg.model_cfg.lora_alpha) == (8, 16)


def test_options_are_taken_in_both_spellings(path):
    cfg = Config.load(path, ["run.seed", "7", "run.amp=false"])
    assert (cfg.run_cfg.seed, cfg.run_cfg.amp) == (7, False)


def test_a_dataset_in_one_line_gets_its_paths_and_processors(path):
    gqa = Config.load(path).to_dict()["datasets"]["gqa"]
    assert (gqa["batch_size"], gqa["sample_ratio"]) == (6, 50)
    assert gqa["build_info"]["images"]["storage"] == "./train_dataset/gqa/images"
    assert gqa["vis_processor"]["train"] == {"name": "blip2_image_train", "image_size": 448}
    assert gqa["text_processor"]["train"] == {"name": "blip_caption"}


def test_processors_that_name_no_image_size_take_the_models(path):
    merged = Config.load(path, ["model.image_size=336"]).to_dict()
    assert merged["datasets"]["gqa"]["vis_processor"]["train"]["image_size"] == 336


def test_a_dataset_without_a_body_takes_its_defaults(path):
    assert Config.load(path).datasets_cfg.coco_caption.batch_size == 1


def test_the_error_about_a_misspelt_option_names_the_nearest(path):
    assert "run.init_lrr: no such option; did you mean init_lr?" in mistakes(path, "run.init_lrr=1")


def test_the_error_about_a_wrong_type_names_the_option_and_the_type(path):
    assert "run.max_epoch: expected int, got 'ten'" in mistakes(path, "run.max_epoch=ten")


@pytest.mark.parametrize(("key", "lowest"), [("keep_last", 1), ("save_every_steps", 1), ("max_skipped_steps", 0)])
def test_a_number_that_would_delete_or_divide_by_nothing_is_refused(path, key, lowest):
    message = f"run.{key}: expected at least {lowest}, got {lowest - 1}"
    assert message in mistakes(path, f"run.{key}={lowest - 1}")
    assert Config.load(path, [f"run.{key}={lowest}"]).run_cfg[key] == lowest


def test_all_mistakes_are_reported_at_once(path):
    message = mistakes(
        path,
        "run.init_lrr=1",
        "run.max_epoch=0",
        "model.lora_rr=4",
        "model.vit.depht=2",
        "datasets.gqaa.batch_size=1",
        "datasets.gqa.batch_size=many",
        "datasets.gqa.vis_processor.train.img_size=1",
        "evaluation_datasets.sead.batch_size=1",
        "rum.seed=1",
    )
    for expected in (
        "rum: no such option; did you mean run?",
        "run.init_lrr: no such option; did you mean init_lr?",
        "run.max_epoch: expected at least 1, got 0",
        "model.lora_rr: no such option; did you mean lora_r?",
        "model.vit.depht: no such option; did you mean depth?",
        "no builder is registered as 'gqaa'; did you mean 'gqa'?",
        "datasets.gqa.batch_size: expected int, got 'many'",
        "datasets.gqa.vis_processor.train.img_size: no such option; did you mean image_size?",
        "evaluation_datasets.sead: no such benchmark; did you mean 'seed'?",
    ):
        assert expected in message


def test_an_option_without_a_value_is_refused(path):
    with pytest.raises(ValueError, match=r"'run\.seed' has no value"):
        Config.load(path, ["run.seed"])


def test_the_error_about_a_missing_file_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*nowhere\.yaml: No such file"):
        Config.load(tmp_path / "nowhere.yaml")


def test_the_error_about_wrong_yaml_names_the_file_and_the_line(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("run:\n  seed: [1\nmodel: 3\n")
    with pytest.raises(ValueError, match=r"(?s)bad\.yaml.*line 3"):
        Config.load(bad)


def test_an_option_given_twice_in_the_yaml_is_refused(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("run:\n  seed: 1\n  seed: 2\n")
    with pytest.raises(ValueError, match="duplicate key seed"):
        Config.load(bad)


def test_a_section_that_is_not_a_mapping_is_refused(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("run: 3\ndatasets: [gqa]\n")
    message = mistakes(bad)
    assert "run: expected options, got 3" in message
    assert "datasets: expected names with their options, got ['gqa']" in message


def test_an_option_that_puts_a_list_where_a_section_is_is_refused(path):
    assert "--options datasets=[gqa]" in mistakes(path, "datasets=[gqa]")


def test_the_config_as_plain_containers_loads_back_to_the_same(path, tmp_path):
    import yaml

    plain = Config.load(path).to_dict()
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(plain))
    assert Config.load(again).to_dict() == plain


def test_a_model_that_a_user_registered_is_named_by_its_arch(path, tmp_path):
    """Its class names the YAML of its defaults, which the user's file overrides."""
    defaults = tmp_path / "mine.yaml"
    defaults.write_text(
        "model: {lora_alpha: 99, lora_r: 5}\n"
        "preprocess:\n"
        "  vis_processor: {train: {name: blip2_image_eval}}\n"
        "  text_processor: {train: {name: blip_caption}}\n"
    )
    registry.register_model("test_config_with_yaml")(type("Mine", (), {"DEFAULT_CONFIG": str(defaults)}))
    cfg = Config.load(path, ["model.arch=test_config_with_yaml"])
    assert (cfg.model_cfg.arch, cfg.model_cfg.lora_alpha, cfg.model_cfg.lora_r) == ("test_config_with_yaml", 99, 8)
    assert cfg.datasets_cfg.gqa.vis_processor.train.name == "blip2_image_eval"


def test_a_registered_model_without_a_yaml_has_the_defaults_of_the_schema(path):
    registry.register_model("test_config_without_yaml")(type("Bare", (), {}))
    cfg = Config.load(path, ["model.arch=test_config_without_yaml"])
    assert (cfg.model_cfg.lora_alpha, cfg.model_cfg.lora_r) == (16, 8)
    assert cfg.preprocess_cfg.vis_processor.train is None


def test_the_error_about_an_unknown_model_names_the_nearest(path):
    said = mistakes(path, "model.arch=minigpt_v3", "run.max_epoch=ten")
    assert "model.arch: no model is registered as 'minigpt_v3'; did you mean 'minigpt_v2'?" in said
    assert "run.max_epoch: expected int" in said


@pytest.mark.parametrize("splits", ["[val]", "[train,val]", "[]"])
def test_other_splits_to_train_on_are_refused_by_name(path, splits):
    assert "run.train_splits: expected [train]" in mistakes(path, f"run.train_splits={splits}")
