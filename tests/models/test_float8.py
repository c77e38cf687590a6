"""Frozen weights in 8 bits: how far products, losses and gradients are from those of 16 and 32 bits."""

import copy
import logging

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from minigpt4.common.schema import RunConfig
from minigpt4.models.float8 import Float8Linear, Float8Weight, fits, quantise_linears
from minigpt4.models.kernels import FLOAT8, LARGEST_FLOAT8, quantise_rows, triton_quantises
from minigpt4.runners.frozen_dtype import check_frozen_dtype
from minigpt4.runners.strategy import wrap
from tests.models.golden_model import TINY_VIT, tiny_config, tiny_model
from tests.runners.test_graphs import batch_of, gradients

HAS_FLOAT8 = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def float8_model(**changes):
    return draw_lora(tiny_model(frozen_dtype="float8", **changes))


def draw_lora(model):
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.trainable():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05, generator=generator)
    return model


def quantised(model):
    model = copy.deepcopy(model)
    wrap(model, strategy="ddp", device=CPU)
    return model


def distance(found, wanted):
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm())


def likeness(found, wanted):
    """Return the cosine between two gradients of all trained tensors."""
    assert found.keys() == wanted.keys()
    flat = [torch.cat([gradient.flatten() for gradient in grads.values()]) for grads in (found, wanted)]
    return float(torch.cosine_similarity(*flat, dim=0))


def weights_of_layers(model):
    named = model.language_model.causal_lm.model.layers.named_parameters()
    return {name: weight for name, weight in named if weight.ndim == 2 and not weight.requires_grad}


def test_quantised_rows_are_the_rows_to_a_sixteenth():
    rows = drawn(50, 64) * torch.logspace(-6, 6, 50)[:, None]
    values, scales = quantise_rows(rows)
    assert values.dtype == FLOAT8 and scales.shape == (50, 1) and scales.dtype == torch.float32
    assert values.float().abs().amax(1).unique().tolist() == [LARGEST_FLOAT8]
    errors = (values.float() * scales - rows).abs()
    assert (errors <= rows.abs() / 16 * 1.001 + scales * 2**-10).all()  # half a step, of a subnormal number too


def test_rows_of_zeros_stay_zeros():
    values, scales = quantise_rows(torch.tensor([[0.0] * 16, [1.0] * 16]))
    assert (values.float() * scales).tolist() == [[0.0] * 16, [1.0] * 16]


def test_values_that_are_not_finite_make_the_product_not_finite():
    weight = Float8Weight.of(drawn(32, 16), None, gradient=False)
    rows = drawn(3, 16)
    rows[1, 2], rows[2, 2] = float("inf"), float("nan")
    finite = weight.product(rows).isfinite().all(1)
    assert finite.tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_and_input_gradients_are_those_of_float64_to_four_hundredths(dtype):
    rows, matrix, bias, grad = drawn(40, 256), drawn(64, 256, seed=1), drawn(64, seed=2), drawn(40, 64, seed=3)
    rows[:, 7] *= 20  # one feature far larger than the others, as language models have them
    rows, matrix, bias, grad = (x.to(dtype) for x in (rows, matrix, bias, grad))
    weight = Float8Weight.of(matrix, bias, gradient=True)
    found, to_rows = weight.product(rows), weight.input_gradient(grad)
    assert found.dtype == to_rows.dtype == dtype
    assert distance(found, rows.double() @ matrix.double().T + bias.double()) < 0.04
    assert distance(to_rows, grad.double() @ matrix.double()) < 0.04


@pytest.mark.skipif(not HAS_FLOAT8, reason="needs a GPU that multiplies in 8 bits")
@pytest.mark.parametrize("num_rows", [1, 40, 1025])
def test_a_gpu_multiplies_as_a_cpu_does(num_rows):
    rows, matrix, bias = drawn(num_rows, 256), drawn(64, 256, seed=1), drawn(64, seed=2)
    grad = drawn(num_rows, 64, seed=3)
    rows[0] = 0
    results = []
    for device in (CPU, CUDA):
        weight = Float8Weight.of(*(x.bfloat16().to(device) for x in (matrix, bias)), gradient=True)
        rows_there, grad_there = (x.bfloat16().to(device) for x in (rows, grad))
        results.append([weight.product(rows_there).cpu(), weight.input_gradient(grad_there).cpu()])
    for found, wanted in zip(results[1], results[0], strict=True):
        assert distance(found, wanted) < 0.01
    assert triton_quantises(CUDA)


