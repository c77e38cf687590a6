"""A second tower and a second language model: what a packed batch computes, and what each part refuses."""

from dataclasses import replace

import pytest
import torch
from omegaconf import OmegaConf

from minigpt4.common.schema import ModelConfig
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.runners.flops import model_flops
from tests.plugins.parts import QWEN2, TOWER, build, examples, model_section


def losses_of(model, some):
    """Return the losses of each example's targets, from one packed batch."""
    batch = model.chat_encoder.collate(some)
    found = model(batch)
    ends = batch.lengths.cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    places = found.target_positions
    return [found.target_losses[(places >= a) & (places < b)] for a, b in zip(starts, ends, strict=True)]


@torch.no_grad()
def test_examples_of_a_packed_batch_do_not_see_each_other(model):
    """The picture of the first example changes, and the losses of the others stay the same to the last bit."""
    first, *others = examples(model)
    changed = replace(first, images=tuple(image.flip(1) for image in first.images))
    before, after = losses_of(model, [first, *others]), losses_of(model, [changed, *others])
    assert not torch.equal(before[0], after[0])
    assert all(map(torch.equal, before[1:], after[1:]))


@torch.no_grad()
def test_the_length_and_the_place_of_an_example_change_no_loss_of_another(model):
    first, second, third = examples(model)
    longer, *_ = examples(model, answer="a child is left of the red square")
    before, after = losses_of(model, [first, second, third]), losses_of(model, [third, longer, second])
    torch.testing.assert_close(after[0], before[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(after[2], before[1], rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_packed_forward_equals_one_by_one(model):
    some = examples(model)
    for together, example in zip(losses_of(model, some), some, strict=True):
        [alone] = losses_of(model, [example])
        assert len(alone) > 0
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_recomputing_layers_gives_the_same_gradient(kind, files):
    gradients = []
    for recompute in (False, True):
        model = build(kind, files, use_grad_checkpoint_llm=recompute).train()
        model(model.chat_encoder.collate(examples(model))).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.trainable()})
    for name, gradient in gradients[0].items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_weights_of_16_bits_give_nearly_the_same_loss(kind, files):
    wide = build(kind, files)
    batch = wide.chat_encoder.collate(examples(wide))
    cfg = OmegaConf.merge(OmegaConf.structured(ModelConfig), model_section(kind, files))
    narrow = MiniGPTv2.from_config(cfg, dtype=torch.bfloat16).eval()
    narrow.load_trainable_state(wide.trainable_state())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = narrow(batch).loss
    assert abs(loss - wide(batch).loss) < 0.05 * wide(batch).loss


def test_flops_are_counted(model):
    parts = model_flops(model).parts(model.chat_encoder.collate(examples(model)))
    assert all(value > 0 for value in parts.values())


@pytest.mark.parametrize(
    ("name", "num_prefix"), [("vit_base_patch16_siglip_224", 0), ("vit_small_patch14_reg4_dinov2", 5)]
)
def test_any_transformer_of_timm_gives_its_patches_alone(name, num_prefix, files):
    patch = 14 if "14" in name else 16
    model = build(
        "tower",
        files,
        image_size=4 * patch,
        vit_options={"name": name, "checkpoint_path": "", "pretrained": False, "depth": 1, "embed_dim": 24},
    )
    tower = model.vision_tower
    assert tower.vit.num_prefix_tokens == num_prefix
    assert tower(torch.zeros(2, 3, 4 * patch, 4 * patch)).shape == (2, 16, 24)
    assert (tower.num_patches, tower.width, model.chat_encoder.num_image_tokens) == (16, 24, 4)


def test_a_trained_tower_gets_gradients_and_its_own_names(files):
    model = build("both", files, freeze_vit=False).train()
    model(model.chat_encoder.collate(examples(model))).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.trainable()}
    tower = [name for name in gradients if name.startswith("visual_encoder.")]
    assert {"visual_encoder.patch_embed.proj.weight", "visual_encoder.blocks.1.mlp.fc2.bias"} <= set(tower)
    assert all(gradients[name].abs().max() > 0 for name in tower)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vit_options": {"name": "vit_tinny"}}, r"model\.vit_options: .*vit_tinny"),
        ({"vit_options": {"name": "resnet18"}}, r"model\.vit_options: "),
        ({"vit_options": {"dept": 3}}, r"model\.vit_options: .*dept"),
        ({"vit_options": {"checkpoint_path": "/nowhere.pth"}}, r"model\.vit_options: .*nowhere"),
        ({"image_size": 72}, r"model\.image_size: 72 is not a multiple"),
        ({"image_size": 48}, r"model\.image_size: 48 gives 9 patches, not a multiple of 4"),
    ],
)
def test_a_wrong_tower_is_refused_by_its_option(options, message, files):
    with pytest.raises(ValueError, match=message):
        build("tower", files, **options)


def test_a_tower_of_random_weights_reads_no_file(files):
    model = build("both", files, random_weights=True, llama_config=QWEN2, vit_options=TOWER)
    loss = model(model.chat_encoder.collate(examples(model))).loss
    assert 4 < loss < 8  # ln 320 = 5.8
