"""The same answers by plain timm and transformers: no KV cache, no packing, LoRA added to the weights."""

import timm
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from minigpt4.conversation.conversation import IMAGE_TOKEN
from minigpt4.processors.blip_processors import CLIP_MEAN, CLIP_STD
from tests.plugins.parts import IMAGE_SIZE, TOWER, model_section


def language_model(kind, folder, model, *, lora_alpha=16, lora_r=4):
    """Return the causal language model of a kind's folder, with the LoRA of our model in its weights."""
    plain = AutoModelForCausalLM.from_pretrained(
        model_section(kind, folder)["llama_model"], attn_implementation="eager", dtype=torch.float32
    ).eval()
    state = model.trainable_state()
    named = dict(plain.named_parameters())
    for name, first in state.items():
        if name.endswith(".lora_A.weight"):
            second = state[name.replace("lora_A", "lora_B")]
            weight = named[name.removeprefix("llama_model.base_model.model.").replace(".lora_A", "")]
            weight.data += lora_alpha / lora_r * second @ first
    return plain


def patches(kind, folder, model, images):
    """Return the patches of images; recordings cover the published tower."""
    if kind == "language model":
        return model.encode_vision(images)
    sizes = {key: value for key, value in TOWER.items() if key != "name"}
    vit = timm.create_model(TOWER["name"], img_size=IMAGE_SIZE, num_classes=0, **sizes).eval()
    vit.load_state_dict(load_file(folder / "tower.safetensors"))
    colours = images * torch.tensor(CLIP_STD)[:, None, None] + torch.tensor(CLIP_MEAN)[:, None, None]
    return vit.forward_features((colours - 0.5) / 0.5)[:, 1:]  # timm's mean and deviation; the class token is left out


def prompt_embeds(kind, folder, model, plain, images, prompt):
    """Return the embeddings (tokens, hidden) of a prompt about images (N, 3, H, W)."""
    seen = patches(kind, folder, model, images)
    state = model.trainable_state()
    tokens = F.linear(seen.reshape(-1, 4 * seen.shape[-1]), state["llama_proj.weight"], state["llama_proj.bias"])
    ids = model.chat_encoder.prompt_ids(prompt)
    embeds = plain.get_input_embeddings()(ids.clamp(min=0))
    embeds[ids == IMAGE_TOKEN] = tokens
    return embeds


def logits(plain, embeds, ids):
    """Return the logits (new tokens + 1, vocabulary) after a prompt and after each of the tokens that follow it."""
    following = plain.get_input_embeddings()(torch.tensor(ids, dtype=torch.int64))
    whole = torch.cat([embeds, following])
    return plain(inputs_embeds=whole[None], use_cache=False).logits[0, len(embeds) - 1 :]


def greedy(plain, embeds, *, end_ids, max_new_tokens):
    """Return the likeliest tokens one after the other, the prompt being computed again for each."""
    ids = []
    while len(ids) < max_new_tokens and not (ids and ids[-1] in end_ids):
        ids.append(int(logits(plain, embeds, ids)[-1].argmax()))
    return ids


def choice_score(plain, embeds, ids):
    """Return the score of a choice as `rank` defines it."""
    losses = F.cross_entropy(logits(plain, embeds, ids)[:-1], torch.tensor(ids), reduction="sum")
    return losses / (len(embeds) + len(ids) - 1)
