import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from minigpt4.common.registry import registry
from minigpt4.common.schema import ModelConfig
from minigpt4.conversation.conversation import Batch
from minigpt4.runners.flops import ModelFlops, model_flops, peak_flops, utilisation

SIZE = {
    "random_weights": True,
    "image_size": 56,
    "lora_r": 4,
    "vit": {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_ratio": 4.0},
    "llama_config": {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    },
}


def tiny_model(**options):
    cfg = OmegaConf.merge(OmegaConf.structured(ModelConfig), SIZE, options)
    return registry.get_model_class("minigpt_v2").from_config(cfg)


def batch_of(*lengths, num_images, num_targets):
    total = sum(lengths)
    labels = torch.full((total,), -100)
    labels[total - num_targets :] = 5  # the first token of a stream is no target
    return Batch(
        images=torch.zeros(num_images, 3, 56, 56),
        input_ids=torch.zeros(total, dtype=torch.int64),
        labels=labels,
        position_ids=torch.zeros(total, dtype=torch.int64),
        lengths=torch.tensor(lengths),
    )


def test_text_costs_what_the_formula_says():
    layer = 4 * 64 * 64 + 3 * 64 * 96 + 2 * 64
    lora = 3 * 2 * 2 * 4 * 64  # layers, q and v, two factors of rank 4
    expected = (4 * 3 * layer + 6 * lora) * 30 + 6 * 3 * 64 * (10**2 + 20**2) + 4 * 300 * 64 * 7
    assert ModelFlops(tiny_model())(batch_of(10, 20, num_images=0, num_targets=7)) == expected


def test_an_image_costs_what_the_formula_says():
    count = ModelFlops(tiny_model())
    weights = sum(p.numel() for p in tiny_model().vision_tower.vit.blocks.parameters())
    seeing = 2 * weights * 16 + 4 * 2 * 32 * 16**2  # 16 patches, 2 layers of width 32
    projecting = 6 * (4 * 32 * 64 + 64) * 4  # 4 tokens of 4 patches each
    images, none = (count(batch_of(10, num_images=number, num_targets=0)) for number in (3, 0))
    assert images - none == 3 * (seeing + projecting)


def test_a_trained_vision_encoder_costs_three_times_a_frozen_one():
    frozen, trained = (ModelFlops(tiny_model(freeze_vit=freeze)) for freeze in (True, False))
    batch, text = batch_of(10, num_images=1, num_targets=0), batch_of(10, num_images=0, num_targets=0)
    projecting = 6 * (4 * 32 * 64 + 64) * 4
    assert trained(batch) - trained(text) - projecting == 3 * (frozen(batch) - frozen(text) - projecting)


def test_weights_of_four_bits_count_as_unpacked():
    model = tiny_model()
    usual = ModelFlops(model)(batch_of(10, num_images=0, num_targets=0))
    packed = next(p for name, p in model.named_parameters() if name.endswith("mlp.up_proj.weight"))
    packed.quant_state = torch.empty(packed.shape)
    packed.data = packed.data.flatten()[::2]
    assert ModelFlops(model)(batch_of(10, num_images=0, num_targets=0)) == usual


def test_a_model_of_other_parts_is_not_counted():
    assert model_flops(nn.Linear(2, 2)) is None
    assert model_flops(tiny_model()) is not None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA RTX A1000", None),
        ("", None),
    ],
)
def test_the_peak_of_a_device_is_known_by_its_name(name, peak):
    assert peak_flops(name) == peak


def test_there_is_no_utilisation_where_no_peak_is_known():
    assert utilisation(1e12, seconds=1.0, device=torch.device("cpu")) is None
