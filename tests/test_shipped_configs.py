"""The shipped YAML files against the published ones, whose merged content is recorded in config_merge.json."""

import json
from pathlib import Path

import pytest
import yaml

from minigpt4.common.config import Config
from minigpt4.common.registry import registry

ROOT = Path(__file__).parents[1]
RECORDED = json.loads((ROOT / "tests/golden/data/golden/misc/config_merge.json").read_text())
PUBLISHED = {r["cfg_path"]: r["config"] for r in RECORDED if "config" in r}
WITH_OPTIONS = [r for r in RECORDED if r["options"]]
# Keys that the schema does not know: the reference took anything, we refuse what nothing reads.
UNKNOWN = {"model.new_key", "run.note", "datasets.brand_new.batch_size"}
# Layouts that seed.md tells users and the reference did not look in; its own are found too.
SEED_MD_PATHS = {
    "flickr_grounded_caption": "filtered_flickr",
    "flickr_CaptionToPhrase": "filtered_flickr",
    "flickr_ObjectToPhrase": "filtered_flickr",
    "unnatural_instruction": "unnatural_instructions",
}


def as_file(config, path):
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def lookup(tree, key):
    for part in key.split("."):
        tree = tree[part]
    return tree


@pytest.mark.parametrize("cfg_path", PUBLISHED)
def test_a_published_file_loads_unchanged_to_the_recorded_values(cfg_path, tmp_path):
    published = PUBLISHED[cfg_path]
    merged = Config.load(as_file(published, tmp_path / "published.yaml")).to_dict()
    for section in ("run", "model"):
        assert {k: merged[section][k] for k in published[section]} == published[section]
    assert merged["evaluation_datasets"] == published.get("evaluation_datasets", {})
    assert list(merged["datasets"]) == list(published["datasets"])
    for name, body in published["datasets"].items():
        assert merged["datasets"][name] == {"batch_size": 1, "sample_ratio": 1.0, **body}, name


@pytest.mark.parametrize("cfg_path", [p for p in PUBLISHED if p.startswith("train")])
def test_the_shipped_training_files_are_the_published_ones_with_shorter_bodies(cfg_path):
    ours, published = Config.load(ROOT / cfg_path).to_dict(), PUBLISHED[cfg_path]
    differing = {k for k in published["run"] if ours["run"][k] != published["run"][k]}
    # The published baseline says max_epoch 50 and placeholders; ours keeps the run block of the other file, so that
    # the two rows of the results table compare.
    expected = {"max_epoch", "output_dir"} if cfg_path.endswith("finetune.yaml") else set()
    assert differing == expected
    differing = {k for k in published["model"] if ours["model"][k] != published["model"][k]}
    assert differing == ({"llama_model", "ckpt"} if expected else set())
    assert list(ours["datasets"]) == list(published["datasets"])
    for name, body in published["datasets"].items():
        for key in ("batch_size", "sample_ratio", "vis_processor", "text_processor"):
            assert ours["datasets"][name][key] == body[key], (name, key)
        build_info = ours["datasets"][name]["build_info"]
        if name in SEED_MD_PATHS:
            assert SEED_MD_PATHS[name] in build_info["ann_path"]
        else:
            placeholder_urls = name.startswith("engine")  # "/path/to/data" there, an address in ours
            assert without_urls(build_info, placeholder_urls) == without_urls(body["build_info"], placeholder_urls)


def without_urls(build_info, drop):
    if not drop:
        return build_info
    train = {k: v for k, v in build_info["annotations"]["train"].items() if k != "url"}
    return {**build_info, "annotations": {"train": train}}


def test_the_two_training_files_differ_by_the_engine_alone():
    baseline = Config.load(ROOT / "train_configs/minigptv2_finetune.yaml").to_dict()
    engine = Config.load(ROOT / "train_configs/minigptv2_finetune_dataengine.yaml").to_dict()
    more = {"engine_da", "engine_mc", "engine_mcp"}
    assert set(engine["datasets"]) - set(baseline["datasets"]) == more
    assert len(engine["datasets"]) == 25
    engine["datasets"] = {k: v for k, v in engine["datasets"].items() if k not in more}
    assert engine == baseline


@pytest.mark.parametrize("run", WITH_OPTIONS, ids=lambda r: " ".join(r["options"])[:60])
def test_options_change_what_the_recording_says(run, tmp_path):
    path = as_file(PUBLISHED[run["cfg_path"]], tmp_path / "published.yaml")
    changed = run["diff_to_no_options"]["changed_or_added"]
    if UNKNOWN & set(changed):
        with pytest.raises(ValueError, match=r"no such option|no builder"):
            Config.load(path, run["options"])
        return
    merged = Config.load(path, run["options"]).to_dict()
    for key, value in changed.items():
        assert lookup(merged, key) == value, key


def test_the_evaluation_file_is_the_published_one_with_more_benchmarks():
    ours = Config.load(ROOT / "eval_configs/minigptv2_benchmark_evaluation.yaml").to_dict()
    published = PUBLISHED["eval_configs/minigptv2_benchmark_evaluation.yaml"]
    for section in ("run", "model"):
        assert {k: ours[section][k] for k in published[section]} == published[section]
    for name, body in published["evaluation_datasets"].items():
        assert ours["evaluation_datasets"][name] == body
    more = set(ours["evaluation_datasets"]) - set(published["evaluation_datasets"])
    assert more == {"gqa", "hm", "iconvqa", "refcoco", "refcoco+", "refcocog"}


SHIPPED = sorted((ROOT / "train_configs").glob("*.yaml")) + sorted((ROOT / "eval_configs").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_file_loads(path):
    Config.load(path)


def test_the_defaults_of_every_builder_name_it():
    for name in registry.list_datasets():
        path = ROOT / "minigpt4" / registry.get_builder_class(name).DATASET_CONFIG_DICT["default"]
        assert list(yaml.safe_load(path.read_text())["datasets"]) == [name]
