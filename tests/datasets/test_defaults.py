from pathlib import Path

import pytest
from omegaconf import OmegaConf

import minigpt4
from minigpt4.common.registry import registry

NAMES = [
    "aok_vqa",
    "cc_sbu",
    "cc_sbu_align",
    "coco_caption",
    "coco_vqa",
    "engine_da",
    "engine_mc",
    "engine_mcp",
    "flickr_CaptionToPhrase",
    "flickr_ObjectToPhrase",
    "flickr_grounded_caption",
    "gqa",
    "invrefcoco",
    "invrefcocog",
    "invrefcocop",
    "laion",
    "llava_conversation",
    "llava_detail",
    "llava_reason",
    "multitask_conversation",
    "ocrvqa",
    "ok_vqa",
    "refcoco",
    "refcocog",
    "refcocop",
    "refvg",
    "textcaps_caption",
    "unnatural_instruction",
]


def defaults(name):
    path = registry.get_builder_class(name).DATASET_CONFIG_DICT["default"]
    return OmegaConf.to_container(OmegaConf.load(Path(minigpt4.__file__).parent / path))


def test_there_are_28_datasets_and_a_users_own():
    assert registry.list_datasets() == sorted([*NAMES, "custom"])


@pytest.mark.parametrize("name", NAMES)
def test_the_defaults_are_the_published_ones_except_where_the_documented_layout_differs(name, recording):
    published = recording(name)["config"]["build_info"]
    ours = {
        "unnatural_instruction": {
            "ann_path": "./train_dataset/unnatural_instructions/filtered_unnatural_instruction.json"
        },
        "cc_sbu": {"storage": "./train_dataset/cc_sbu_dataset/{00000..01255}.tar"},
        "laion": {"storage": "./train_dataset/laion_dataset/{00000..01255}.tar"},
    }
    if name.startswith("flickr_"):
        file = published["ann_path"].rsplit("/", 1)[1]
        folder = "./train_dataset/filtered_flickr"
        ours[name] = {"image_path": f"{folder}/images", "ann_path": f"{folder}/{file}"}
    assert defaults(name)["datasets"][name]["build_info"] == ours.get(name, published)


@pytest.mark.parametrize("name", NAMES)
def test_on_an_empty_machine_every_dataset_names_its_missing_files_and_their_urls(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = OmegaConf.create(defaults(name)["datasets"][name])
    problems = registry.get_builder_class(name)(cfg, name=name).problems()
    assert problems
    for problem in problems:
        assert problem.startswith(f"datasets.{name}.build_info.")
        assert "./train_dataset/" in problem and "; download it from " in problem
