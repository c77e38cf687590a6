import torch

from tests.runners.in_process import train_here
from tests.runners.test_training_runs import checkpoint
from tests.runners.tiny import log_lines, tiny_config


def test_accumulated_steps_are_averaged_and_an_epoch_ends_on_an_update(tmp_path):
    """5 steps an epoch in pairs: updates after steps 1, 3 and 4, the last one of a single step."""
    config = tiny_config(max_epoch=1, iters_per_epoch=5, accum_grad_iters=2)
    assert train_here(tmp_path, config).num_steps == 5
    saved = checkpoint(tmp_path, 0)
    assert {int(state["step"]) for state in saved["optimizer"]["state"].values()} == {3}
    assert len(log_lines(tmp_path)) == 5


def test_two_equal_steps_accumulated_are_one_step(tmp_path):
    """A dataset of one row without any draw gives the same batch every step; dropout is off."""
    rows = tmp_path / "instructions.json"
    rows.write_text('[{"instances": [{"instruction_with_input": "Say yes.", "constraints": null, "output": "yes"}]}]')
    config = tiny_config(max_epoch=1, warmup_steps=0)
    config["model"]["lora_dropout"] = 0.0
    config["datasets"] = {"unnatural_instruction": {"build_info": {"ann_path": str(rows)}}}
    assert train_here(tmp_path, config, "run.iters_per_epoch=1", "run.job_id=single").num_steps == 1
    options = ("run.iters_per_epoch=2", "run.accum_grad_iters=2", "run.min_lr=1e-3")  # a constant rate
    assert train_here(tmp_path, config, "run.job_id=pair", *options).num_steps == 2
    one, two = checkpoint(tmp_path, 0, "single")["model"], checkpoint(tmp_path, 0, "pair")["model"]
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], rtol=0, atol=1e-7), name