def test_a_linear_layer_takes_any_leading_dimensions_and_gives_its_input_a_gradient():
    plain = nn.Linear(32, 48).requires_grad_(False)
    layer = copy.deepcopy(plain)
    parent = nn.Sequential(layer)
    quantise_linears(parent, gradient=True)
    [layer] = parent
    assert type(layer) is Float8Linear and layer.weight.dtype == FLOAT8
    inputs = [drawn(2, 5, 32).requires_grad_() for _ in range(2)]
    outputs = [module(x) for module, x in zip((plain, layer), inputs, strict=True)]
    for output in outputs:
        output.backward(drawn(2, 5, 48, seed=2))
    assert outputs[1].shape == (2, 5, 48) and distance(outputs[1], outputs[0]) < 0.05
    assert distance(inputs[1].grad, inputs[0].grad) < 0.05
    torch.testing.assert_close(layer(inputs[1][0]), outputs[1][0])


def test_layers_whose_sizes_do_not_fit_keep_their_bits_and_are_counted(caplog):
    layers = [nn.Linear(32, 40), nn.Linear(24, 32)]
    trained = nn.Linear(32, 32)
    for layer in layers:
        layer.requires_grad_(False)
    assert not any(fits(layer.weight) for layer in layers)
    with caplog.at_level(logging.WARNING):
        parent = nn.Sequential(*layers, trained)
        quantise_linears(parent, gradient=True)
    assert all(type(layer) is nn.Linear and layer.weight.dtype == torch.float32 for layer in parent)
    assert "2 frozen weights keep their bits" in caplog.text


def test_loss_and_gradients_are_close_to_those_of_whole_weights():
    whole = float8_model()
    batch = batch_of(whole, "is it red", "what is to the left of the man")
    output, wanted = gradients(whole, batch)
    small_output, found = gradients(quantised(whole), batch)
    assert 0 < abs(small_output.loss / output.loss - 1) < 0.03
    assert likeness(found, wanted) > 0.96  # e4m3 rounds each factor by some 3 %, and sums are short in a tiny model


class Rounded(nn.Linear):
    """A linear layer that rounds its input and its weight to 8 bits; its gradient is that of no rounding."""

    def forward(self, input):
        plain = super().forward(input)
        rows, weight = (
            torch.mul(*map(torch.Tensor.float, quantise_rows(x))) for x in (input.flatten(0, -2), self.weight)
        )
        return plain + (nn.functional.linear(rows, weight).view_as(plain) - plain).detach()


def test_gradients_are_those_of_the_rounded_forward():
    whole = float8_model()
    batch = batch_of(whole, "is it red", "what is to the left of the man")
    output, found = gradients(quantised(whole), batch)
    for module in whole.language_model.causal_lm.model.layers.modules():
        if type(module) is nn.Linear and not module.weight.requires_grad:
            module.__class__ = Rounded
    rounded_output, wanted = gradients(whole, batch)
    torch.testing.assert_close(output.loss, rounded_output.loss, rtol=2e-3, atol=0)
    assert likeness(found, wanted) > 0.995


def test_lora_on_any_layer_gets_gradients():
    whole = tiny_model(frozen_dtype="float8", ckpt=None, lora_target_modules=list(NAMES))
    draw_lora(whole)
    batch = batch_of(whole, "is it red", "x")
    _, wanted = gradients(whole, batch)
    small = quantised(whole)
    assert {weight.dtype for weight in weights_of_layers(small).values()} == {FLOAT8}
    _, found = gradients(small, batch)
    assert len(wanted) == 2 * 2 * len(NAMES) + 2 and all(gradient.any() for gradient in found.values())
    assert likeness(found, wanted) > 0.95


def test_checkpointed_layers_have_the_same_gradient():
    results = []
    for again in (False, True):
        model = quantised(float8_model(use_grad_checkpoint_llm=again)).train()
        torch.manual_seed(5)  # LoRA's dropout draws the same
        results.append(gradients(model, batch_of(model, "is it red"))[1])
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_every_matrix_of_the_layers_has_8_bits_and_nothing_else():
    whole = float8_model()
    small = quantised(whole)
    weights = weights_of_layers(small)
    assert len(weights) == 2 * len(NAMES) and {weight.dtype for weight in weights.values()} == {FLOAT8}
    before = {name: (p.shape, p.dtype) for name, p in whole.named_parameters()}
    changed = [name for name, p in small.named_parameters() if (p.shape, p.dtype) != before[name]]
    assert len(changed) == len(weights) and all(".layers." in name and "lora" not in name for name in changed)


