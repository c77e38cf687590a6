import csv
import json
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.conversation.tokenizer import SentencePieceTokenizer
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.sample_world.configs import write_configs
from minigpt4.sample_world.evaluation_files import write_evaluation_files
from minigpt4.sample_world.scenes import SIDE, make_scene
from minigpt4.sample_world.world import ASSETS, SHIPPED, WorldSize, write_world
from tests.sample_world.conftest import SIZE

ROOT = Path(__file__).parents[2]
TRAINING = {
    name: yaml.safe_load((ROOT / f"train_configs/{name}.yaml").read_text())["datasets"]
    for name in ("sample_world", "sample_world_dataengine", "sample_world_all", "minigptv2_finetune_dataengine")
}
ENGINE = {"engine_da", "engine_mc", "engine_mcp"}


def read(path):
    return json.loads(path.read_text())


def engine_rows(world):
    return read(world / "train_dataset/data_engine/dataengine_minigpt4.json")


def mmbench_rows(world):
    with (world / "evaluation_dataset/mmbench/mmbench_dev_20230712.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize("name", TRAINING["sample_world_all"])
def test_a_training_dataset_loads_through_its_builder(world, name):
    cfg = Config.load(world / "train_configs/sample_world_all.yaml")
    builder = registry.get_builder_class(name)(cfg.datasets_cfg[name], name=name, seed=0)
    dataset = builder.build_datasets()["train"]
    assert len(dataset) >= 2
    for index in range(min(len(dataset), 40)):
        example = dataset.get(index, random.Random(index))
        assert [image.shape for image in example.images] == [(3, SIDE, SIDE)] * (name != "unnatural_instruction")
        assert example.turns[0].answer


def test_the_same_arguments_write_the_same_files(world, tmp_path):
    write_world(tmp_path, SIZE, seed=3)
    for path in sorted(world.rglob("*")):
        if path.is_file() and path.suffix != ".yaml":
            assert (tmp_path / path.relative_to(world)).read_bytes() == path.read_bytes(), path


def test_another_seed_writes_another_world(world, tmp_path):
    write_world(tmp_path, SIZE, seed=4)
    name = "evaluation_dataset/seed/seed-bench-image.jsonl"
    assert (tmp_path / name).read_bytes() != (world / name).read_bytes()


def test_a_world_too_small_to_fill_its_files_is_refused():
    with pytest.raises(ValueError, match="num_eval_scenes: 10; at least 150"):
        WorldSize(num_train_scenes=100, num_eval_scenes=10)


@pytest.fixture(scope="module")
def default_evaluation(tmp_path_factory):
    """The evaluation files of a world of the default size."""
    root = tmp_path_factory.mktemp("default") / "evaluation_dataset"
    scenes = [make_scene(0, "evaluation", number) for number in range(1, WorldSize().num_eval_scenes + 1)]
    write_evaluation_files(root, scenes, seed=0)
    return root


def test_the_default_world_asks_enough_questions_for_narrow_intervals(default_evaluation):
    seed = read(default_evaluation / "seed/SEED-Bench-image.json")["questions"]
    types = Counter(question["question_type_id"] for question in seed)
    assert len(seed) >= 1600 and len({question["question"] for question in seed}) >= 600
    assert max(types.values()) - min(types.values()) <= 1
    lines = (default_evaluation / "mmbench/mmbench_dev_20230712.tsv").read_text().splitlines()[1:]
    assert sum(int(line.split("\t")[0]) < 1_000_000 for line in lines) >= 400
    lists = ("okvqa/okvqa_test_split.json", "vizwiz/val.json", "gqa/testdev_balanced_questions.json")
    assert min(len(read(default_evaluation / name)) for name in lists) >= 600
    for name in ("vsr/test.jsonl", "hateful_meme/dev.jsonl"):
        assert len((default_evaluation / name).read_text().splitlines()) >= 600
    splits = [
        path for name in ("refcoco", "refcoco+", "refcocog") for path in (default_evaluation / name).rglob("*.json")
    ]
    assert len(splits) == 8 and min(len(read(path)) for path in splits) >= 200


def test_dev_scenes_have_files_of_the_same_layout_and_a_yaml_of_their_own(tmp_path):
    write_world(tmp_path, WorldSize(num_train_scenes=40, num_eval_scenes=150, num_dev_scenes=150), seed=3)
    pictures = {}
    for split in ("dev", "evaluation"):
        root = tmp_path / f"{split}_dataset"
        pictures[split] = {path.relative_to(root): path.read_bytes() for path in root.rglob("*.jpg")}
    assert len(pictures["dev"]) > 60 and not {*pictures["dev"].values()} & {*pictures["evaluation"].values()}
    cfg = Config.load(tmp_path / "eval_configs/sample_world_dev.yaml")
    for name, entry in cfg.evaluation_datasets_cfg.items():
        for benchmark in registry.get_benchmark_class(name).build(entry, name=name):
            assert benchmark.questions() and str(benchmark.eval_file).startswith(f"{tmp_path}/dev_dataset/")


def test_a_world_without_dev_scenes_has_no_yaml_for_them(world):
    assert not (world / "eval_configs/sample_world_dev.yaml").exists() and not (world / "dev_dataset").exists()


def test_right_letters_are_balanced(world):
    engine = Counter(row["choice_answer"] for row in engine_rows(world))
    seed = Counter(row["answer"] for row in read(world / "evaluation_dataset/seed/SEED-Bench-image.json")["questions"])
    for counts in (engine, seed):
        assert set(counts) == set("ABCD")
        assert max(counts.values()) - min(counts.values()) <= 1


def test_the_engine_letter_stands_before_the_answer(world):
    for row in engine_rows(world):
        assert row["options"]["ABCD".index(row["choice_answer"])] == row["short_answer"]
        assert (world / "train_dataset" / row["image"]).is_file()


def test_seed_asks_all_nine_types_about_pictures_that_are_there(world):
    annotation = read(world / "evaluation_dataset/seed/SEED-Bench-image.json")
    assert set(annotation["question_type"].values()) == set(range(1, 10))
    assert {question["question_type_id"] for question in annotation["questions"]} == set(range(1, 10))
    lines = (world / "evaluation_dataset/seed/seed-bench-image.jsonl").read_text().splitlines()
    assert len(lines) == len(annotation["questions"]) == 74
    for line, question in zip(map(json.loads, lines), annotation["questions"], strict=True):
        assert line["question_id"] == question["question_id"]
        assert f"\nB. {question['choice_b']}\n" in line["text"]
        with Image.open(world / "evaluation_dataset" / line["image"]) as image:
            assert image.size == (SIDE, SIDE)


def test_mmbench_asks_each_question_once_a_rotation_of_its_options(world):
    questions = {}
    for row in mmbench_rows(world):
        questions.setdefault(int(row["index"]) % 1_000_000, []).append(row)
    for rows in questions.values():
        options = [[row[letter] for letter in "ABCD" if row[letter]] for row in rows]
        assert [int(row["index"]) // 1_000_000 for row in rows] == list(range(len(options[0])))
        assert options == [options[0][k:] + options[0][:k] for k in range(len(options[0]))]
        assert len({row[row["answer"]] for row in rows}) == len({row["question"] for row in rows}) == 1
        assert len({row["answer"] for row in rows}) == len(rows)


def test_mmbench_rows_with_two_options_keep_the_right_one(world):
    short = [row for row in mmbench_rows(world) if not row["C"]]
    assert short
    assert all(row["answer"] in "AB" and row["A"] and row["B"] and not row["D"] for row in short)


def replaced(tree, old, new):
    """Return a tree of YAML with another start of every path."""
    if isinstance(tree, dict):
        return {key: replaced(value, old, new) for key, value in tree.items() if key not in ("url", "md5")}
    if isinstance(tree, list):
        return [replaced(value, old, new) for value in tree]
    return new + tree.removeprefix(old) if isinstance(tree, str) and tree.startswith(old) else tree


@pytest.mark.parametrize("folder", ["sample_world", "elsewhere", "odd, [names]: #1/it's a world"])
def test_a_world_has_the_shipped_yaml_files_with_its_own_paths(tmp_path, folder):
    out = tmp_path / folder
    write_configs(out)
    shipped = [path for path in ROOT.glob("*_configs/*.yaml") if path.stem.startswith("sample_world")]
    assert len(shipped) == 4 == len(list(out.rglob("*.yaml")))
    for path in shipped:
        written = yaml.safe_load((out / path.parent.name / path.name).read_text())
        assert written == replaced(yaml.safe_load(path.read_text()), "sample_world/", f"{out}/")
        assert str(out) in str(written["model"])


def test_the_shipped_yaml_files_name_the_files_of_every_builder_below_the_world():
    assert set(TRAINING["sample_world_all"]) == set(TRAINING["minigptv2_finetune_dataengine"])
    assert set(TRAINING["sample_world_dataengine"]) == set(TRAINING["sample_world"]) | ENGINE
    for file in ("sample_world", "sample_world_dataengine", "sample_world_all"):
        for name, options in TRAINING[file].items():
            path = ROOT / "minigpt4" / registry.get_builder_class(name).DATASET_CONFIG_DICT["default"]
            build_info = yaml.safe_load(path.read_text())["datasets"][name]["build_info"]
            assert options["build_info"] == replaced(build_info, "./", "sample_world/"), name


def test_the_shipped_yaml_files_name_the_benchmarks_below_the_world():
    ours, real = (
        yaml.safe_load((ROOT / f"eval_configs/{name}.yaml").read_text())["evaluation_datasets"]
        for name in ("sample_world", "minigptv2_benchmark_evaluation")
    )
    assert set(ours) == set(real)
    for name, options in ours.items():
        paths = [options[key] for key in ("eval_file_path", "img_path") if key in options]
        assert all(path.startswith("sample_world/evaluation_dataset/") for path in paths), name


def test_both_training_files_differ_in_the_engine_data_alone(world):
    baseline, engine = (
        Config.load(world / f"train_configs/{name}.yaml").to_dict()
        for name in ("sample_world", "sample_world_dataengine")
    )
    assert set(engine["datasets"]) - set(baseline["datasets"]) == ENGINE
    for name in ENGINE:
        engine["datasets"].pop(name)
    for config in (baseline, engine):
        config["run"].pop("output_dir")
        config["run"].pop("job_name")
    assert baseline == engine


def test_the_shipped_model_is_small_and_complete(world):
    assert sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file()) <= 8 * 2**20
    assert {path.name for path in ASSETS.iterdir()} == set(SHIPPED)
    cfg = Config.load(world / "train_configs/sample_world.yaml")
    model = MiniGPTv2.from_config(cfg.model_cfg)
    answers = model.generate(torch.zeros(1, 3, SIDE, SIDE), ["<s>[INST] <Img><ImageHere></Img> [vqa] what? [/INST]"])
    assert len(answers) == 1


def test_the_shipped_tokenizer_has_the_traits_of_llama():
    tokenizer = SentencePieceTokenizer(ASSETS / "llama_tiny/tokenizer.model")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.encode("<unk>")) == (1, 2, [0])
    assert tokenizer.pad_id == tokenizer.encode("a $$")[-1] > 2
    text = "A  large RED circle,\nÿ 東京 2048"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("2048")) == 5  # a word-start mark and each digit on its own
    assert len(tokenizer.encode("triangle")) == 1
