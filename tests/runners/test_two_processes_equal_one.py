"""Two gloo processes, each with its own batch, have the gradient of one process that sees both."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.conversation.conversation import Example, Turn
from tests.forked import on_ranks
from tests.runners.tiny import tiny_config, write_config

QUESTION = "<Img><ImageHere></Img> [vqa] what is this? "


def load_model(path):
    model_cfg = Config.load(path).model_cfg
    # no dropout: one process would draw other masks
    return registry.get_model_class("minigpt_v2").from_config(model_cfg).eval()


def batches(model, kinds):
    image = torch.linspace(-1, 1, 3 * 56 * 56).reshape(3, 56, 56)
    samples = {
        "image": [Example(turns=(Turn(QUESTION, "a truck"),), images=(image,), id="a")],
        "two images": [
            Example(turns=(Turn(QUESTION, "three sheep on a hill"),), images=(image.flip(1),), id="b"),
            Example(turns=(Turn(QUESTION, "a child"),), images=(image.flip(2),), id="c"),
        ],
        "text": [Example(turns=(Turn("Name 2 colors.", "blue, black"),), id="d")],
    }
    return [model.chat_encoder.collate(samples[kind]) for kind in kinds]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def one_rank(rank, path, kinds, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=2)
    model = load_model(path)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    wrapped(batches(model, kinds)[rank]).loss.backward()
    torch.save(gradients(model), f"{out}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("kinds", [("image", "two images"), ("text", "two images")], ids=["images", "text on one rank"])
def test_two_ranks_give_the_gradient_of_one_process_that_sees_both_batches(tmp_path, kinds):
    path = write_config(tmp_path, tiny_config())
    on_ranks(one_rank, (str(path), kinds, str(tmp_path)))
    model = load_model(path)
    sum(model(batch).loss for batch in batches(model, kinds)).div(2).backward()
    expected = gradients(model)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert expected.keys() == ranks[0].keys() and len(expected) > 4
    for name, gradient in expected.items():
        scale = gradient.abs().max()
        assert scale > 0, name
        assert torch.equal(ranks[0][name], ranks[1][name])
        assert (ranks[0][name] - gradient).abs().max() <= 1e-5 * scale, name
