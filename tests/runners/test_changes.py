"""Which options differ between a checkpoint's config and a run's, and which of them make it another run."""

import copy
import json

import pytest

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.models.language.language_model import LanguageModel
from minigpt4.runners.resuming import changed_options, num_rows_of
from tests.conversation.small_families import CHATML
from tests.runners.tiny import ROOT, tiny_config, write_config

ROWS = {"gqa": 9, "engine_mc": 8, "textcaps_caption": 7}


@pytest.fixture
def saved(tmp_path):
    return Config.load(write_config(tmp_path, tiny_config())).to_dict()


def changes(saved, now, rows_before=ROWS, rows_now=ROWS):
    return changed_options(saved, now, rows_before=rows_before, rows_now=rows_now)


def set_at(config, path, value):
    changed = copy.deepcopy(config)
    *above, key = path.split(".")
    node = changed
    for name in above:
        node = node[name]
    node[key] = value
    return changed


def test_a_config_does_not_differ_from_itself(saved):
    assert changes(saved, copy.deepcopy(saved)) == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("run.seed", 7),
        ("run.accum_grad_iters", 4),
        ("model.lora_r", 8),
        ("model.lora_alpha", 32),
        ("model.lora_target_modules", ["q_proj", "k_proj"]),
        ("model.image_size", 112),
        ("model.end_sym", "###"),
        ("model.chat_template", False),
        ("model.prompt_template", "{}"),
        ("model.arch", "mine"),
        ("model.vit.depth", 3),
        ("datasets.gqa.batch_size", 1),
        ("datasets.gqa.sample_ratio", 3.5),
        ("datasets.gqa.type", "custom"),
        ("datasets.gqa.vis_processor.train.image_size", 112),
        ("datasets.gqa.text_processor.train.prompt", "Say: "),
    ],
)
def test_an_option_that_makes_another_run_needs_permission(saved, option, value):
    [change] = changes(saved, set_at(saved, option, value))
    assert (change.option, change.now, change.refused) == (option, value, True)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("run.max_epoch", 9),
        ("run.iters_per_epoch", 7),
        ("run.init_lr", 3e-3),
        ("run.min_lr", 1e-9),
        ("run.warmup_lr", 1e-9),
        ("run.warmup_steps", 5),
        ("run.lr_sched", "linear_warmup_step_lr"),
        ("run.lr_decay_rate", 0.5),
        ("run.weight_decay", 0.0),
        ("run.beta2", 0.95),
        ("run.num_workers", 3),
        ("run.log_freq", 10),
        ("run.save_every_steps", 2),
        ("run.device", "cuda"),
        ("run.amp", False),
        ("run.balance_ranks", False),
        ("run.max_tokens_per_forward", 100),
        ("model.frozen_dtype", "float8"),
        ("model.max_txt_len", 1024),
        ("model.lora_dropout", 0.0),
        ("model.ckpt", "other.pth"),
        ("model.llama_model", "elsewhere/llama"),
        ("datasets.gqa.build_info.images.storage", "elsewhere/images"),
        ("datasets.gqa.vis_processor.train.mean", [0.0, 0.0, 0.0]),
    ],
)
def test_an_option_that_a_user_may_change_is_listed(saved, option, value):
    [change] = changes(saved, set_at(saved, option, value))
    assert (change.option, change.now, change.refused) == (option, value, False)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("run.output_dir", "elsewhere"),
        ("run.job_id", "second"),
        ("run.job_name", "other"),
        ("run.resume_ckpt_path", "auto"),
        ("run.allow_changes", True),
        ("model.model_type", "other"),
        ("datasets.gqa.data_type", "text"),
        ("datasets.gqa.build_info.annotations.train.url", ["elsewhere"]),
        ("evaluation_datasets", {"gqa": {"eval_file_path": "x.json"}}),
    ],
)
def test_an_option_without_effect_on_a_step_is_not_listed(saved, option, value):
    assert changes(saved, set_at(saved, option, value)) == []


@pytest.mark.parametrize(
    ("option", "before", "now"),
    [
        ("model.end_sym", None, "\n"),
        ("model.prompt_template", None, "[INST] {} [/INST]"),
        ("model.lora_target_modules", ["q_proj", "v_proj"], ["v_proj", "q_proj"]),
        ("run.warmup_lr", None, 1e-3),  # init_lr of the tiny config
        ("run.warmup_lr", -1.0, None),
        ("datasets.gqa.type", None, "gqa"),
        ("datasets.gqa.sample_ratio", 2, 2.0),
        ("datasets.gqa.build_info.images.storage", "images", ["images"]),
        ("datasets.gqa.text_processor.train.prompt", None, ""),
    ],
)
def test_an_unset_option_equals_its_default(saved, option, before, now):
    assert changes(set_at(saved, option, before), set_at(saved, option, now)) == []


