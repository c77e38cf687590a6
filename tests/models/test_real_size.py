"""The model at its real size, on the meta device: names, shapes and the number of trained weights."""

import pytest
import torch
from omegaconf import OmegaConf

from minigpt4.common.schema import ModelConfig
from minigpt4.models.minigpt_v2 import MiniGPTv2
from tests.models.golden_model import recorded


@pytest.fixture(scope="module")
def model():
    config = OmegaConf.merge(OmegaConf.structured(ModelConfig), {"random_weights": True, "vit_precision": "fp32"})
    with torch.device("meta"):
        return MiniGPTv2.from_config(config)


def recorded_shapes(name):
    keys = recorded(f"assets/{name}")["keys"]
    return {key: tuple(entry["shape"]) for key, entry in keys.items() if "inv_freq" not in key}


def test_the_checkpoint_has_the_recorded_keys_and_shapes_in_order(model):
    ours = {name: tuple(value.shape) for name, value in model.trainable_state().items()}
    wanted = recorded_shapes("real_checkpoint_keys.json")
    assert list(ours.items()) == list(wanted.items())
    assert len(ours) == 130


def test_33_55_million_lora_and_23_07_million_projection_weights_are_trained(model):
    num_lora = 32 * 2 * (64 * 4096 + 4096 * 64)
    num_projection = 5632 * 4096 + 4096
    assert (num_lora, num_projection) == (33_554_432, 23_072_768)
    assert model.num_trainable() == num_lora + num_projection


def test_the_vision_encoder_has_the_recorded_keys_and_shapes(model):
    ours = {name: tuple(value.shape) for name, value in model.vision_tower.vit.state_dict().items()}
    assert ours == recorded_shapes("real_eva_keys.json")


def test_the_language_model_has_the_recorded_keys_and_shapes(model):
    """Those of the recorded list, by today's names: peft has since put a base_layer beside its adapters."""
    ours = {
        f"llama_model.{name}".replace(".base_layer", "").replace(".default", ""): tuple(value.shape)
        for name, value in model.language_model.model.state_dict().items()
    }
    wanted = recorded_shapes("real_llama_full_keys.json")
    assert {name for name in wanted if not name.startswith("llama_model.")} == {
        *("ln_vision.weight", "ln_vision.bias", "llama_proj.weight", "llama_proj.bias")
    }
    # the recorded model wraps its head so that logits become float32
    unwrapped = {name.replace("lm_head.0.weight", "lm_head.weight"): shape for name, shape in wanted.items()}
    assert ours == {name: shape for name, shape in unwrapped.items() if name.startswith("llama_model.")}


def test_an_image_costs_256_tokens(model):
    assert model.chat_encoder.num_image_tokens == 256


def test_frozen_weights_come_to_0_99_and_6_74_billion(model):
    num_vit = sum(parameter.numel() for parameter in model.vision_tower.vit.parameters())
    num_llm = sum(
        parameter.numel() for parameter in model.language_model.model.parameters() if not parameter.requires_grad
    )
    assert (round(num_vit / 1e9, 2), round(num_llm / 1e9, 2)) == (0.99, 6.74)
