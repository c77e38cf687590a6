"""The tiny model: its sizes, the form in which it is pre-trained whole, and the files that it is shipped as."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from minigpt4.common.checkpoint import write_checkpoint
from minigpt4.common.schema import ModelConfig, VitSize
from minigpt4.conversation.conversation import IGNORE_INDEX, IMAGE_TOKEN
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.models.projector import PATCHES_PER_TOKEN
from minigpt4.models.vision.eva import build_vit
from minigpt4.sample_world.scenes import SIDE

VIT = VitSize(embed_dim=128, depth=4, num_heads=4)
LORA: dict[str, Any] = {"lora_r": 8, "lora_alpha": 16}
NUM_IMAGE_TOKENS = (SIDE // VIT.patch_size) ** 2 // PATCHES_PER_TOKEN


def llama_config(vocab_size: int) -> LlamaConfig:
    """Return the sizes of the language model."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=6,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=4096,
        rms_norm_eps=1e-5,
        # about 1 / sqrt(width): with the 0.02 of large models attention starts out flat and looking up is not learnt
        initializer_range=0.1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Lessons padded on the right: ids and labels (B, T) int64; images (N, 3, SIDE, SIDE) of those that show one."""

    ids: Tensor
    labels: Tensor
    images: Tensor


class TinyModel(nn.Module):
    """The parts of MiniGPT-v2, on padded batches: at this size faster than packed ones. The encoder stays frozen."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        config = llama_config(vocab_size)
        self.vit = build_vit(VIT, image_size=SIDE)
        self.llama = LlamaForCausalLM(config)
        # on a CPU, plain products of these short sequences take less time than the fused kernel, mostly its backward
        self.llama.set_attn_implementation("eager")
        self.proj = nn.Linear(PATCHES_PER_TOKEN * VIT.embed_dim, config.hidden_size)
        # tokens of a picture begin with the size of the tokens of a text
        nn.init.normal_(self.proj.weight, std=config.initializer_range / math.sqrt(self.proj.in_features))
        nn.init.zeros_(self.proj.bias)

    def logits(self, batch: PaddedBatch) -> tuple[Tensor, Tensor]:
        """Return the logits at the positions that predict a target, (M, vocab) float32, and the targets, (M,)."""
        embeds = self.llama.get_input_embeddings()(batch.ids.clamp(min=0))
        if len(batch.images):
            with torch.no_grad():
                patches = self.vit.forward_features(batch.images)[:, 1:].float()
            patches = F.layer_norm(patches, patches.shape[-1:])  # as the frozen ln_vision
            tokens = self.proj(patches.reshape(len(patches), NUM_IMAGE_TOKENS, -1))
            embeds = embeds.masked_scatter((batch.ids == IMAGE_TOKEN)[..., None], tokens.to(embeds.dtype))
        hidden = self.llama.model(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, :-1]
        targets = batch.labels[:, 1:]
        learnt = targets != IGNORE_INDEX
        return self.llama.lm_head(hidden[learnt]).float(), targets[learnt]


def ship(model: TinyModel, tokenizer: Path, out: Path) -> None:
    """Write a trained model as users have the real one: Llama folder, EVA file (both 16-bit) and stage-2 checkpoint."""
    folder = out / "llama_tiny"
    folder.mkdir(parents=True, exist_ok=True)
    half = LlamaForCausalLM(model.llama.config)
    half.load_state_dict(model.llama.state_dict())
    # Llama-2-chat's folder asks for sampling too; the trainer must not be led by it
    half.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, do_sample=True, temperature=0.6)
    half.half().save_pretrained(folder)
    if tokenizer != folder / "tokenizer.model":
        shutil.copy(tokenizer, folder / "tokenizer.model")
    (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER_CONFIG, indent=2) + "\n", encoding="utf-8")
    vit = {name: value.to(torch.float16) for name, value in model.vit.state_dict().items()}
    write_checkpoint(out / "eva_vit_tiny.pth", vit)
    write_checkpoint(out / "checkpoint_stage2.pth", {"model": _stage2_state(model, out), "epoch": 0})


def _stage2_state(model: TinyModel, out: Path) -> dict[str, Tensor]:
    """Return the trained tensors of stage 2: the projection, and LoRA matrices that change nothing yet."""
    files: dict[str, Any] = {"llama_model": str(out / "llama_tiny"), "vit_ckpt": str(out / "eva_vit_tiny.pth")}
    cfg = OmegaConf.structured(ModelConfig(image_size=SIDE, vit=VIT, **LORA, **files))
    whole = MiniGPTv2.from_config(cfg)
    whole.projector.linear.load_state_dict(model.proj.state_dict())
    return whole.trainable_state()


_TOKENIZER_CONFIG = {
    "add_bos_token": True,
    "add_eos_token": False,
    "bos_token": "<s>",
    "clean_up_tokenization_spaces": False,
    "eos_token": "</s>",
    "legacy": False,
    "model_max_length": 4096,
    "pad_token": None,
    "padding_side": "right",
    "sp_model_kwargs": {},
    "tokenizer_class": "LlamaTokenizer",
    "unk_token": "<unk>",
}
