"""Shared-out samples: the gradient stays that of the independent micro-batches, and the ranks come out even."""

import json
import os

import torch
import torch.distributed as dist

from minigpt4.common.config import Config
from minigpt4.datasets.mixture import MixtureComponent, MixtureDataset, MixtureSampler, SampleRef, balance_by_cost
from minigpt4.runners.loader import Collator
from minigpt4.runners.strategy import wrap
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask
from tests.forked import on_ranks, run_script
from tests.runners.in_process import train_step_of, update_of
from tests.runners.test_two_processes_equal_one import gradients, load_model
from tests.runners.tiny import DATA, ROOT, tiny_config, write_config

NUM_STEPS = 4


def steps_of(path, *, rank, balance):
    """Return the batches of a rank's first steps, as the runner's loader gives them."""
    cfg = Config.load(path)
    datasets = {name: sets["train"] for name, sets in ImageTextPretrainTask().build_datasets(cfg).items()}
    components = [
        MixtureComponent(name, len(rows), body.batch_size, body.sample_ratio, length=number + 1.0)
        for number, ((name, rows), body) in enumerate(zip(datasets.items(), cfg.datasets_cfg.values(), strict=True))
    ]
    sampler = MixtureSampler(components, num_steps=NUM_STEPS, seed=3, rank=rank, world_size=2, balance=balance)
    mixture = MixtureDataset(datasets, seed=3)
    return [mixture.__getitems__(refs) for refs in sampler]


def one_rank(rank, path, out):
    os.chdir(DATA)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=2)
    for balance in (False, True):
        model = load_model(path)
        parallel = wrap(model, strategy="ddp", device=torch.device("cpu"))
        collate, losses, sizes = Collator(model.chat_encoder), [], []
        for fetched in steps_of(path, rank=rank, balance=balance):
            [packed] = collate(fetched)
            part = torch.zeros(2)
            if balance:
                part += train_step_of(model, parallel=parallel)(update_of([packed])).losses[0]
            else:  # by the definition: the mean of what the rank drew
                output = parallel.module(packed.batch)
                output.loss.backward()
                part[rank] = output.loss.detach()
            dist.all_reduce(part)
            losses.append(part)
            sizes.append(len(packed.ids))
        result = {"grads": gradients(model), "losses": torch.stack(losses), "sizes": sizes}
        torch.save(result, f"{out}/{rank}{balance}.pt")
    dist.destroy_process_group()


def test_the_gradient_of_shared_out_samples_is_that_of_the_draws(tmp_path):
    config = tiny_config()
    config["datasets"]["llava_conversation"] = {"batch_size": 1, "sample_ratio": 3}
    path = write_config(tmp_path, config)
    on_ranks(one_rank, (str(path), str(tmp_path)))
    plain, even = (torch.load(tmp_path / f"0{balance}.pt", weights_only=True) for balance in (False, True))
    sizes = [[torch.load(tmp_path / f"{r}{b}.pt", weights_only=True)["sizes"] for r in (0, 1)] for b in (False, True)]
    assert sizes[0] != sizes[1], "nothing was moved"
    assert [sum(pair) for pair in zip(*sizes[0], strict=True)] == [sum(pair) for pair in zip(*sizes[1], strict=True)]
    assert torch.allclose(plain["losses"], even["losses"], rtol=1e-5)
    for name, gradient in plain["grads"].items():
        assert (even["grads"][name] - gradient).abs().max() <= 2e-5 * gradient.abs().max(), name


def test_samples_are_shared_out_by_cost():
    dear, cheap = MixtureComponent("dear", 9, 4, 1, length=10.0), MixtureComponent("cheap", 9, 4, 1, length=1.0)
    groups = [[SampleRef("dear", row, 0, 0) for row in range(4)], [SampleRef("cheap", row, 0, 1) for row in range(4)]]
    shares = balance_by_cost(groups, [dear, cheap], num_ranks=2)
    assert [sorted(ref.dataset for ref in share) for share in shares] == [["cheap", "cheap", "dear", "dear"]] * 2
    assert sorted(map(repr, shares[0] + shares[1])) == sorted(map(repr, groups[0] + groups[1]))


def test_samples_of_a_stream_stay_on_their_rank():
    stream, rows = MixtureComponent("web", None, 2, 1, length=5.0), MixtureComponent("gqa", 9, 2, 1, length=1.0)
    groups = [
        [SampleRef("web", 0, 0, 0), SampleRef("web", 1, 0, 0)],
        [SampleRef("gqa", 1, 0, 1), SampleRef("gqa", 2, 0, 1)],
    ]
    assert balance_by_cost(groups, [stream, rows], num_ranks=2) == groups


def test_balance_brings_the_largest_rank_close_to_the_mean():
    """At 8 ranks on the shipped mixture; the command also does 64."""
    done = run_script([ROOT / "benchmarks/balance.py", "--ranks", "8", "--steps", "100"], cwd=ROOT)
    figures = json.loads(done.stdout)
    assert figures["as_drawn"] > 1.35
    assert figures["by_length"] < 1.12 < 1.17 < figures["by_number"]
