"""Attention and MLP from weights that lie end to end: the numbers of the separate products."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP, apply_rotary_pos_emb

from minigpt4.models.attention import PACKED, register_packed_attention
from minigpt4.models.joint_weights import join, joined
from minigpt4.models.kernels import gated_silu, gated_silu_backward, rotate_by_operators
from minigpt4.models.language.llama_layers import (
    FusedAttention,
    RecomputeSiluMLP,
    join_weights,
    use_memory_efficient_layers,
)
from tests.models.golden_model import tiny_model
from tests.runners.test_graphs import batch_of, gradients


def pair_of_models(dtype=torch.float32):
    apart = tiny_model()
    apart.language_model.model.to(dtype)
    for name, parameter in apart.trainable():
        parameter.data = parameter.data.float()
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    together = copy.deepcopy(apart)
    together.join_weights()
    return apart, together


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_joint_weights_change_neither_loss_nor_gradients(training, dtype, tolerance):
    results = []
    for model in pair_of_models(dtype):
        model.train(training)
        torch.manual_seed(5)  # LoRA's dropout draws the same
        batch = batch_of(model, "is it red", "what is to the left of the man")
        results.append(gradients(model, batch))
    (apart, wanted), (together, found) = results
    torch.testing.assert_close(together.loss, apart.loss, rtol=tolerance, atol=0)
    for name, gradient in wanted.items():
        assert (found[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-9, name


def test_one_product_serves_queries_keys_and_values():
    _, model = pair_of_models()
    calls = []
    for layer in model.language_model.causal_lm.model.layers:
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(layer.self_attn, name).register_forward_hook(lambda *_: calls.append(1))
    model.train()
    model(batch_of(model, "is it red"))
    assert not calls


def test_joint_weights_are_views_of_the_weights_and_no_second_copy():
    _, model = pair_of_models()
    attention = model.language_model.causal_lm.model.layers[0].self_attn
    linears = [attention.q_proj.base_layer, attention.k_proj, attention.v_proj.base_layer]
    weight, bias = joined(linears)
    assert bias is None and len(weight) == sum(len(linear.weight) for linear in linears)
    assert weight.data_ptr() == linears[0].weight.data_ptr()
    linears[1].weight.data.fill_(7)
    assert weight[len(linears[0].weight)].unique().tolist() == [7]
    assert join(linears)[0].data_ptr() == weight.data_ptr()


def test_weights_that_lie_apart_are_not_taken_as_one():
    first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    assert joined([first, second]) is None
    join([first, second])
    second.weight = torch.nn.Parameter(second.weight.detach().clone())
    assert joined([first, second]) is None


def test_a_state_dict_has_the_same_names_and_values():
    apart, together = pair_of_models()
    wanted, found = apart.state_dict(), together.state_dict()
    assert list(wanted) == list(found)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_fewer_key_heads_and_biases_are_those_of_transformers():
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "attention_bias": True}
    config = LlamaConfig(vocab_size=50, hidden_size=64, intermediate_size=96, **sizes)
    torch.manual_seed(0)
    plain = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    for layer in plain.model.layers:
        for name in ("q_proj", "k_proj", "v_proj"):
            torch.nn.init.normal_(getattr(layer.self_attn, name).bias)
    lean = copy.deepcopy(plain)
    register_packed_attention()
    lean.set_attn_implementation(PACKED)
    use_memory_efficient_layers(lean)
    join_weights(lean)
    assert type(lean.model.layers[0].self_attn) is FusedAttention
    ids = torch.randint(50, (1, 11))
    wanted = plain.model(input_ids=ids).last_hidden_state
    found = lean.model(
        input_ids=ids,
        attention_mask=torch.empty(1, 1, 1, 1),
        position_ids=torch.arange(11)[None],
        use_cache=False,
        sizes=(11,),
        bounds=torch.tensor([0, 11], dtype=torch.int32),
    ).last_hidden_state
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("in_place", [True, False])
def test_rotated_heads_are_those_of_transformers_and_turn_back(in_place):
    generator = torch.Generator().manual_seed(0)
    heads = torch.randn(5, 3, 16, generator=generator)
    angles = torch.randn(5, 8, generator=generator)
    cos, sin = angles.cos(), angles.sin()
    doubled = [torch.cat([x, x], -1)[None] for x in (cos, sin)]
    wanted, _ = apply_rotary_pos_emb(heads.transpose(0, 1)[None], heads.transpose(0, 1)[None], *doubled)
    source = heads.clone()
    target = source if in_place else torch.empty_like(heads)
    rotate_by_operators(source, target, cos, sin)
    torch.testing.assert_close(target, wanted[0].transpose(0, 1))
    rotate_by_operators(target, target, cos, sin, back=True)
    torch.testing.assert_close(target, heads)


def test_the_gated_product_has_the_gradient_of_autograd():
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(4, 12, generator=generator, requires_grad=True)
    grad = torch.randn(4, 6, generator=generator)
    gate, up = both.chunk(2, 1)
    wanted = torch.nn.functional.silu(gate) * up
    wanted.backward(grad)
    found = torch.empty(4, 12)
    gated_silu_backward(grad, *both.detach().chunk(2, 1), *found.chunk(2, 1))
    torch.testing.assert_close(gated_silu(*both.detach().chunk(2, 1)), wanted.detach())
    torch.testing.assert_close(found, both.grad)


def test_a_joint_mlp_has_the_numbers_of_transformers():
    config = LlamaConfig(hidden_size=16, intermediate_size=24, num_attention_heads=2)
    plain = LlamaMLP(config).requires_grad_(False)
    lean = copy.deepcopy(plain)
    lean.__class__ = RecomputeSiluMLP
    lean.join_weights()
    inputs = [torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2)]
    outputs = [plain(inputs[0]), lean.recompute(inputs[1])]
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
