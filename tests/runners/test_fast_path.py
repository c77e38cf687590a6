"""What makes steps fast, all of it at once, against the recorded loss and gradients; and how near 16 bits come."""

import pytest
import torch
from torch.nn import functional as F

from minigpt4.datasets.mixture import Sample, SampleRef
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.runners.loader import Collator
from minigpt4.runners.update import DevicePrefetcher
from tests.models.golden_model import AS_RECORDED, examples_of, recorded, tiny_config, tiny_model
from tests.runners.in_process import train_step_of, update_of

CALLS = recorded("train_calls.json")
COMPILED = ("instr_chat", "conv", "text_chat")


def with_every_option(call, *, compiled=()):
    """Return a call's loss and model: recomputing, a sample or two at a time, their images seen ahead."""
    model = tiny_model(image_size=call["image_size"], use_grad_checkpoint_llm=True, **call["config"])
    for module in (module for part in compiled for module in model.compilable(part)):
        module.compile(dynamic=True)
    examples = examples_of(call["samples"], call["image_size"])
    fetched = [Sample(SampleRef("recorded", row, 0), example) for row, example in enumerate(examples)]
    parts = Collator(model.chat_encoder, max_tokens=100)(fetched)
    update = update_of(parts, num_steps=1, look_ahead=True, encode_vision=model.encode_vision)
    return train_step_of(model)(update).losses.sum().item(), model


def assert_recorded(call, loss, model):
    assert loss == pytest.approx(call["loss"], abs=1e-4)
    arrays = recorded(call["file"])
    for name, parameter in model.trainable():
        if name not in call["trainable_without_grad"]:
            wanted = arrays[f"grad:{name}"]
            assert (parameter.grad - wanted).abs().max() <= 1e-4 * wanted.abs().max(), name


@pytest.mark.parametrize("name", AS_RECORDED)
def test_loss_and_gradients_are_the_recorded_ones(name):
    assert_recorded(CALLS[name], *with_every_option(CALLS[name]))


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_too(name):
    assert_recorded(CALLS[name], *with_every_option(CALLS[name], compiled=("vit", "llm")))


@pytest.mark.parametrize("part", ["vit", "lm"])
def test_what_cannot_be_compiled_is_refused(part):
    with pytest.raises(ValueError, match=rf"run\.compile: llm, or vit while model\.freeze_vit is true, not {part}"):
        tiny_model(freeze_vit=False).compilable(part)


@pytest.mark.parametrize("name", ["instr_chat", "conv", "text_chat"])
def test_16_bit_weights_stay_near_float32(name):
    """Stated bounds in bfloat16: 1 % of the loss; gradients of the same direction (cosine above 0.99) and length."""
    call = CALLS[name]
    model = MiniGPTv2.from_config(tiny_config(vit_precision="fp16", **call["config"]), dtype=torch.bfloat16).eval()
    batch = model.chat_encoder.collate(examples_of(call["samples"], call["image_size"]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(call["loss"], rel=1e-2)
    arrays = recorded(call["file"])
    for parameter_name, parameter in model.trainable():
        if parameter_name not in call["trainable_without_grad"]:
            wanted = arrays[f"grad:{parameter_name}"]
            assert F.cosine_similarity(parameter.grad.flatten(), wanted.flatten(), dim=0) > 0.99, parameter_name
            assert parameter.grad.norm() == pytest.approx(wanted.norm().item(), rel=0.05), parameter_name


def test_images_are_seen_ahead_after_what_the_device_was_given_before(monkeypatch):
    """The encoder's weights may be drawn on the device."""

    class Stream:
        def __init__(self, device):
            self.after = []

        def wait_stream(self, stream):
            self.after.append(stream)

    monkeypatch.setattr("torch.cuda.Stream", Stream)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: f"the stream of {device}")
    prefetcher = DevicePrefetcher(iter(()), torch.device("cuda", 1), encode_vision=torch.relu)
    assert prefetcher.stream.after == ["the stream of cuda:1"]
