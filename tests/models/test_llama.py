"""The language model: random weights, 8 bits, and what is refused."""

import shutil
import warnings

import pytest
import torch
from omegaconf import OmegaConf

from minigpt4.common.registry import registry
from minigpt4.common.schema import ModelConfig
from minigpt4.conversation.conversation import Example, Turn
from minigpt4.models.language.llama import _quantised
from minigpt4.models.minigpt_v2 import MiniGPTv2
from tests.models.golden_model import ASSETS, TINY_VIT, tiny_config, tiny_model

TINY_LLAMA = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


def random_model(**changes):
    sizes = {"image_size": 56, "vit": TINY_VIT, "llama_config": TINY_LLAMA, "lora_r": 4, "random_weights": True}
    nowhere = {"llama_model": "/nowhere", "vit_ckpt": "/nowhere"}
    return MiniGPTv2.from_config(OmegaConf.merge(OmegaConf.structured(ModelConfig), sizes, nowhere, changes))


def test_random_weights_read_no_file_and_train():
    model = random_model()
    example = Example(turns=(Turn("<Img><ImageHere></Img> Q", "A"),), images=(torch.zeros(3, 56, 56),))
    loss = model(model.chat_encoder.collate([example, example])).loss
    loss.backward()
    assert 4 < loss.item() < 8  # ln 300 = 5.7
    assert model.projector.linear.weight.grad.abs().max() > 0
    assert len(model.generate(torch.zeros(1, 3, 56, 56), ["<s>[INST] <ImageHere> Q [/INST]"], max_new_tokens=3)) == 1


def test_random_weights_are_made_in_the_asked_dtype_and_the_default_dtype_stays():
    config = OmegaConf.merge(
        OmegaConf.structured(ModelConfig),
        {"image_size": 56, "vit": TINY_VIT, "llama_config": TINY_LLAMA, "lora_r": 4, "random_weights": True},
    )
    model = MiniGPTv2.from_config(config, dtype=torch.bfloat16)
    assert model.vision_tower.vit.pos_embed.dtype == model.language_model.dtype == torch.bfloat16
    assert {parameter.dtype for _, parameter in model.trainable()} == {torch.float32}
    assert model.language_model.causal_lm.model.rotary_emb.inv_freq.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32


def test_a_misspelt_size_of_random_weights_is_refused_with_the_nearest_name():
    with pytest.raises(
        ValueError, match=r"model\.llama_config\.hiden_size: no such size; did you mean 'hidden_size'\?"
    ):
        random_model(llama_config={"hiden_size": 32})


def test_a_tokenizer_with_more_tokens_than_the_weights_is_refused():
    with pytest.raises(ValueError, match=r"its tokenizer has 259 tokens, its weights 200"):
        random_model(llama_config={**TINY_LLAMA, "vocab_size": 200})


def test_the_model_is_registered_under_its_arch():
    assert registry.get_model_class("minigpt_v2") is MiniGPTv2


def test_the_folders_own_way_to_generate_is_left_out():
    config = tiny_model().language_model.causal_lm.generation_config
    assert not config.do_sample and config.temperature is None and config.max_length is None


