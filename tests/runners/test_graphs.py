"""Steps from CUDA graphs: the padded batch has the loss and the gradient of the batch itself."""

import pytest
import torch
from omegaconf import OmegaConf

from minigpt4.common.schema import ModelConfig, RunConfig
from minigpt4.conversation.conversation import IMAGE_SPAN, Example, Turn
from minigpt4.runners.graphs import Shape, fill, padded_buffers, shape_of, takes_graphs
from tests.models.golden_model import tiny_model

CUDA = torch.device("cuda", 0)


def batch_of(model, *texts, images=True):
    generator = torch.Generator().manual_seed(len(texts))
    examples = []
    for number, text in enumerate(texts):
        shown = (torch.randn(3, 56, 56, generator=generator),) if images else ()
        prompt = f"{IMAGE_SPAN} {text}" if images else text
        examples.append(Example(turns=(Turn(prompt, "yes it is"),), images=shown, id=str(number)))
    return model.chat_encoder.collate(examples)


def gradients(model, batch):
    model.zero_grad()
    output = model(batch)
    output.loss.backward()
    return output, {name: parameter.grad.clone() for name, parameter in model.trainable()}


def padded(batch):
    shape = shape_of(batch, 1)
    buffers = padded_buffers(batch, shape)
    fill(buffers, batch)
    return buffers.with_fields(seq_lens=tuple(buffers.cu_seqlens.diff().tolist()))  # the CPU attends example by example


@pytest.mark.parametrize("images", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_padded_batch_has_the_loss_and_gradient_of_the_batch(images, weighted):
    model = tiny_model().eval()
    batch = batch_of(model, "is it red", "what is to the left of the man", "x", images=images)
    if weighted:
        batch = batch.with_fields(
            weights=torch.rand(len(batch.target_positions), generator=torch.Generator().manual_seed(0))
        )
    output, wanted = gradients(model, batch)
    padded_output, found = gradients(model, padded(batch))
    torch.testing.assert_close(padded_output.loss, output.loss, rtol=1e-5, atol=0)
    num_targets = len(batch.target_positions)
    torch.testing.assert_close(padded_output.target_losses[:num_targets], output.target_losses)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


def test_filled_buffers_hold_nothing_of_the_batch_before():
    model = tiny_model().eval()
    long, short = batch_of(model, "what is to the left of the man", "x"), batch_of(model, "a", "b")
    shape = shape_of(long, 1)
    assert shape_of(short, 1) == shape
    reused, fresh = padded_buffers(long, shape), padded_buffers(short, shape)
    fill(reused, long)
    fill(reused, short)
    fill(fresh, short)
    for name in (
        "images",
        "input_ids",
        "labels",
        "position_ids",
        "weights",
        "divisor",
        "image_positions",
        "target_positions",
        "cu_seqlens",
    ):
        assert torch.equal(getattr(reused, name), getattr(fresh, name)), name


def test_a_padded_batch_is_refused_when_each_example_takes_its_own_kernel():
    model = tiny_model().eval()
    batch = batch_of(model, "is it red", "x")
    buffers = padded_buffers(batch, shape_of(batch, 1))
    fill(buffers, batch)
    with pytest.raises(RuntimeError, match="needs the size of each"):
        model(buffers)


def test_graphs_are_refused_where_the_kernel_for_packed_examples_fails():
    class Model:
        def graph_problems(self, dtype, device):
            return [f"no kernel for {dtype}"]

    assert not takes_graphs(*sections(), CUDA, torch.bfloat16, model=Model())
    with pytest.raises(ValueError, match=r"no kernel for torch\.bfloat16"):
        takes_graphs(*sections(cuda_graphs=True), CUDA, torch.bfloat16, model=Model())


def test_a_shape_always_has_a_token_of_padding():
    model = tiny_model().eval()
    batch = batch_of(model, *["x" * 3] * 4, images=False)
    batch = batch.with_fields(input_ids=torch.zeros(128, dtype=torch.int64))
    expected = Shape(num_tokens=256, num_targets=256, num_examples=8, images=(0, 3, 1, 1), num_accumulated=2)
    assert shape_of(batch, 2) == expected


def sections(**run):
    return OmegaConf.merge(OmegaConf.structured(RunConfig), run), OmegaConf.structured(ModelConfig)


@pytest.mark.parametrize(
    ("section", "option", "value", "said"),
    [
        (0, "strategy", "fsdp", r"run\.strategy is fsdp"),
        (1, "use_grad_checkpoint_llm", True, r"model\.use_grad_checkpoint_llm is true"),
        (1, "load_in_4bit", True, r"model\.load_in_4bit"),
    ],
)
def test_options_that_graphs_cannot_have_are_refused_by_name(section, option, value, said):
    assert takes_graphs(*sections(cuda_graphs=True), CUDA, torch.bfloat16)
    chosen = sections(cuda_graphs=True)
    chosen[section][option] = value
    with pytest.raises(ValueError, match=said):
        takes_graphs(*chosen, CUDA, torch.bfloat16)
    unset = sections()
    unset[section][option] = value
    assert not takes_graphs(*unset, CUDA, torch.bfloat16)


def test_graphs_on_a_cpu_are_refused_and_not_taken_by_themselves():
    assert not takes_graphs(*sections(), torch.device("cpu"), None)
    with pytest.raises(ValueError, match=r"run\.device is not cuda; run\.amp is false"):
        takes_graphs(*sections(cuda_graphs=True), torch.device("cpu"), None)


def test_many_micro_batches_in_one_forward_take_no_graphs_by_themselves():
    assert not takes_graphs(*sections(max_tokens_per_forward=8192), CUDA, torch.bfloat16)
    assert takes_graphs(*sections(max_tokens_per_forward=8192, cuda_graphs=True), CUDA, torch.bfloat16)
