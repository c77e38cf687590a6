"""A second tower and a second language model are trained, resumed and evaluated as the published pair is."""

import json

import pytest
import torch
import yaml

import minigpt4
from minigpt4.common.config import Config
from minigpt4.sample_world.world import WorldSize, write_world
from tests.plugins.parts import PLUGINS, load, model_section, train_config
from tests.runners.tiny import DATA

ITERS = 8
WIDTH = {"tower": 24, "language model": 32, "both": 24}
"""Of the vision tower."""


def train(tmp_path, files, kind, *options):
    """Train two epochs; return the result and the losses."""
    load()  # `run.plugins` finds both modules from here on, as if they lay beside the YAML file
    path = tmp_path / "plugins.yaml"
    path.write_text(yaml.safe_dump(train_config(kind, files, max_epoch=2, iters_per_epoch=ITERS)))
    result = minigpt4.train(Config.load(path, [f"run.output_dir={tmp_path / 'out'}", *options]))
    lines = [json.loads(line) for line in (result.folder / "log.txt").read_text().splitlines()]
    return result, [line["loss"] for line in lines]


@pytest.fixture(scope="module")
def trained(kind, files, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(DATA)
        return train(tmp_path_factory.mktemp("trained"), files, kind)


def test_a_training_learns(trained):
    result, losses = trained
    assert len(losses) == result.num_steps == 2 * ITERS
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_a_checkpoint_has_the_published_names(trained, kind):
    state = torch.load(trained[0].checkpoint, weights_only=True)["model"]
    lora = [f"llama_model.base_model.model.model.layers.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qv"]
    names = {f"{name}.{factor}.weight" for name in lora for factor in ("lora_A", "lora_B")}
    assert set(state) == names | {"llama_proj.weight", "llama_proj.bias"}
    assert state["llama_proj.weight"].shape[1] == 4 * WIDTH[kind]


def test_a_resumed_training_is_the_same_bit_for_bit(trained, kind, files, tmp_path, monkeypatch):
    monkeypatch.chdir(DATA)
    whole, losses = trained
    first = whole.folder / "checkpoint_0.pth"
    resumed, rest = train(tmp_path, files, kind, "run.job_id=again", f"run.resume_ckpt_path={first}")
    assert rest == losses[ITERS:]
    one, two = (torch.load(result.checkpoint, weights_only=True) for result in (whole, resumed))
    assert one["model"].keys() == two["model"].keys()
    assert all(torch.equal(value, two["model"][name]) for name, value in one["model"].items())
    for number, state in one["optimizer"]["state"].items():
        assert all(torch.equal(value, two["optimizer"]["state"][number][name]) for name, value in state.items())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    write_world(out, WorldSize(num_train_scenes=40, num_eval_scenes=150), seed=3)
    return out


def test_the_sample_world_is_evaluated_with_a_trained_checkpoint(trained, kind, files, world, tmp_path):
    """SEED is answered by ranks, GQA by generated text."""
    config = yaml.safe_load((world / "eval_configs/sample_world.yaml").read_text())
    section = model_section(kind, files)
    config["model"] = {**section, "ckpt": str(trained[0].checkpoint)}
    config["preprocess"]["vis_processor"] = {"eval": {"image_size": section["image_size"]}}
    config["run"] |= {"plugins": PLUGINS, "save_path": str(tmp_path / "results")}
    path = tmp_path / "eval.yaml"
    path.write_text(yaml.safe_dump(config))
    results = minigpt4.evaluate(Config.load(path), None, ["seed", "gqa"])
    assert results["seed"].accuracy >= 0 and results["gqa"].accuracy >= 0
    assert len(results["seed"].predictions) > 10 and len(results["gqa"].predictions) > 10
    assert len({prediction.answer for prediction in results["seed"].predictions}) > 1
