"""The 25 datasets of the shipped training file train together, each as often as its ratio says."""

import json
import math
from collections import Counter

import pytest
import yaml

from minigpt4.common.config import Config
from minigpt4.datasets.mixture import MixtureComponent, MixtureSampler
from minigpt4.tasks import setup_task
from tests.runners.tiny import DATA, ROOT, tiny_config, train_on_ranks, write_config

NUM_STEPS, NUM_RANKS = 50, 2


def shipped_datasets():
    text = (ROOT / "train_configs/minigptv2_finetune_dataengine.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["datasets"]


@pytest.fixture
def config():
    config = tiny_config(max_epoch=1, iters_per_epoch=NUM_STEPS, log_freq=10, num_workers=1)
    config["datasets"] = shipped_datasets()
    assert len(config["datasets"]) == 25
    return config


def test_all_datasets_train_50_steps_on_two_ranks(config, tmp_path):
    done = train_on_ranks(tmp_path, config, num_ranks=NUM_RANKS)
    assert done.returncode == 0, done.stderr
    metrics = (tmp_path / "out/job/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.loads(line) for line in metrics]
    assert [line["step"] for line in lines] == [9, 19, 29, 39, 49]
    assert all(math.isfinite(line["loss"]) for line in lines)
    names = sorted(config["datasets"])  # the order of the file that the run read
    sampler = MixtureSampler(
        [MixtureComponent(name, 10, 1, config["datasets"][name]["sample_ratio"]) for name in names],
        num_steps=NUM_STEPS,
        seed=42,
        world_size=NUM_RANKS,
    )
    drawn = {names[choice] for choice in sampler.choices.ravel()}
    assert {name for line in lines for name in line["loss_by_dataset"]} == drawn
    assert len(drawn) > 15
    assert "what this run reads:" in done.stderr
    for name in names:
        assert f"datasets.{name}.build_info." in done.stderr


def test_each_dataset_is_drawn_as_often_as_its_ratio_says(config, tmp_path, monkeypatch):
    monkeypatch.chdir(DATA)
    cfg = Config.load(write_config(tmp_path, config))
    datasets = setup_task(cfg).build_datasets(cfg)
    bodies = shipped_datasets()
    components = [
        MixtureComponent(name, len(splits["train"]), bodies[name]["batch_size"], bodies[name]["sample_ratio"])
        for name, splits in datasets.items()
    ]
    drawn = Counter()
    for rank in range(NUM_RANKS):
        for refs in MixtureSampler(components, num_steps=2000, seed=1, rank=rank, world_size=NUM_RANKS):
            names = {ref.dataset for ref in refs}
            assert len(names) == 1 and len(refs) == bodies[refs[0].dataset]["batch_size"]
            drawn += Counter(names)
    total = sum(body["sample_ratio"] for body in bodies.values())
    for name, body in bodies.items():
        share = body["sample_ratio"] / total
        # five standard deviations of a share of 4,000 refs: 25 datasets stray beyond that once in 70,000 seeds
        tolerance = 5 * math.sqrt(share * (1 - share) / 4000)
        assert drawn[name] / 4000 == pytest.approx(share, abs=tolerance), name
