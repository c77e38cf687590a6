"""The vision encoder: its position embedding, its weights file, and the recorded features."""

import pytest
import torch

from minigpt4.common.schema import VitSize
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.models.vision.eva import build_vit, fetch, load_vit, resize_pos_embed
from tests.models.golden_model import ASSETS, TINY_VIT, picture, recorded, tiny_config, tiny_model

SIZE = VitSize(**TINY_VIT)
FILE = ASSETS / "eva_tiny_28.pth"


@pytest.fixture(scope="module")
def vision():
    return recorded("vision.npz")


@pytest.fixture
def weights():
    return torch.load(FILE, weights_only=True)


def load(path, **options):
    return load_vit(SIZE, str(path), **{"image_size": 56, "dtype": torch.float32, **options})


@pytest.mark.parametrize("case", ["16to32", "2to4", "4to6", "6to4", "5to5", "fp16_4to8"])
def test_a_position_embedding_is_resized_as_recorded(case):
    arrays = recorded("pos_embed_interp.npz")
    ours = resize_pos_embed(arrays[f"in_{case}"], num_tokens=arrays[f"out_{case}"].shape[1])
    torch.testing.assert_close(ours, arrays[f"out_{case}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [56, 84])
def test_the_position_embedding_is_the_recorded_one_at_both_image_sizes(vision, size):
    ours = tiny_model(image_size=size).vision_tower.vit.pos_embed
    torch.testing.assert_close(ours, vision[f"pos_embed_{size}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "num_images"), [(56, 4), (84, 3)])
def test_features_and_image_tokens_are_the_recorded_ones(vision, size, num_images):
    model = tiny_model(image_size=size)
    images = torch.stack([picture(number, size) for number in range(num_images)])
    torch.testing.assert_close(images, vision[f"images_{size}"], rtol=0, atol=1e-6)
    with torch.no_grad():
        features = model.vision_tower.vit(images)
        tokens = model.encode_images(images).values
    torch.testing.assert_close(features, vision[f"visual_encoder_{size}"], rtol=0, atol=1e-5)
    torch.testing.assert_close(tokens, vision[f"encode_img_{size}"], rtol=0, atol=1e-5)


def test_ln_vision_gives_the_recorded_values(vision):
    model = tiny_model()
    ours = model.vision_tower.ln_vision(vision["visual_encoder_56"])
    torch.testing.assert_close(ours, vision["ln_vision_56"], rtol=0, atol=1e-5)
    assert model.vision_tower.ln_vision(vision["visual_encoder_56"].bfloat16()).dtype == torch.float32


def test_the_weights_are_frozen_in_eval_mode_and_in_the_asked_dtype():
    model = tiny_model(vit_precision="fp16").train()
    assert not model.vision_tower.vit.training and not model.vision_tower.ln_vision.training
    assert not any(parameter.requires_grad for parameter in model.vision_tower.vit.parameters())
    half = load(FILE, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in half.buffers()} == {torch.bfloat16}


def test_vit_precision_fp32_keeps_the_encoder_in_float32_in_a_16_bit_run(vision):
    model = MiniGPTv2.from_config(tiny_config(vit_precision="fp32"), dtype=torch.bfloat16)
    assert model.vision_tower.vit.pos_embed.dtype == torch.float32
    tokens = model.encode_images(vision["images_56"]).values
    torch.testing.assert_close(tokens, vision["encode_img_56"], rtol=0, atol=1e-5)


def test_keys_that_the_model_lacks_are_ignored(weights, tmp_path):
    extra = {name.replace("blocks.1.", "blocks.2."): value for name, value in weights.items()}
    torch.save({**weights, **extra, "head.weight": torch.zeros(3)}, tmp_path / "x.pth")
    assert torch.equal(load(tmp_path / "x.pth").blocks[1].mlp.fc1.bias, weights["blocks.1.mlp.fc1.bias"])


def test_missing_and_misshapen_weights_are_refused_by_name(weights, tmp_path):
    del weights["blocks.0.norm1.bias"]
    weights["blocks.1.attn.q_bias"] = torch.zeros(7)
    torch.save(weights, tmp_path / "x.pth")
    reason = r"x\.pth does not fit .*missing \['blocks\.0\.norm1\.bias'\], shapes \['blocks\.1\.attn\.q_bias \(7,\)"
    with pytest.raises(ValueError, match=reason):
        load(tmp_path / "x.pth")


def test_a_safetensors_file_serves_as_well(weights, tmp_path):
    from safetensors.torch import save_file

    save_file(weights, tmp_path / "x.safetensors")
    assert torch.equal(load(tmp_path / "x.safetensors").cls_token, weights["cls_token"])


def test_weights_at_an_address_are_fetched_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    source = tmp_path / "eva.pth"
    source.write_bytes(FILE.read_bytes())
    first = fetch(source.as_uri())
    source.unlink()
    assert fetch(source.as_uri()) == first == tmp_path / "hub" / "checkpoints" / "eva.pth"
    assert first.read_bytes() == FILE.read_bytes()


def test_an_address_that_cannot_be_reached_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=r"model\.vit_ckpt: cannot download file:///no/such\.pth"):
        fetch("file:///no/such.pth")


def test_recomputation_in_a_trained_encoder_changes_no_gradient():
    images = torch.stack([picture(0)])
    vit = build_vit(SIZE, image_size=56)
    gradients = []
    for recompute in (False, True):
        vit.zero_grad()
        vit.set_grad_checkpointing(recompute)
        vit(images).square().sum().backward()
        gradients.append(vit.blocks[0].attn.qkv.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-6)
