"""What the benchmarks compare is the same work, and they run."""

import json

import pytest
import torch
from transformers import AttentionInterface

from minigpt4.datasets.mixture import Sample, SampleRef
from minigpt4.models.attention import PACKED, packed_attention
from tests.forked import ROOT, run_script
from tests.models.golden_model import examples_of, recorded, tiny_model
from tests.models.test_llama import random_model

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    """Make the scripts importable, as they are for each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def gradients(model):
    return {name: parameter.grad for name, parameter in model.trainable()}


@pytest.mark.parametrize("name", ["instr_chat", "conv", "text_chat"])
def test_the_published_way_computes_the_recorded_loss_and_our_gradients(benchmarks, name):
    from published_recipe import PaddedModel
    from published_recipe import examples_of as fetched_examples
    from variants import PartTimer

    call = recorded("train_calls.json")[name]
    examples = examples_of(call["samples"], call["image_size"])
    ours, theirs = (tiny_model(image_size=call["image_size"], **call["config"]) for _ in range(2))
    ours(ours.chat_encoder.collate(examples)).loss.backward()
    padded = PaddedModel(theirs, PartTimer(torch.device("cpu"), enabled=False))
    loss = padded(fetched_examples([Sample(SampleRef("gqa", row, 0), example) for row, example in enumerate(examples)]))
    loss.backward()
    assert loss.item() == pytest.approx(call["loss"], abs=1e-4)
    wanted = gradients(ours)
    for parameter, gradient in gradients(theirs).items():
        if gradient is not None:  # the projection, in a batch of text only
            largest = wanted[parameter].abs().max()
            assert (gradient - wanted[parameter]).abs().max() <= 1e-4 * largest, parameter


def test_the_published_way_trains_under_autocast_with_a_vit_of_two_dtypes(benchmarks):
    from published_recipe import PaddedModel, widen_vit
    from variants import PartTimer

    call = recorded("train_calls.json")["instr_chat"]
    examples = examples_of(call["samples"], call["image_size"])
    model = tiny_model(image_size=call["image_size"], **call["config"])
    for frozen in (model.vision_tower.vit, model.language_model.causal_lm):
        for parameter in frozen.parameters():
            parameter.data = parameter.data if parameter.requires_grad else parameter.data.bfloat16()
    widen_vit(model)
    assert {parameter.dtype for parameter in model.vision_tower.vit.parameters()} == {torch.bfloat16, torch.float32}
    padded = PaddedModel(model, PartTimer(torch.device("cpu"), enabled=False))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = padded(examples)
    loss.backward()
    assert loss.item() == pytest.approx(call["loss"], rel=0.05)


@pytest.mark.parametrize("variant", ["packing", "attention", "logits", "loss", "lora", "norm", "mlp", "inference"])
def test_taking_an_idea_out_changes_no_loss(benchmarks, monkeypatch, variant):
    from variants import VARIANTS

    from minigpt4.models import minigpt_v2

    monkeypatch.setattr(minigpt_v2, "cross_entropy", minigpt_v2.cross_entropy)  # put back after
    monkeypatch.setattr(torch, "inference_mode", torch.inference_mode)
    monkeypatch.setitem(AttentionInterface._global_mapping, PACKED, packed_attention)
    call = recorded("train_calls.json")["conv"]
    model = tiny_model(image_size=call["image_size"], **call["config"])
    VARIANTS[variant](model)
    batch = model.chat_encoder.collate(examples_of(call["samples"], call["image_size"]))
    assert model(batch).loss.item() == pytest.approx(call["loss"], abs=1e-4)
    if variant == "packing":
        assert len(set(batch.lengths.tolist())) == 1


def test_the_mean_draw_is_what_the_mixture_says(benchmarks):
    from scaling import mean_draw

    draw = mean_draw(random_model(image_size=448), num_draws=1000)
    assert draw["samples"] == pytest.approx(4.2, abs=0.15)
    assert 256 < draw["tokens"] / draw["samples"] < 256 + 200
    assert draw["llm"] > draw["head"] > 0


def test_training_is_timed_both_ways():
    command = [BENCHMARKS / "train_step.py", "--size", "tiny", "--steps", "2", "--warmup", "1"]
    done = run_script(command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    about, published, ours, ratio = map(json.loads, done.stdout.splitlines())
    assert (about["size"], published["recipe"], ours["recipe"]) == ("tiny", "published", "ours")
    assert min(published["samples_per_s"], ours["samples_per_s"], ratio["times_the_published_rate"]) > 0
