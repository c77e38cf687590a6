"""A training step the way the published recipe takes it, for comparison with ours.

On a GPU: frozen weights float16 (norms, biases and embeddings of the ViT float32), trained ones float32, float16
autocast with a GradScaler. Everywhere: padded batches, eager attention in ViT and LLM, peft's LoRA, float32 logits at
every position, DDP that searches for unused parameters, tokenising in the step, a loss read back every step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pad_sequence
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

from minigpt4.conversation.conversation import IGNORE_INDEX, IMAGE_TOKEN, Batch, Example, Turn
from minigpt4.conversation.encoder import ChatEncoder
from minigpt4.datasets.mixture import Sample
from minigpt4.models.language.llama_layers import FusedAttention, FusedRMSNorm, RecomputeSiluMLP
from minigpt4.models.lora import FusedLoraLinear
from minigpt4.runners.flops import ModelFlops, utilisation


def examples_of(fetched: Sequence[Sample]) -> list[Example]:
    """Return what was fetched; the published loader hands texts to the step."""
    return [item.content for item in fetched if isinstance(item.content, Example)]


PLAIN: dict[type, type] = {
    FusedLoraLinear: Linear,
    FusedRMSNorm: LlamaRMSNorm,
    RecomputeSiluMLP: LlamaMLP,
    FusedAttention: LlamaAttention,
}
"""Our parts of a model and what the libraries have in their place."""


def make_plain(model: nn.Module, *parts: type) -> None:
    """Put the libraries' own parts in the place of ours: of `parts`, or of all."""
    for module in model.modules():
        if type(module) in (parts or PLAIN):
            module.__class__ = PLAIN[type(module)]


class PaddedModel(nn.Module):
    """The model called with examples: tokenises, embeds one after the other, pads, and takes all logits."""

    def __init__(self, model: Any, timer: Any) -> None:
        super().__init__()
        self.model, self.timer = model, timer
        model.language_model.causal_lm.set_attn_implementation("eager")
        for block in model.vision_tower.vit.blocks:
            block.attn.fused_attn = False
        make_plain(model)

    def forward(self, examples: Sequence[Example]) -> Tensor:
        """Return the mean loss over all targets."""
        model, device = self.model, self.model.projector.linear.weight.device
        images = [image for example in examples for image in example.images]
        with self.timer("vit"):
            patches = model.encode_vision(torch.stack(images).to(device)) if images else None
        with self.timer("projection"):
            tokens = iter(()) if patches is None else iter(model.projector(patches))
        with self.timer("llm forward"):
            encoded = [model.chat_encoder.encode(example.turns) for example in examples]
            embeds = []
            for example, (ids, _) in zip(examples, encoded, strict=True):
                shown = [next(tokens) for _ in example.images]
                none = torch.zeros(0, 1, model.projector.linear.out_features, device=device)
                places = (ids == IMAGE_TOKEN).nonzero().squeeze(1).to(device)
                embeds.append(model.embed(ids.to(device), torch.stack(shown) if shown else none, positions=places))
            padded = pad_sequence(embeds, batch_first=True)
            labels = pad_sequence([one for _, one in encoded], batch_first=True, padding_value=IGNORE_INDEX).to(device)
            lengths = torch.tensor([len(one) for one in embeds], device=device)
            mask = torch.arange(padded.shape[1], device=device) < lengths[:, None]
            llama: Any = model.language_model.causal_lm
            logits = llama(inputs_embeds=padded, attention_mask=mask.long(), use_cache=False).logits.float()
            return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORE_INDEX)


def widen_vit(model: Any) -> None:
    """Make float32 what the published recipe keeps so: the ViT's norms, biases and embeddings; autocast narrows them.

    Ours has one dtype in the ViT and runs it without autocast.
    """
    for name, parameter in model.vision_tower.vit.named_parameters():
        if parameter.ndim < 2 or name in ("cls_token", "pos_embed"):
            parameter.data = parameter.data.float()
    for module in model.vision_tower.vit.modules():
        if getattr(module, "k_bias", None) is not None:
            module.k_bias = module.k_bias.float()
    model.vision_tower.run_vit = model.vision_tower.vit.forward


class PublishedTrainer:
    """Takes steps of the published recipe in one process."""

    def __init__(self, model: Any, device: torch.device, timer: Any) -> None:
        self.device, self.timer = device, timer
        if device.type == "cuda":
            widen_vit(model)
        meeting = f"file://{tempfile.mkdtemp()}/group"
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=meeting, rank=0, world_size=1)
        self.encoder, self.count_flops = model.chat_encoder, ModelFlops(model)
        self.model = DistributedDataParallel(PaddedModel(model, timer), find_unused_parameters=True)
        self.optimizer = torch.optim.AdamW(model.optimizer_groups(0.05), lr=1e-5)
        self.scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def step(self, examples: Sequence[Example]) -> float:
        """Take one step; return its loss."""
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.device.type == "cuda"):
            loss = self.model(examples)
        with self.timer("backward"):
            self.scaler.scale(loss).backward()
        with self.timer("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
        return float(loss.detach())

    def run(self, batches: Iterator[list[Example]], *, num_steps: int) -> dict[str, Any]:
        """Take steps; return samples/s, tokens/s, the share of waiting for data, and MFU without the padding."""
        waited, seen = 0.0, []
        began = time.perf_counter()
        for _ in range(num_steps):
            asked = time.perf_counter()
            examples = next(batches)
            waited += time.perf_counter() - asked
            self.step(examples)
            seen.append([(example.turns, len(example.images)) for example in examples])
        seconds = time.perf_counter() - began
        work = [work_of(self.encoder, step) for step in seen]
        flops = sum(self.count_flops(batch) for batch in work)
        return {
            "samples_per_s": sum(map(len, seen)) / seconds,
            "tokens_per_s": sum(len(batch.input_ids) for batch in work) / seconds,
            "data_wait": waited / seconds,
            "mfu": utilisation(flops, seconds=seconds, device=self.device),
        }


def work_of(encoder: ChatEncoder, step: Sequence[tuple[Sequence[Turn], int]]) -> Batch:
    """Return the batch of a step, with nothing in its images: what there was to compute."""
    encoded = [encoder.encode(turns) for turns, _ in step]
    ids, labels = (torch.cat([pair[at] for pair in encoded]) for at in range(2))
    lengths = torch.tensor([len(pair[0]) for pair in encoded])
    images = torch.empty(sum(count for _, count in step), 0)
    return Batch(images=images, input_ids=ids, labels=labels, position_ids=torch.zeros_like(ids), lengths=lengths)
