"""LoRA without copies: peft's numbers, draws and names."""

import copy

import pytest
import torch
from peft.tuners.lora import Linear

from minigpt4.models.lora import ADAPTER, FusedLoraLinear, LowPrecisionCopies, adapter_of
from tests.models.golden_model import tiny_model
from tests.runners.test_graphs import batch_of


def lean_and_peft():
    lean = tiny_model().language_model.causal_lm.model.layers[0].self_attn.q_proj
    peft = copy.deepcopy(lean)
    peft.__class__ = Linear
    return lean.train(), peft.train()


def test_the_model_has_fused_lora_layers():
    layers = tiny_model().language_model.causal_lm.model.layers
    assert {type(p) for layer in layers for p in (layer.self_attn.q_proj, layer.self_attn.v_proj)} == {FusedLoraLinear}


def test_values_dropout_and_gradients_are_those_of_peft():
    outputs, gradients = [], []
    for layer in lean_and_peft():
        torch.manual_seed(3)
        x = torch.randn(1, 7, 64, requires_grad=True)
        torch.manual_seed(4)
        output = layer(x)
        output.square().sum().backward()
        outputs.append(output)
        gradients.append([x.grad, layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad])
    assert outputs[0].shape == (1, 7, 64)
    assert torch.allclose(*outputs, atol=1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_in_16_bits_the_output_has_16_bits_and_what_is_trained_stays_float32():
    lean, peft = lean_and_peft()
    for layer in (lean, peft):
        layer.base_layer.to(torch.bfloat16)
        layer.eval()
    x = torch.randn(1, 7, 64)
    found = lean(x.bfloat16())
    assert found.dtype == torch.bfloat16
    assert lean.lora_A["default"].weight.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = peft(x)
    assert (found - wanted).abs().max() < 0.03 * wanted.abs().max()


@pytest.mark.parametrize("how", ["disabled", "merged"])
def test_a_disabled_or_merged_adapter_is_left_to_peft(how):
    lean, peft = (layer.eval() for layer in lean_and_peft())
    for layer in (lean, peft):
        if how == "merged":
            layer.merge()
        else:
            layer.enable_adapters(False)
    x = torch.randn(1, 7, 64)
    assert torch.equal(lean(x), peft(x))


def test_copies_in_16_bits_follow_an_update_by_a_fused_optimizer():
    model = tiny_model()
    copies = LowPrecisionCopies(model.language_model.model, torch.bfloat16)
    layer = model.language_model.causal_lm.model.layers[0].self_attn.q_proj
    weight = layer.lora_B[ADAPTER].weight
    with copies:
        first = adapter_of(layer, torch.bfloat16).second_16
        assert adapter_of(layer, torch.bfloat16).second_16 is first
        assert torch.equal(first, weight.bfloat16())
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=True)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    outside = adapter_of(layer, torch.bfloat16).second_16
    assert torch.equal(outside, weight.bfloat16()) and outside is not first
    with copies:
        again = adapter_of(layer, torch.bfloat16).second_16
        assert again is first and torch.equal(again, weight.bfloat16())


def test_a_model_of_16_bits_computes_with_the_weights_of_the_last_update():
    model = tiny_model()
    model.language_model.model.to(torch.bfloat16)
    for _, parameter in model.trainable():
        parameter.data = parameter.data.float()
    batch = batch_of(model, "is it red", "what is to the left of the man")
    optimizer = torch.optim.AdamW(model.optimizer_groups(0.0), lr=1e-2, fused=True)
    losses = []
    for _ in range(3):
        loss = model(batch).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert model(batch).loss.item() == copy.deepcopy(model)(batch).loss.item()
    assert losses[2] < losses[1] < losses[0]