def test_an_option_that_the_checkpoint_does_not_know_is_no_change_at_its_default(saved):
    older = copy.deepcopy(saved)
    del older["run"]["max_skipped_steps"], older["model"]["lora_target_modules"], older["datasets"]["gqa"]["data_type"]
    older["run"]["an_option_of_another_trainer"] = 5
    assert changes(older, saved) == []
    [change] = changes(older, set_at(saved, "run.max_skipped_steps", 3))
    assert str(change) == "run.max_skipped_steps: 0 -> 3"


def test_a_dataset_that_came_or_went_needs_permission(saved):
    now = copy.deepcopy(saved)
    del now["datasets"]["gqa"]
    now["datasets"]["other"] = {"type": "custom", "batch_size": 3, "sample_ratio": 5.0}
    assert [(str(change), change.refused) for change in changes(saved, now)] == [
        ("datasets.gqa: {'batch_size': 2, 'sample_ratio': 2.0} -> (not set)", True),
        ("datasets.other: (not set) -> {'type': 'custom', 'batch_size': 3, 'sample_ratio': 5.0}", True),
    ]


def test_another_order_of_datasets_needs_permission(saved):
    """A step chooses its dataset by the position in the mixture."""
    now = copy.deepcopy(saved)
    now["datasets"] = dict(reversed(now["datasets"].items()))
    [change] = changes(saved, now)
    assert change.refused
    orders = "['engine_mc', 'gqa', 'textcaps_caption'] -> ['textcaps_caption', 'gqa', 'engine_mc']"
    assert str(change) == f"the order of datasets: {orders}"


def test_another_number_of_rows_needs_permission(saved):
    [change] = changes(saved, saved, rows_now={**ROWS, "gqa": 10})
    assert (str(change), change.refused) == ("datasets.gqa.num_rows: 9 -> 10", True)


@pytest.mark.parametrize("rows_before", [None, {}, {**ROWS, "gqa": None}])
def test_rows_that_nobody_counted_are_not_compared(saved, rows_before):
    assert changes(saved, saved, rows_before=rows_before) == []


def test_streams_have_no_number_of_rows():
    class Rows(tuple):
        is_stream = False

    class Stream:
        is_stream = True

    assert num_rows_of({"web": {"train": Stream()}, "gqa": {"train": Rows((1, 2))}}) == {"web": None, "gqa": 2}


@pytest.mark.parametrize("section", ["run", "model", "datasets"])
def test_a_section_that_the_checkpoint_lacks_is_not_compared(saved, section):
    older = copy.deepcopy(saved)
    del older[section]
    assert changes(older, saved) == []


def test_a_long_value_is_cut(saved):
    many = [f"shard-{number:05}.tar" for number in range(1000)]
    [change] = changes(saved, set_at(saved, "datasets.gqa.build_info.storage", many))
    assert len(str(change)) < 300


@pytest.mark.parametrize("name", ["minigptv2_finetune", "minigptv2_finetune_dataengine"])
def test_a_config_of_the_published_trainer_may_be_resumed_by_the_same_yaml(name):
    """Its paths alone differ, and in one of them the number of epochs."""
    recorded = json.loads((ROOT / "tests/golden/data/golden/misc/config_merge.json").read_text())
    path = f"train_configs/{name}.yaml"
    [saved] = [entry["config"] for entry in recorded if entry["cfg_path"] == path and "config" in entry]
    found = changed_options(saved, Config.load(ROOT / path).to_dict(), rows_before=None, rows_now={})
    assert not [change for change in found if change.refused]
    assert {change.option for change in found} >= {"datasets.flickr_grounded_caption.build_info.ann_path"}


def test_an_unset_prompt_is_that_of_its_language_model(saved):
    @registry.register_language_model("chatml")
    class Chatml(LanguageModel):
        chat_format = CHATML

    before = set_at(saved, "model.language_model", "chatml")
    for config in (before, saved):
        config["model"] |= {"end_sym": None, "prompt_template": None}
    named = [change.option for change in changes(before, saved) if change.refused]
    assert named == ["model.language_model"]
    saved["model"]["end_sym"] = "<|im_end|>"
    assert changes(before, set_at(saved, "model.language_model", "chatml")) == []
