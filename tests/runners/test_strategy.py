"""Two gloo processes train the recorded tiny model: whole on each (ddp), its language model in shards (fsdp)."""

import os

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from minigpt4.models.base_model import BaseModel
from minigpt4.runners.strategy import Parallel, wrap
from tests.forked import on_ranks
from tests.runners.test_two_processes_equal_one import batches, gradients, load_model
from tests.runners.tiny import tiny_config, write_config
from tests.runners.two_ranks import CPU, one_batch, one_rank, random_model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(write_config(tmp_path_factory.mktemp("config"), tiny_config()))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, path):
    folder = tmp_path_factory.mktemp("ranks")
    on_ranks(one_rank, (path, str(folder)))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture
def group_of_one(tmp_path):
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def assert_same_gradients(ours, expected, scale_of=1.0, tolerance=1e-5):
    assert ours.keys() == expected.keys() and len(expected) > 4
    for name, gradient in expected.items():
        assert (ours[name] - gradient * scale_of).abs().max() <= tolerance * gradient.abs().max(), name


def test_each_rank_holds_half_of_the_frozen_language_model_and_all_else(ranks):
    for rank in ranks:
        shares = rank["held"]["shares"]
        assert len(shares) == 2 + 2 * 9  # embedding, head, and of each layer four of attention, three of MLP, two norms
        assert set(shares.values()) == {0.5}
        assert not any("lora" in name or not name.startswith("language_model.") for name in shares)
        assert rank["held"]["same names"]


@pytest.mark.parametrize("case", ["gradient ddp", "gradient ddp after backward", "gradient fsdp"])
def test_the_norm_that_clips_a_gradient_is_the_same_on_both_ranks(ranks, case):
    norms = [get_total_norm(list(rank[case].values())) for rank in ranks]
    assert torch.equal(*norms) and norms[0] > 0
    one = get_total_norm(list(ranks[0]["gradient ddp"].values()))
    torch.testing.assert_close(norms[0], one, rtol=1e-5, atol=0)


def test_text_on_one_rank_and_images_on_the_other_give_the_same_gradient_by_both_strategies(ranks):
    for rank in ranks:
        assert_same_gradients(rank["gradient fsdp"], rank["gradient ddp"])
        assert all(gradient.abs().max() > 0 for gradient in rank["gradient fsdp"].values())
    for name, gradient in ranks[0]["gradient fsdp"].items():
        assert torch.equal(gradient, ranks[1]["gradient fsdp"][name]), name


def test_gradients_averaged_after_backward_are_those_averaged_during_it(ranks):
    for rank in ranks:
        assert_same_gradients(rank["gradient ddp after backward"], rank["gradient ddp"], tolerance=1e-6)


def test_the_float32_of_what_is_trained_stays_beside_16_bit_shards(ranks):
    for rank in ranks:
        assert {gradient.dtype for gradient in rank["gradient fsdp bfloat16"].values()} == {torch.float32}
        # whole weights are joined, shards are not: the products round elsewhere
        assert_same_gradients(rank["gradient fsdp bfloat16"], rank["gradient ddp bfloat16"], tolerance=0.05)


def test_recomputed_activations_give_the_same_gradient_in_shards(ranks):
    assert_same_gradients(ranks[0]["gradient recomputed"], ranks[0]["gradient ddp"])


def test_a_rank_without_samples_adds_nothing_and_keeps_nobody_waiting(ranks, path):
    model = load_model(path)
    model(batches(model, ["text"])[0]).loss.backward()
    assert_same_gradients(ranks[1]["gradient of one rank"], gradients(model), scale_of=0.5)
    assert ranks[1]["fsdp"][4] == 0.0


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp recomputing"])
def test_twenty_steps_lose_the_same_by_both_strategies(ranks, strategy):
    """Relative 1e-5: the same sums in the same order, so that they have been equal to the last bit."""
    for rank in ranks:
        assert rank[strategy] == pytest.approx(rank["ddp"], rel=1e-5, abs=0)
    losses = ranks[0]["ddp"]
    assert len(losses) == 20 and losses[15] < 0.5 * losses[0]


@pytest.mark.parametrize(("resumed", "unbroken"), [("ddp after fsdp", "fsdp"), ("fsdp after ddp", "ddp")])
def test_a_checkpoint_of_one_strategy_resumes_in_the_other(ranks, resumed, unbroken):
    for rank in ranks:
        assert len(rank[resumed]) == 10
        assert rank[resumed] == pytest.approx(rank[unbroken][10:], rel=1e-5, abs=0)


def test_ranks_evaluate_together_in_shards(ranks):
    for rank in ranks:
        whole, sharded = rank["evaluated"]["losses"]
        assert sharded == pytest.approx(whole, rel=1e-6)


def test_a_rank_that_generates_alone_is_refused_instead_of_waiting_forever(ranks):
    assert "computes only when all ranks call it together" in ranks[0]["evaluated"]["refused"]


def test_random_weights_are_drawn_part_by_part_and_what_is_trained_is_the_same_on_all_ranks(ranks):
    states = [rank["drawn"]["state"] for rank in ranks]
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
        assert bool(tensor.any()) == ("lora_B" not in name and "bias" not in name), name
    assert all(5 < rank["drawn"]["loss"] < 6.5 for rank in ranks)  # ln 300 = 5.7


def test_tied_weights_stay_whole_and_tied(group_of_one):
    model = random_model(tie_word_embeddings=True)
    llama = model.language_model.causal_lm
    parallel = wrap(model, strategy="fsdp", device=CPU)
    assert llama.lm_head.weight is llama.model.embed_tokens.weight
    assert not isinstance(llama.lm_head.weight, DTensor)
    assert isinstance(llama.model.norm.weight, nn.Parameter)
    assert isinstance(llama.model.layers[0].mlp.up_proj.weight, DTensor)
    assert 5 < parallel.module(one_batch(model, ("image",))).loss.item() < 6.5


def test_8_bit_weights_are_not_sharded(group_of_one):
    model = random_model()
    layer = model.language_model.causal_lm.model.layers[0].mlp.up_proj
    layer.weight = nn.Parameter(torch.zeros(64, 32, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=r"run\.strategy: fsdp does not shard 8-bit or 4-bit weights; use ddp"):
        wrap(model, strategy="fsdp", device=CPU)


def test_a_model_without_parts_to_shard_is_refused(group_of_one):
    with pytest.raises(ValueError, match=r"run\.strategy: BaseModel has no part that fsdp could shard; use ddp"):
        wrap(BaseModel(), strategy="fsdp", device=CPU)


def test_a_process_alone_keeps_the_whole_model_and_says_so(caplog):
    model = nn.Linear(2, 2)
    parallel = wrap(model, strategy="fsdp", device=CPU)
    assert type(parallel) is Parallel and parallel.module is model
    assert "this process is alone: it holds the whole model" in caplog.text


def test_an_unknown_strategy_is_refused():
    with pytest.raises(ValueError, match=r"run\.strategy: ddp or fsdp, not zero"):
        wrap(nn.Linear(2, 2), strategy="zero", device=CPU)
