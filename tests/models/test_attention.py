"""Attention inside each example of a stream: exact, without a mask, and no number is read back from the device."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from minigpt4.conversation.conversation import Example, Turn
from minigpt4.models.attention import packed_attention, varlen_works
from tests.models.test_llama import random_model

SIZES = (3, 1, 5)


def masked(query, key, value):
    """Return attention under the mask that says for the nine tokens of SIZES which sees which."""
    sees = [
        [1, 0, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 1, 1, 1, 1, 1],
    ]
    mask = torch.tensor(sees, dtype=torch.bool, device=query.device)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True).transpose(1, 2)


def packed(query, key, value):
    return packed_attention(nn.Module(), query, key, value, None, sizes=SIZES)[0]


def with_gradients(attend, *tensors):
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    output = attend(*leaves)
    total = (output * torch.arange(output.shape[1])[:, None, None]).sum()
    return [output.detach(), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("num_key_heads", [4, 2])
def test_packed_attention_is_masked_attention_in_value_and_gradient(num_key_heads):
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 9, 8) for heads in (4, num_key_heads, num_key_heads))
    found = with_gradients(packed, query, key, value)
    for ours, theirs in zip(found, with_gradients(masked, query, key, value), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_without_sizes_packed_attention_follows_the_mask():
    query, key, value = torch.randn(3, 1, 2, 4, 8).unbind()
    mask = torch.tensor([[[[True, False, False, True]] * 4]])
    output, _ = packed_attention(nn.Module(), query, key, value, mask)
    assert torch.allclose(output, F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel is CUDA's")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_kernel_for_all_examples_is_masked_attention(dtype):
    assert varlen_works(dtype, torch.device("cuda", torch.cuda.current_device()))
    query, key, value = torch.randn(3, 1, 4, 9, 64, dtype=dtype, device="cuda").unbind()
    bounds = torch.tensor([0, 3, 4, 9], dtype=torch.int32, device="cuda")
    output, _ = packed_attention(nn.Module(), query, key, value, None, sizes=SIZES, bounds=bounds)
    assert torch.allclose(output, masked(query, key, value), atol=2e-2)


def varlen_on_a_cpu(query, key, value, bounds, _, longest, longest_key, *, window_size):
    """PyTorch's kernel for all examples, (T, heads, size), which only CUDA has."""
    pieces = [x.transpose(0, 1).split(bounds.diff().tolist(), dim=1) for x in (query, key, value)]
    outputs = [F.scaled_dot_product_attention(*piece, is_causal=True) for piece in zip(*pieces, strict=True)]
    return torch.cat(outputs, dim=1).transpose(0, 1)


@pytest.fixture
def kernel_on_a_cpu(monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_on_a_cpu)
    varlen_works.cache_clear()
    yield
    varlen_works.cache_clear()


def test_the_kernel_may_be_tried_inside_a_layer_that_recomputes(kernel_on_a_cpu):
    def layer(x):
        assert varlen_works(torch.bfloat16, x.device)
        return x.sin()

    x = torch.ones(2, requires_grad=True)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(2).cos())


def test_the_kernel_is_tried_in_its_own_type_and_with_gradients_wherever_that_is(kernel_on_a_cpu):
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        assert varlen_works(torch.float16, torch.device("cpu"))


def test_a_step_reads_no_number_back_from_the_device():
    """On meta, where there are no numbers, whatever asks for one fails."""
    with torch.device("meta"):
        model = random_model()
    turns = (Turn("<Img><ImageHere></Img> What is this?", "a dog"),)
    examples = [Example(turns=turns, images=(torch.zeros(3, 56, 56),)), Example(turns=(Turn("Why?", "because"),))]
    batch = model.chat_encoder.collate(examples).to("meta")
    optimizer = torch.optim.AdamW(model.optimizer_groups(0.05), lr=1e-3)
    loss = model(batch).loss
    loss.backward()
    optimizer.step()
    assert loss.is_meta
    assert model.language_model.causal_lm.config._attn_implementation == "packed"
    with pytest.raises((RuntimeError, NotImplementedError)):
        loss.item()
