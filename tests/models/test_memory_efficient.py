"""Memory-efficient parts of Llama's layers: the numbers of `transformers`, and less kept for the gradient."""

import copy

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from minigpt4.models.language.llama_layers import FusedRMSNorm, RecomputeSiluMLP, use_memory_efficient_layers
from tests.models.golden_model import tiny_model

SIZES = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}


def llama(**changes):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, **changes)).requires_grad_(False)
    torch.nn.init.normal_(model.model.norm.weight)
    return model


def value_and_gradient(part, x):
    leaf = x.clone().requires_grad_()
    num_saved = []
    with saved_tensors_hooks(lambda t: (num_saved.append(t.numel()), t)[1], lambda t: t):
        output = part(leaf)
    (output * torch.linspace(-1, 1, output.shape[-1])).sum().backward()
    return output.detach(), leaf.grad, sum(num_saved)


def parts_of(model):
    return {"norm": model.model.norm, "mlp": model.model.layers[0].mlp}


@pytest.mark.parametrize("name", ["norm", "mlp"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_values_and_gradients_are_those_of_transformers(name, dtype, tolerance):
    model = llama().to(dtype)
    plain = copy.deepcopy(parts_of(model)[name])
    use_memory_efficient_layers(model)
    lean = parts_of(model)[name]
    assert type(lean) is not type(plain)
    lean = getattr(lean, "recompute", lean)  # which the MLP is on CUDA
    x = torch.randn(1, 5, 16).to(dtype)
    ours, theirs = value_and_gradient(lean, x), value_and_gradient(plain, x)
    assert ours[0].dtype == dtype
    for found, wanted in zip(ours[:2], theirs[:2], strict=True):
        assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


def test_the_mlp_keeps_one_of_its_three_wide_tensors_less():
    model = llama()
    plain = copy.deepcopy(parts_of(model)["mlp"])
    use_memory_efficient_layers(model)
    x = torch.randn(1, 5, 16)
    num_ours, num_theirs = (value_and_gradient(mlp, x)[2] for mlp in (parts_of(model)["mlp"].recompute, plain))
    assert num_theirs - num_ours == 5 * 40


def test_another_activation_keeps_its_mlp():
    model = llama(hidden_act="gelu")
    use_memory_efficient_layers(model)
    assert type(parts_of(model)["mlp"]) is LlamaMLP
    assert type(parts_of(model)["norm"]) is FusedRMSNorm


def test_the_model_has_the_memory_efficient_parts():
    language = tiny_model().language_model.causal_lm
    kinds = {type(module) for module in language.modules()}
    assert {FusedRMSNorm, RecomputeSiluMLP} <= kinds
    assert not kinds & {LlamaRMSNorm, LlamaMLP}
