import pytest
import torch
from torch import nn

from minigpt4.common.seeds import derive_rng, seed_torch
from minigpt4.conversation.conversation import IGNORE_INDEX
from tools.tiny_weights.pretrain import Stage, answer_weights, learning_rate, make_optimizers, run_stage

STAGE = Stage("small", num_steps=5, batch_size=4, lr=0.1, last_lr=0.001)


def start():
    """A model with a matrix in a layer, which Muon trains, and other tensors."""
    seed_torch(1, "small")
    return nn.ModuleDict(
        {"model": nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(3, 3)])}), "head": nn.Linear(3, 1)}
    )


def matrix_of(parts):
    return parts["model"]["layers"][0].weight


def learner(model, *, stop_at=None, seen=None):
    """A step on numbers that depend on the step alone; it stops at a step, as a kill would."""

    def learn(step):
        if step == stop_at:
            raise KeyboardInterrupt
        rng = derive_rng("numbers", step)
        numbers = torch.tensor([[rng.random() for _ in range(3)] for _ in range(STAGE.batch_size)])
        answers = model["head"](model["model"]["layers"][0](numbers))
        loss = (answers - numbers.sum(1, keepdim=True)).square().mean()
        loss.backward()
        if seen is not None:
            seen.append(step)
        return float(loss.detach())

    return learn


def test_a_stage_that_was_stopped_goes_on_from_its_last_state_and_ends_with_the_same_weights(tmp_path):
    whole, stopped, resumed = start(), start(), start()
    run_stage(STAGE, tmp_path, whole, learner(whole), lambda _: "")
    (tmp_path / "small.pth").rename(tmp_path / "whole.pth")
    with pytest.raises(KeyboardInterrupt):
        run_stage(STAGE, tmp_path, stopped, learner(stopped, stop_at=3), lambda _: "", save_every=2)
    seen = []
    run_stage(STAGE, tmp_path, resumed, learner(resumed, seen=seen), lambda _: "", save_every=2)
    assert seen == [2, 3, 4]
    assert all(torch.equal(one, other) for one, other in zip(resumed.parameters(), whole.parameters(), strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(whole.parameters(), start().parameters(), strict=True))


def test_a_stage_that_is_done_is_read_and_not_run_again(tmp_path):
    first, second = start(), start()
    run_stage(STAGE, tmp_path, first, learner(first), lambda _: "")
    run_stage(STAGE, tmp_path, second, learner(second, stop_at=0), lambda _: "")
    assert torch.equal(matrix_of(first), matrix_of(second)) and not torch.equal(matrix_of(first), matrix_of(start()))


def test_muon_trains_the_matrices_of_layers_and_adamw_the_other_tensors():
    adamw, muon = make_optimizers(start())
    assert isinstance(adamw, torch.optim.AdamW) and isinstance(muon, torch.optim.Muon)
    assert [tuple(p.shape) for group in muon.param_groups for p in group["params"]] == [(3, 3)]
    assert sorted(tuple(p.shape) for group in adamw.param_groups for p in group["params"]) == [(1,), (1, 3), (3,)]


def test_the_learning_rate_rises_and_then_falls_to_the_last_rate():
    stage = Stage("long", num_steps=1100, batch_size=1, lr=2.0, last_lr=0.02)
    assert [learning_rate(stage, step) for step in (0, 49, 99)] == pytest.approx([0.02, 1.0, 2.0])
    assert [learning_rate(stage, step) for step in (600, 1100)] == pytest.approx([1.01, 0.02])


def test_the_tokens_of_an_answer_weigh_less_the_more_of_them_there_are():
    end, no = 2, IGNORE_INDEX
    labels = torch.tensor([[no, 7, end, no, 5, 5, 5, end], [no, no, end, no, no, no, no, no]])
    assert answer_weights(labels, end).tolist() == pytest.approx([2**-0.5] * 2 + [0.5] * 4 + [1.0])
