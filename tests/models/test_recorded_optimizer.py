"""Optimizer groups and whole runs of AdamW against the recording."""

import pytest
import torch

from minigpt4.common.checkpoint import read_checkpoint
from tests.models.golden_model import ASSETS, examples_of, recorded, tiny_model

RUNS = recorded("optim.json")


def names_of_groups(model, groups):
    name_of = {id(parameter): name for name, parameter in model.trainable()}
    return [[name_of[id(parameter)] for parameter in group["params"]] for group in groups]


@pytest.mark.parametrize(
    ("recording", "freeze_vit"),
    [(RUNS["five_steps"]["param_groups"], True), (RUNS["param_groups_freeze_vit_false"], False)],
)
def test_the_groups_hold_the_recorded_parameters_in_the_recorded_order(recording, freeze_vit):
    model = tiny_model(freeze_vit=freeze_vit)
    groups = model.optimizer_groups(0.05)
    assert names_of_groups(model, groups) == [group["params"] for group in recording]
    assert [group["weight_decay"] for group in groups] == [group["weight_decay"] for group in recording] == [0.05, 0.0]


def run(name, *, start=None, start_optimizer=None):
    """Replay a recorded run with the recorded learning rates; return model, losses before each step, and at the end."""
    call, arrays = RUNS[name], recorded(f"optim_{name}.npz")
    model = tiny_model(**({"ckpt": str(start)} if start else {}))
    config = call["run_cfg"]
    optimizer = torch.optim.AdamW(
        model.optimizer_groups(config["weight_decay"]), lr=config["init_lr"], betas=(0.9, config.get("beta2", 0.999))
    )
    if start_optimizer:
        optimizer.load_state_dict(start_optimizer)
    batches = [model.chat_encoder.collate(examples_of(samples)) for samples in call["batches"]]
    losses = []
    for step in range(call["n_iter"]):
        for group in optimizer.param_groups:
            group["lr"] = arrays["lrs"][step].item()
        loss = model(batches[step % len(batches)]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        final = [model(batch).loss.item() for batch in batches]
    return model, optimizer, losses, final


def hold_against_the_recording(name, model, losses, final):
    """Losses to 1e-4, weights to 1e-5: eight steps of Adam carry float32's noise further than one gradient does."""
    call, arrays = RUNS[name], recorded(f"optim_{name}.npz")
    assert losses == pytest.approx(call["losses_before_each_step"], abs=1e-4)
    assert final == pytest.approx(call["loss_after_last_step_per_batch"], abs=1e-4)
    for parameter_name, parameter in model.trainable():
        wanted = arrays[f"final:{parameter_name}"]
        torch.testing.assert_close(parameter.detach(), wanted, rtol=0, atol=1e-5, msg=parameter_name)


@pytest.mark.parametrize("name", ["five_steps", "five_steps_big_wd_beta2"])
def test_a_run_has_the_recorded_losses_and_weights(name):
    model, _, losses, final = run(name)
    hold_against_the_recording(name, model, losses, final)


def test_a_run_continues_from_a_recorded_checkpoint_and_its_optimizer_state():
    path = ASSETS / "minigptv2_tiny_ckpt_after_five_steps.pth"
    model, _, losses, final = run(
        "resumed_three_more_steps", start=path, start_optimizer=read_checkpoint(path)["optimizer"]
    )
    hold_against_the_recording("resumed_three_more_steps", model, losses, final)


def test_after_five_steps_weights_and_optimizer_state_are_those_of_the_recorded_checkpoint():
    model, optimizer, _, _ = run("five_steps")
    wanted = read_checkpoint(ASSETS / "minigptv2_tiny_ckpt_after_five_steps.pth")
    ours = model.trainable_state()
    assert list(ours) == [name for name in wanted["model"] if not name.endswith("inv_freq")]
    for name, value in ours.items():
        torch.testing.assert_close(value, wanted["model"][name], rtol=0, atol=1e-5, msg=name)
    state = optimizer.state_dict()["state"]
    assert sorted(state) == sorted(wanted["optimizer"]["state"])
    for index, slots in wanted["optimizer"]["state"].items():
        assert state[index]["step"] == slots["step"] == 5
        for slot in ("exp_avg", "exp_avg_sq"):
            limit = 1e-4 * slots[slot].abs().max().item()
            torch.testing.assert_close(state[index][slot], slots[slot], rtol=0, atol=limit)


def test_a_text_step_gives_the_projection_a_zero_gradient_so_that_momentum_and_decay_continue():
    """The recorded run leaves the projection as it is in its text steps: its first two weights are equal."""
    recording = RUNS["epoch1_text_and_image"]
    before = recorded("optim_epoch1_text_and_image.npz")["llama_proj_weight_before_each_step"]
    assert torch.equal(before[0], before[1])
    model = tiny_model()
    optimizer = torch.optim.AdamW(model.optimizer_groups(0.05), lr=0.1)
    loss = model(model.chat_encoder.collate(examples_of(recording["batches"][0]))).loss
    assert loss.item() == pytest.approx(recording["losses_before_each_step"][0], abs=1e-4)
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(model.projector.linear.weight.detach(), before[0] * (1 - 0.1 * 0.05), rtol=0, atol=1e-7)