def test_loading_shows_no_bar_in_a_file_and_no_warning_that_is_for_peft(capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tiny_model()
    shown = capfd.readouterr()
    assert "Loading weights" not in shown.out + shown.err
    assert [str(one.message) for one in caught if "gradient_checkpointing" in str(one.message)] == []


def test_a_folder_without_weights_is_refused_by_the_options_name(tmp_path):
    for name in ("tokenizer.model", "config.json"):
        shutil.copy(ASSETS / "llama_tiny" / name, tmp_path / name)
    with pytest.raises(ValueError, match=r"model\.llama_model: cannot load .*"):
        tiny_model(llama_model=str(tmp_path))


def test_weights_that_lack_a_part_are_refused_by_name(tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(ASSETS / "llama_tiny", tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").chmod(0o644)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.llama_model: .* lacks .*layers\.1\.mlp\.up_proj\.weight"):
        tiny_model(llama_model=str(tmp_path))


def test_a_hub_id_that_cannot_be_reached_is_refused_by_the_options_name(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"model\.llama_model: HF_HUB_OFFLINE forbids a request"):
        tiny_model(llama_model="nobody/nothing")


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what is said where there is no CUDA")
@pytest.mark.parametrize(("option", "bits"), [("low_resource", 8), ("load_in_4bit", 4)])
def test_8_and_4_bits_without_cuda_are_refused_with_the_way_out(option, bits):
    message = rf"model\.{option}: {bits}-bit weights need CUDA; --options model\.{option}=False"
    with pytest.raises(ValueError, match=message):
        tiny_model(**{option: True})


@pytest.mark.parametrize(("option", "bits"), [("low_resource", 8), ("load_in_4bit", 4)])
def test_8_and_4_bits_of_random_weights_are_refused(option, bits):
    with pytest.raises(ValueError, match=rf"model\.{option}: there is nothing to load in {bits} bits"):
        random_model(**{option: True})


def test_8_and_4_bits_at_once_are_refused():
    with pytest.raises(ValueError, match=r"model\.low_resource and model\.load_in_4bit: .* not both"):
        tiny_model(low_resource=True, load_in_4bit=True)


@pytest.mark.parametrize(("num_processes", "gpu"), [(None, 3), (1, 3), (2, 1)])
def test_8_bit_weights_go_to_the_gpu_of_the_process_unless_it_is_alone(monkeypatch, num_processes, gpu):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if num_processes is not None:
        monkeypatch.setenv("WORLD_SIZE", str(num_processes))
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    options = _quantised(tiny_config(low_resource=True, device_8bit=3), torch.bfloat16)
    assert options["device_map"] == {"": gpu}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="bitsandbytes computes on a GPU")
def test_4_bit_weights_train_their_lora():
    pytest.importorskip("bitsandbytes")
    model = MiniGPTv2.from_config(tiny_config(load_in_4bit=True), dtype=torch.bfloat16).cuda()
    q_proj = model.language_model.causal_lm.model.layers[0].self_attn.q_proj
    assert q_proj.base_layer.weight.dtype == torch.uint8
    assert {parameter.dtype for _, parameter in model.trainable()} == {torch.float32}
    whole = tiny_model().cuda()
    turns = (Turn("<Img><ImageHere></Img> Q", "A"),)
    batch = model.chat_encoder.collate([Example(turns=turns, images=(torch.zeros(3, 56, 56),))]).to("cuda")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = model.eval()(batch).loss
    loss.backward()
    assert abs(loss.item() - whole(batch).loss.item()) < 0.3  # 4 bits keep about two digits of a weight
    assert q_proj.lora_B["default"].weight.grad.abs().max() > 0


@pytest.mark.parametrize("size", [57, 42])
def test_an_image_size_that_does_not_divide_into_groups_of_patches_is_refused(size):
    with pytest.raises(ValueError, match=rf"model\.image_size: {size} "):
        tiny_model(image_size=size)


def test_another_vision_encoder_is_refused():
    with pytest.raises(ValueError, match=r"no vision_tower is registered as 'clip' \(there are .*eva_clip_g"):
        tiny_model(vit_model="clip")


def test_no_vision_weights_are_refused():
    with pytest.raises(ValueError, match=r"model\.vit_ckpt: give the file or the address"):
        MiniGPTv2.from_config(tiny_config(vit_ckpt=None))


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs", b"\xff" * 99])
def test_a_damaged_weight_file_is_one_line_that_names_the_option(tmp_path, content):
    folder = tmp_path / "llama"
    shutil.copytree(ASSETS / "llama_tiny", folder)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.llama_model: cannot load .*/llama: ") as error:
        MiniGPTv2.from_config(tiny_config(llama_model=str(folder)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sizes", [{"hidden_size": "big"}, {"num_attention_heads": 3}, {"hidden_size": -4}])
def test_sizes_that_make_no_model_name_the_option(sizes):
    with pytest.raises(ValueError, match=r"model\.llama_config") as error:
        random_model(llama_config={**TINY_LLAMA, **sizes})
    assert "\n" not in str(error.value)
