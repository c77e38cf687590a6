"""The recorded tiny model, rebuilt, and the recorded calls in our types."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

from minigpt4.common.schema import ModelConfig
from minigpt4.conversation.conversation import Example, Turn
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.models.scoring import score_choices
from minigpt4.processors.blip_processors import BlipImageProcessor

GOLDEN = Path(__file__).parents[1] / "golden" / "model"
ASSETS = GOLDEN / "assets"
AS_RECORDED = (
    *("instr_chat", "instr_nochat", "instr_chat_size84", "conv", "conv_nochat", "conv_text_only"),
    *("text_chat", "text_nochat", "trunc_txt12", "conv_trunc_txt15", "trunc_ctx30", "trunc_ctx16_conv"),
    *("endsym_newline", "prompt_template_plain", "empty_answer", "multi_image_length"),
)
"""The recorded training calls that ours match; test_recorded_training.py names the others."""
TINY_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 4}


def recorded(name):
    """Return a recorded json file, or an npz as a dictionary of arrays."""
    if name.endswith(".json"):
        return json.loads((GOLDEN / name).read_text())
    with np.load(GOLDEN / name, allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def tiny_config(**changes):
    """Return the base configuration of the recording as a model section, with changes."""
    tiny = {
        "image_size": 56,
        "vit": TINY_VIT,
        "vit_precision": "fp32",
        "vit_ckpt": str(ASSETS / "eva_tiny_28.pth"),
        "llama_model": str(ASSETS / "llama_tiny"),
        "ckpt": str(ASSETS / "minigptv2_tiny_ckpt.pth"),
        "lora_r": 4,
        "end_sym": "</s>",
        "chat_template": True,
    }
    return OmegaConf.merge(OmegaConf.structured(ModelConfig), tiny, changes)


def tiny_model(**changes):
    """Return the recorded model, dropout off."""
    return MiniGPTv2.from_config(tiny_config(**changes)).eval()


def scores_of(model, embeds, choices):
    """Return the scores of the choices, as texts, of each prompt's embeddings."""
    encoder = model.chat_encoder
    ids = [[encoder.tokenizer.encode(choice + encoder.chat_format.end) for choice in row] for row in choices]
    return score_choices(model.language_model, embeds, ids)


@cache
def picture(number, size=56):
    """Return a recorded picture as the processor gives it, (3, size, size)."""
    return BlipImageProcessor(size)(Image.open(ASSETS / "images" / f"img{number}.png"))


def turns_of(samples):
    """Return the turns of each recorded sample."""
    if "conv_q" not in samples:
        pairs = zip(samples["instruction_input"], samples["answer"], strict=True)
        return [(Turn(question, answer),) for question, answer in pairs]
    rows = zip(samples["conv_q"], samples["conv_a"], samples["connect_sym"], strict=True)
    return [tuple(Turn(*pair) for pair in zip(q.split(cut), a.split(cut), strict=True)) for q, a, cut in rows]


def examples_of(samples, size=56):
    """Return the recorded samples as examples; of several image slots a sample's `length` says how many count."""
    shown = samples.get("images", [[]] * len(turns_of(samples)))
    lists = [numbers if isinstance(numbers, list) else [numbers] for numbers in shown]
    lengths = samples.get("length", map(len, lists))
    return [
        Example(turns=turns, images=tuple(picture(i, size) for i in numbers[:length]), id=f"recorded[{row}]")
        for row, (turns, numbers, length) in enumerate(zip(turns_of(samples), lists, lengths, strict=True))
    ]
