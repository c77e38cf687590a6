"""Trainable tensors under their published names: what loads, what is written, what is refused."""

import pytest
import torch

from minigpt4.common.checkpoint import read_checkpoint, write_checkpoint
from tests.models.golden_model import ASSETS, tiny_model

CKPT = ASSETS / "minigptv2_tiny_ckpt.pth"
LORA_A = "llama_model.base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"


@pytest.fixture
def state():
    return read_checkpoint(CKPT)["model"]


def published_keys():
    lines = (ASSETS / "minigptv2_tiny_ckpt_keys.txt").read_text().splitlines()
    return [line.split("\t")[0] for line in lines if "inv_freq" not in line]


def test_a_checkpoint_that_we_write_has_the_published_names_and_loads_back(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        model.projector.linear.bias += 1
    write_checkpoint(tmp_path / "checkpoint_0.pth", {"model": model.trainable_state(), "epoch": 0})
    written = read_checkpoint(tmp_path / "checkpoint_0.pth")["model"]
    assert list(written) == published_keys()
    assert {value.dtype for value in written.values()} == {torch.float32}
    again = tiny_model(ckpt=str(tmp_path / "checkpoint_0.pth"))
    assert all(torch.equal(value, written[name]) for name, value in again.trainable_state().items())


def test_the_published_checkpoint_loads_into_the_parameters_it_names(state):
    model = tiny_model()
    ours = model.trainable_state()
    assert all(torch.equal(ours[name], state[name]) for name in published_keys())
    layer = model.language_model.model.base_model.model.model.layers[1].self_attn.v_proj
    assert torch.equal(layer.lora_A["default"].weight, state[LORA_A])


def test_the_naming_of_newer_peft_loads_as_well(state):
    model = tiny_model(ckpt=None)
    newer = {name.replace(".weight", ".default.weight") if "lora_" in name else name: v for name, v in state.items()}
    model.load_trainable_state(newer)
    assert all(torch.equal(value, state[name]) for name, value in model.trainable_state().items())


def test_a_state_that_does_not_fit_is_refused_with_every_key_and_changes_nothing(state):
    model = tiny_model(ckpt=None)
    before = {name: value.clone() for name, value in model.trainable_state().items()}
    del state["llama_proj.bias"]
    state["head.weight"] = torch.zeros(1)
    state[LORA_A] = torch.zeros(8, 64)
    with pytest.raises(ValueError) as caught:
        model.load_trainable_state(state, source="x.pth")
    assert str(caught.value) == (
        "x.pth does not fit this model: missing ['llama_proj.bias'], unexpected ['head.weight'], "
        f"shapes ['{LORA_A} (8, 64), not (4, 64)']"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.trainable_state().items())


def test_a_checkpoint_that_matches_nothing_is_refused_by_name(tmp_path):
    torch.save({"model": {}}, tmp_path / "empty.pth")
    with pytest.raises(ValueError, match=r"empty\.pth does not fit this model: missing \['llama_model"):
        tiny_model(ckpt=str(tmp_path / "empty.pth"))


def test_a_checkpoint_of_another_rank_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"minigptv2_tiny_ckpt\.pth does not fit .*lora_A\.weight \(4, 64\), not \(8, 64\)"
    ):
        tiny_model(lora_r=8)


def test_a_trained_vision_encoder_keeps_its_base_weights_when_the_checkpoint_was_saved_without_it(state):
    model = tiny_model(freeze_vit=False)
    assert torch.equal(model.projector.linear.weight, state["llama_proj.weight"])
    assert len(model.trainable_state()) > len(published_keys())


def test_half_a_vision_encoder_in_a_checkpoint_is_refused(state):
    model = tiny_model(freeze_vit=False)
    state["visual_encoder.cls_token"] = torch.zeros(1, 1, 32)
    with pytest.raises(ValueError, match=r"missing \['visual_encoder\.pos_embed'"):
        model.load_trainable_state(state)


def test_the_number_of_trained_scalars_is_counted():
    assert tiny_model().num_trainable() == 4 * 2 * 64 * 4 + 64 * 128 + 64


def test_a_message_names_the_first_tensors_and_how_many_there_are(state):
    with pytest.raises(ValueError) as caught:
        tiny_model(ckpt=None).load_trainable_state({"other": torch.zeros(1)}, source="x.pth")
    first = "'llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight', "
    assert str(caught.value).startswith(f"x.pth does not fit this model: missing [{first}")
    assert str(caught.value).endswith(", .. 10 in all], unexpected ['other'], shapes []")
