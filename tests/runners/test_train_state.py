"""TrainState: what a checkpoint holds, and the step of the optimizer."""

import pytest
import torch

from minigpt4.runners.train_state import TrainState
from tests.runners.small_model import SmallModel

CPU = torch.device("cpu")


def state_of(*, scale=None, steps_an_epoch=10, weight_decay=0.0, beta2=0.999, **options):
    model = SmallModel()
    groups = model.optimizer_groups(weight_decay)
    return TrainState(
        model=model,
        optimizer=torch.optim.AdamW(groups, lr=1.0, betas=(0.9, beta2), fused=True),
        scaler=torch.amp.GradScaler("cpu", enabled=scale is not None, init_scale=scale or 1.0),
        config={"run": {"iters_per_epoch": steps_an_epoch}},
        num_rows={"gqa": 3},
        frozen_weights_hash={"llama": "x"},
        **options,
    )


def with_gradient(state, scale=1.0):
    """Give a state the gradient 3 in one place and 4 in another: its norm is 5."""
    for _, parameter in state.model.trainable():
        parameter.grad = torch.zeros_like(parameter)
    state.model.table.grad[0, 0], state.model.bias.grad[1] = 3 * scale, 4 * scale
    state.scaler.scale(torch.zeros(()))  # a scaler that scaled no loss knows no scale
    return state


def weights(state):
    return {name: value.clone() for name, value in state.model.trainable_state().items()}


def test_a_checkpoint_has_the_published_keys_and_ours():
    assert list(state_of().state_dict()) == [
        *("model", "optimizer", "config", "scaler", "epoch", "step", "history", "best_loss", "base_model"),
        *("num_rows", "changes"),
    ]


@pytest.mark.parametrize(("step", "epoch"), [(1, 0), (10, 0), (11, 1), (20, 1)])
def test_a_checkpoint_says_the_epoch_of_its_last_step_and_the_next_step(step, epoch):
    saved = state_of(step=step).state_dict()
    assert (saved["epoch"], saved["step"]) == (epoch, step)


def test_what_is_saved_is_loaded():
    one = with_gradient(state_of(best_loss=1.5, changes=[{"option": "run.init_lr"}], scale=4.0), scale=4.0)
    one.advance(3, lr=0.1)
    saved, other = one.state_dict(), state_of(scale=8.0)
    other.load_state_dict(saved, source="x.pth")
    assert (other.step, other.best_loss, other.changes) == (3, 1.5, [{"option": "run.init_lr"}])
    assert other.scaler.get_scale() == 4.0 and other.world_size_log == [(0, 1)]
    assert all(torch.equal(value, weights(other)[name]) for name, value in weights(one).items())
    moments = [state.optimizer.state_dict()["state"][0]["exp_avg"] for state in (one, other)]
    assert torch.equal(*moments) and moments[0].abs().max() > 0


def test_a_checkpoint_of_the_published_trainer_is_of_the_end_of_its_epoch():
    saved = state_of().state_dict()
    published = {key: saved[key] for key in ("model", "optimizer", "config", "scaler")} | {"epoch": 4}
    state = state_of(steps_an_epoch=7)
    state.load_state_dict(published, source="x.pth")
    assert (state.step, state.world_size_log) == (35, [(0, 1)])


def test_another_number_of_ranks_begins_a_part_of_the_run(caplog):
    saved = {**state_of(step=6).state_dict(), "history": [(0, 8), (4, 2)]}
    state = state_of()
    state.load_state_dict(saved, source="x.pth")
    assert state.world_size_log == [(0, 8), (4, 2), (6, 1)]
    assert "x.pth was written by 2 processes, this run has 1" in caplog.text


def test_rates_decay_and_betas_are_those_of_this_run():
    saved = with_gradient(state_of(weight_decay=0.05)).state_dict()
    state = state_of(weight_decay=0.3, beta2=0.9)
    state.load_state_dict(saved, source="x.pth")
    groups = state.optimizer.param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert [group["betas"] for group in groups] == [(0.9, 0.9)] * 2


def test_an_optimizer_of_another_model_is_refused_with_the_file():
    saved = state_of().state_dict()
    saved["optimizer"]["param_groups"][0]["params"] = [0, 1, 2]
    with pytest.raises(ValueError, match=r"x\.pth: its optimizer has groups of \[3, 1\] parameters, this model of \[1"):
        state_of().load_state_dict(saved, source="x.pth")


def test_an_update_moves_the_weights_and_counts_its_steps():
    state = with_gradient(state_of())
    before = weights(state)
    norm = state.advance(4, lr=0.5)
    assert norm.item() == pytest.approx(5.0) and state.step == 4
    assert [group["lr"] for group in state.optimizer.param_groups] == [0.5, 0.5]
    # Adam's first step is the rate, against the gradient's sign
    assert (weights(state)["bias"] - before["bias"])[1].item() == pytest.approx(-0.5)
    assert state.model.bias.grad is None


def test_gradients_that_are_not_finite_are_left_out():
    state = with_gradient(state_of())
    before = weights(state)
    assert state.advance(2, lr=0.5, is_finite=False) is None
    assert all(torch.equal(value, before[name]) for name, value in weights(state).items())
    assert state.step == 2 and not state.optimizer.state and state.model.bias.grad is None


def test_gradients_that_a_graph_knows_stay_where_they_are():
    state = with_gradient(state_of(keeps_gradients=True))
    gradient = state.model.bias.grad
    state.advance(1, lr=0.5)
    assert state.model.bias.grad is gradient and gradient.abs().max() == 0


@pytest.mark.parametrize(("limit", "share"), [(None, 1.0), (10.0, 1.0), (2.5, 0.5)])
def test_a_gradient_is_clipped_to_the_norm_of_the_option(limit, share):
    """Read off the first moment, a tenth of the gradient; the norm is that before clipping."""
    state = with_gradient(state_of(max_grad_norm=limit))
    norm = state.advance(1, lr=0.5)
    moment = state.optimizer.state[state.model.bias]["exp_avg"]
    assert moment[1].item() == pytest.approx(0.1 * 4 * share, rel=1e-5)
    assert norm.item() == pytest.approx(5.0)


def test_a_scaled_gradient_is_clipped_as_if_it_were_not_scaled():
    state = with_gradient(state_of(scale=1024.0, max_grad_norm=2.5), scale=1024.0)
    norm = state.advance(1, lr=0.5)
    assert norm.item() == pytest.approx(5.0)
    assert state.optimizer.state[state.model.bias]["exp_avg"][1].item() == pytest.approx(0.2, rel=1e-5)


def test_a_scaled_gradient_that_overflows_moves_nothing_and_lowers_the_scale():
    state = with_gradient(state_of(scale=1024.0, max_grad_norm=2.5), scale=float("inf"))
    before = weights(state)
    assert not state.advance(1, lr=0.5).isfinite()
    assert all(torch.equal(value, before[name]) for name, value in weights(state).items())
    assert state.scaler.get_scale() == 512.0
