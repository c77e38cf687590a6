"""Two gloo processes train a second tower and a second language model: whole on each (ddp), and in shards (fsdp)."""

import os

import pytest
import torch
import torch.multiprocessing as mp

from tests.plugins.parts import build
from tests.plugins.two_ranks import batch_of, one_rank


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("ranks")
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    mp.spawn(one_rank, args=(str(files), str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_have_the_gradient_of_one_process_that_sees_both_batches(strategy, kind, model, ranks):
    sum(model(batch_of(model, rank)).loss for rank in (0, 1)).div(2).backward()
    ours, others = (rank[kind][strategy][1] for rank in ranks)
    for name, parameter in model.trainable():
        scale = parameter.grad.abs().max()
        assert scale > 0, name
        assert torch.equal(ours[name], others[name])
        assert (ours[name] - parameter.grad).abs().max() <= 1e-5 * scale, name


def test_shards_train_to_the_losses_of_whole_models(kind, ranks):
    for rank in ranks:
        whole, shards = rank[kind]["ddp"][0], rank[kind]["fsdp"][0]
        assert shards == pytest.approx(whole, rel=1e-4)
        assert whole[-1] < whole[0]


def test_each_rank_holds_half_of_the_layers_of_the_language_model(kind, ranks, files):
    for rank in ranks:
        assert rank[kind]["ddp shares"] == {}
        shares = rank[kind]["fsdp shares"]
        layers = [
            name for name, _ in build(kind, files).named_parameters() if ".layers." in name and "lora" not in name
        ]
        assert set(layers) <= set(shares) and {shares[name] for name in layers} == {0.5}
        assert all(name.startswith("language_model.") for name in shares)


def test_random_weights_may_be_drawn_in_shards(ranks):
    assert all(4 < rank["drawn late"] < 8 for rank in ranks)  # ln 320 = 5.8