def test_joint_weights_share_the_memory_of_the_8_bit_product():
    layer = quantised(float8_model()).language_model.causal_lm.model.layers[0]
    for module, names in ((layer.self_attn, NAMES[:3]), (layer.mlp, NAMES[4:6])):
        addresses = {x.untyped_storage().data_ptr() for n, x in module.named_parameters() if n.split(".")[0] in names
                     and x.dtype == FLOAT8}  # fmt: skip
        assert addresses == {module.float8.values.untyped_storage().data_ptr()}
        assert module.float8.values.untyped_storage().nbytes() == module.float8.for_gradient.numel()


def test_trained_tensors_and_their_checkpoint_stay_the_same():
    whole = float8_model()
    wanted, found = whole.trainable_state(), quantised(whole).trainable_state()
    assert list(wanted) == list(found)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_auto_quantises_nothing():
    model = quantised(tiny_model())
    assert {weight.dtype for weight in weights_of_layers(model).values()} == {torch.float32}


def vit_model(**changes):
    """Return a model with a vision encoder whose sizes fit, its weights random."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4}
    vit = {**TINY_VIT, "mlp_ratio": 4.0}
    config = {"random_weights": True, "vit": vit, "ckpt": None, "llama_config": sizes, "vit_precision": "fp16"}
    torch.manual_seed(0)
    model = type(tiny_model()).from_config(
        tiny_config(frozen_dtype="float8", **{**config, **changes}), dtype=torch.bfloat16
    )
    for block in model.vision_tower.vit.blocks:
        nn.init.normal_(block.attn.q_bias)
        nn.init.normal_(block.attn.v_bias)
    return model


def test_a_frozen_vision_encoder_sees_nearly_the_same_in_8_bits():
    whole = vit_model()
    small = quantised(whole)
    for block in small.vision_tower.blocks:
        layers = [block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2]
        assert all(type(layer) is Float8Linear and layer.float8.for_gradient is None for layer in layers)
    images = drawn(2, 3, 56, 56)
    wanted, found = whole.encode_vision(images), small.encode_vision(images)
    assert 0 < distance(found, wanted) < 0.06


@pytest.mark.parametrize("changes", [{"freeze_vit": False}, {"vit_precision": "fp32"}])
def test_a_vision_encoder_that_is_trained_or_of_32_bits_stays(changes):
    model = quantised(vit_model(**changes))
    assert {parameter.dtype for parameter in model.vision_tower.vit.parameters()} == {torch.float32}
    assert {weight.dtype for weight in weights_of_layers(model).values()} == {FLOAT8}


def test_a_quantised_model_does_not_answer_and_one_that_is_not_ignores_the_option():
    whole = float8_model()
    assert whole.generate(None, ["is it red"], max_new_tokens=3) == draw_lora(tiny_model()).generate(
        None, ["is it red"], max_new_tokens=3
    )
    small = quantised(whole)
    with pytest.raises(ValueError, match=r"model\.frozen_dtype: float8 is for training"):
        small.generate(None, ["is it red"])
    with pytest.raises(ValueError, match=r"model\.frozen_dtype"):
        small.rank(None, ["is it red"], [["yes", "no"]])


def test_other_types_and_weights_of_fewer_bits_are_refused():
    with pytest.raises(ValueError, match=r"model\.frozen_dtype: auto or float8, not fp8"):
        tiny_model(frozen_dtype="fp8")
    with pytest.raises(ValueError, match=r"model\.frozen_dtype: float8 .* model\.load_in_4bit"):
        tiny_model(frozen_dtype="float8", load_in_4bit=True)


def check(device=CUDA, dtype=torch.bfloat16, frozen_dtype="float8", **run):
    run_cfg = OmegaConf.merge(OmegaConf.structured(RunConfig), run)
    check_frozen_dtype(run_cfg, tiny_config(frozen_dtype=frozen_dtype), device, dtype)


@pytest.mark.parametrize(
    ("capability", "options", "said"),
    [
        ((8, 0), {}, "A GPU has a compute capability below 8.9"),
        ((9, 0), {"dtype": torch.float16}, "its products are bfloat16"),
        ((9, 0), {"strategy": "fsdp"}, "run.strategy is fsdp"),
        ((9, 0), {"compile": ["llm"]}, r"run.compile is \['llm'\]"),
        ((9, 0), {"device": CPU, "dtype": None}, "run.device is not cuda; its products"),
    ],
)
def test_float8_is_refused_where_it_is_not_possible(monkeypatch, capability, options, said):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    with pytest.raises(ValueError, match=f"model.frozen_dtype: float8 is not possible, as .*{said}"):
        check(**options)
    check(frozen_dtype="auto", **options)
    if capability == (9, 0):
        check()
