"""A second vision tower and a second language model at tiny size: their files and the configs that name them."""

from pathlib import Path

import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from minigpt4.common.plugins import load_plugins
from minigpt4.common.schema import ModelConfig
from minigpt4.conversation.conversation import Example, Turn
from minigpt4.models.minigpt_v2 import MiniGPTv2
from tests.conversation.small_families import write_chatml
from tests.runners.tiny import tiny_config

PLUGINS = ["timm_tower", "qwen2"]
KINDS = ["tower", "language model", "both"]
"""What is not the published pair: ViT and Llama."""
IMAGE_SIZE = 64
TOWER = {"name": "vit_tiny_patch16_224", "depth": 2, "embed_dim": 24, "num_heads": 2}
"""16 patches of 16 pixels."""
QWEN2 = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
IMG = "<Img><ImageHere></Img>"


def load():
    """Load both plugins as a user's YAML file does that lies beside them."""
    load_plugins(PLUGINS, folder=Path(__file__).parent)


def write_files(folder):
    """Write the tower's file, and the language model's folder in several shards; return the folder."""
    generator = torch.Generator().manual_seed(0)
    vit = timm.create_model(TOWER["name"], img_size=IMAGE_SIZE, num_classes=0, **_sizes())
    qwen2 = Qwen2ForCausalLM(Qwen2Config(**QWEN2))
    with torch.no_grad():
        for module in (vit, qwen2):
            for name, weight in sorted(module.named_parameters()):
                weight.normal_(1 if "norm" in name and "weight" in name else 0, 0.15, generator=generator)
    save_file(vit.state_dict(), folder / "tower.safetensors")
    qwen2.save_pretrained(folder / "qwen2", max_shard_size="20KB")
    write_chatml(folder / "qwen2")
    assert len(list((folder / "qwen2").glob("*.safetensors"))) > 2
    return folder


def _sizes():
    return {key: value for key, value in TOWER.items() if key != "name"}


def model_section(kind, folder):
    """Return the `model` section of a kind: its new parts, and the recorded tiny files for the other ones."""
    section = {**tiny_config()["model"], "ckpt": None, "chat_template": True}
    if kind != "language model":
        options = {**TOWER, "checkpoint_path": str(folder / "tower.safetensors")}
        section |= {"vit_model": "timm", "vit_options": options, "image_size": IMAGE_SIZE}
    if kind != "tower":
        section |= {"language_model": "qwen2", "llama_model": str(folder / "qwen2"), "end_sym": None}
    return section


def train_config(kind, folder, **run):
    """Return a training on the recorded tiny datasets."""
    config = tiny_config(init_lr=1e-2, plugins=PLUGINS, **run)
    return {**config, "model": model_section(kind, folder), "datasets": {"gqa": {"batch_size": 2}}}


def build(kind, folder, **changes):
    """Return the model of a kind without dropout, whose LoRA matters: a new one adds nothing."""
    load()
    torch.manual_seed(0)
    cfg = OmegaConf.merge(OmegaConf.structured(ModelConfig), model_section(kind, folder), {"lora_dropout": 0}, changes)
    model = MiniGPTv2.from_config(cfg).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.trainable():
            if "lora_B" in name:
                weight.normal_(0, 0.2, generator=generator)
    return model


def picture(model, number):
    size = model.vision_tower.image_size
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(number))


def examples(model, *, answer="a red circle"):
    """Return a question about a picture, a text alone, and two turns about two pictures."""
    turns = (Turn(f"{IMG} [vqa] what is this? ", "a child"), Turn(f"and {IMG} this? ", "blue"))
    return [
        Example(turns=(Turn(f"{IMG} [vqa] what is this? ", answer),), images=(picture(model, 0),), id="a"),
        Example(turns=(Turn("is it blue? ", "no"),), id="b"),
        Example(turns=turns, images=(picture(model, 1), picture(model, 2)), id="c"),
    ]
