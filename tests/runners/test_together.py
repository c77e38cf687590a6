"""Packed micro-batches of an update in few forwards: the gradient is that of separate micro-batches."""

import numpy as np
import pytest
import torch

from minigpt4.conversation.conversation import Example, Turn
from minigpt4.datasets.mixture import MixtureComponent, MixtureSampler, Sample, SampleRef
from minigpt4.runners.loader import Collator
from tests.models.golden_model import tiny_model
from tests.runners.in_process import train_here, train_step_of, update_of
from tests.runners.test_training_runs import checkpoint
from tests.runners.tiny import log_lines, tiny_config, train_on_ranks


def fetched(text, group):
    return Sample(SampleRef("gqa", 0, 0, group), Example(turns=(Turn(text, "yes " * (group + 1)),), id=text))


def collated(max_tokens, *texts_and_groups):
    return Collator(tiny_model().chat_encoder, max_tokens=max_tokens)([fetched(*pair) for pair in texts_and_groups])


def test_samples_go_where_they_first_fit_the_longest_first():
    lengths = {text: len(collated(None, (text, 0))[0].batch.input_ids) for text in ("a", "b b b", "c c c c c c")}
    limit = lengths["a"] + lengths["c c c c c c"]
    assert lengths["b b b"] + lengths["c c c c c c"] > limit
    parts = collated(limit, ("a", 0), ("b b b", 0), ("c c c c c c", 0))
    assert [part.ids for part in parts] == [("c c c c c c", "a"), ("b b b",)]
    assert [len(part.batch.input_ids) for part in parts] == [limit, lengths["b b b"]]


def test_a_sample_longer_than_the_limit_goes_alone():
    assert [part.ids for part in collated(1, ("a", 0), ("b", 0))] == [("a",), ("b",)]


def test_nothing_that_can_be_used_is_one_part_of_nothing():
    [part] = Collator(tiny_model().chat_encoder, max_tokens=100)([])
    assert part.ids == () and len(part.batch.input_ids) == 0


def sampler(rank, **how):
    return MixtureSampler([MixtureComponent("gqa", 50, 2, 1.0)], num_steps=5, seed=0, rank=rank, world_size=3, **how)


def test_a_draw_keeps_its_rank_and_its_step_in_the_update():
    whole, single = list(sampler(1, steps_per_batch=[2, 2, 1])), list(sampler(1))
    assert [[ref.micro_batch_id for ref in refs] for refs in whole] == [[1, 1, 4, 4], [1, 1, 4, 4], [1, 1]]
    assert [ref.row for ref in whole[1]] == [ref.row for refs in single[2:4] for ref in refs]


@pytest.mark.parametrize("balance", [False, True])
def test_the_plan_of_all_ranks_is_what_each_rank_takes(balance):
    plans = list(sampler(0, steps_per_batch=[2, 3], balance=balance).plans())
    for rank in range(3):
        assert list(sampler(rank, steps_per_batch=[2, 3], balance=balance)) == [plan[rank] for plan in plans]


def test_steps_that_come_together_are_shared_out_together():
    """Three ranks with two samples each at five steps are thirty: ten a rank, whose costs even out over all steps."""
    costs = np.arange(50, dtype=np.float32) + 1
    component = MixtureComponent("gqa", 50, 2, 1.0, lengths=costs)
    at = {"num_steps": 5, "seed": 0, "world_size": 3, "balance": True}
    ratios = []
    for together in ([1] * 5, [5]):
        loads = [
            sum(
                costs[ref.row]
                for refs in MixtureSampler([component], **at, rank=rank, steps_per_batch=together)
                for ref in refs
            )
            for rank in range(3)
        ]
        ratios.append(max(loads) / (sum(loads) / 3))
    assert ratios[1] < 1.02 < ratios[0]
    drawn = [
        ref
        for rank in range(3)
        for ref in next(iter(MixtureSampler([component], **at, rank=rank, steps_per_batch=[5])))
    ]
    assert sorted(ref.micro_batch_id for ref in drawn) == [group for group in range(15) for _ in range(2)]
    assert len({ref.row for ref in drawn}) == 30


@pytest.mark.parametrize("max_tokens", [1, 40, 10_000])
def test_the_gradient_is_the_sum_of_the_draws_own_means(max_tokens):
    refs = [("one", 0), ("another one", 0), ("two", 1), ("Why is that so?", 2), ("three", 2)]
    model = tiny_model().eval()
    separate = [sum_of_means(model, [collated(None, *[pair for pair in refs if pair[1] == n])[0]]) for n in range(3)]
    gradients, losses = zip(*separate, strict=True)
    together, found = sum_of_means(model, collated(max_tokens, *refs), num_draws=3)
    assert torch.allclose(found, torch.stack([loss[0] for loss in losses]), rtol=1e-5)
    for name, gradient in together.items():
        wanted = sum(one[name] for one in gradients)
        assert (gradient - wanted).abs().max() <= 2e-5 * wanted.abs().max().clamp(min=1e-12), name


def sum_of_means(model, parts, *, num_draws=None):
    """Return the gradients of parts, and each draw's loss; of one draw alone as the plain mean."""
    model.zero_grad()
    if num_draws:
        losses = train_step_of(model)(update_of(parts, num_steps=num_draws)).losses[:, 0]
    else:
        [part] = parts
        output = model(part.batch)
        output.loss.backward()
        losses = output.loss.detach()[None]
    return {name: parameter.grad.clone() for name, parameter in model.trainable()}, losses


def without_dropout(**run):
    config = tiny_config(max_epoch=1, iters_per_epoch=6, accum_grad_iters=3, **run)
    config["model"]["lora_dropout"] = 0.0
    return config


@pytest.mark.parametrize(("num_processes", "strategy"), [(1, "ddp"), (2, "ddp"), (2, "fsdp")])
def test_a_run_with_its_draws_together_is_the_run_with_them_apart(tmp_path, num_processes, strategy):
    config = without_dropout(strategy=strategy)
    for job, options in {"apart": [], "together": ["run.max_tokens_per_forward=150"]}.items():
        if num_processes == 1:
            assert train_here(tmp_path, config, f"run.job_id={job}", *options).num_steps == 6
        else:
            done = train_on_ranks(tmp_path, config, f"run.job_id={job}", *options, num_ranks=num_processes)
            assert done.returncode == 0, done.stderr
    apart, together = (checkpoint(tmp_path, 0, job) for job in ("apart", "together"))
    assert {int(state["step"]) for state in together["optimizer"]["state"].values()} == {2}
    for name, weight in apart["model"].items():
        assert torch.allclose(weight, together["model"][name], rtol=0, atol=2e-5), name
    lines = log_lines(tmp_path, "together")
    assert [line["step"] for line in lines] == [2, 5]
    means = [sum(line["loss"] for line in log_lines(tmp_path, "apart")[at : at + 3]) / 3 for at in (0, 3)]
    assert [line["loss"] for line in lines] == pytest.approx(means, rel=1e-4)


def test_images_seen_ahead_change_no_bit(tmp_path):
    for job, option in {"ahead": "run.look_ahead=True", "plain": "run.look_ahead=False"}.items():
        config = tiny_config(max_epoch=1, iters_per_epoch=5)
        assert train_here(tmp_path, config, f"run.job_id={job}", option).num_steps == 5
    ahead, plain = (checkpoint(tmp_path, 0, job)["model"] for job in ("ahead", "plain"))
    assert all(torch.equal(weight, ahead[name]) for name, weight in plain.items())
    assert [line["loss"] for line in log_lines(tmp_path, "ahead")] == [x["loss"] for x in log_lines(tmp_path, "plain")]
