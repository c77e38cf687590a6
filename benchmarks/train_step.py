"""Time training steps of a model with random weights: samples/s, tokens/s, peak memory, model FLOP/s utilisation.

    python benchmarks/train_step.py --size real --device cuda --steps 20        # a GPU with 40 GB or more
    python benchmarks/train_step.py --size tiny --device cpu --steps 20         # anywhere

Batches follow the published mixture: every step draws one of its 25 datasets by ratio and takes its batch size; an
image costs 256 tokens at real size, the text of a sample is `--text-tokens` long on average (geometric).

Model FLOPs are counted by the formula of minigpt4/runners/flops.py; utilisation is their share of the device's peak.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from minigpt4.common.config import PACKAGE_DIR, Config
from minigpt4.common.registry import registry
from minigpt4.common.schema import ModelConfig
from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.conversation import IMAGE_SPAN, Batch, Example, Turn
from minigpt4.runners.flops import ModelFlops, utilisation


def llama_size(width: int, depth: int, heads: int) -> dict[str, int]:
    """Return the sizes of a Llama with the published one's ratio of MLP to width."""
    mlp = 86 * width // 32
    return {"hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": depth, "num_attention_heads": heads}


SIZES: dict[str, dict[str, Any]] = {
    "real": {"image_size": 448, "lora_r": 64},
    "small": {
        "image_size": 224,
        "lora_r": 16,
        "vit": {"embed_dim": 384, "depth": 6, "num_heads": 6},
        "llama_config": llama_size(512, 8, 8),
    },
    "tiny": {
        "image_size": 56,
        "lora_r": 4,
        "vit": {"embed_dim": 64, "depth": 2, "num_heads": 4},
        "llama_config": llama_size(64, 2, 4),
    },
}
MIXTURE = PACKAGE_DIR.parent / "train_configs" / "minigptv2_finetune_dataengine.yaml"


def model_config(size: str) -> DictConfig:
    """Return the model section of a size, without any weight file."""
    ours = {"random_weights": True, "vit_ckpt": None, "ckpt": None, "chat_template": True, "end_sym": "</s>"}
    return OmegaConf.merge(OmegaConf.structured(ModelConfig), ours, {"max_txt_len": 1024}, SIZES[size])  # type: ignore[return-value]


def draw_batch(model: Any, mixture: DictConfig, rng: random.Random, *, text_tokens: int, image_size: int) -> Batch:
    """Return the batch of one step, as the mixture would draw it."""
    names = list(mixture)
    [name] = rng.choices(names, [mixture[n].sample_ratio for n in names])
    examples = []
    for _ in range(mixture[name].batch_size):
        length = max(2, min(1000, round(rng.expovariate(1 / text_tokens))))
        text_only = name == "unnatural_instruction"
        images = () if text_only else (torch.randn(3, image_size, image_size),)
        question = "".join(rng.choices("abcdefgh ", k=max(1, length // 2)))
        answer = "".join(rng.choices("abcdefgh ", k=max(1, length - length // 2)))
        turn = Turn(question if text_only else f"{IMAGE_SPAN} {question} ", answer)
        examples.append(Example(turns=(turn,), images=images, id=name))
    return model.chat_encoder.collate(examples)


@dataclass
class Timing:
    """What the timed steps did."""

    seconds: float = 0.0
    num_samples: int = 0
    num_tokens: int = 0
    flops: float = 0.0
    losses: list[float] = field(default_factory=list)


def time_steps(model: Any, cfg: DictConfig, device: torch.device, args: argparse.Namespace) -> Timing:
    """Take the steps and return what those behind the warm-up did."""
    on_gpu = device.type == "cuda"
    mixture, rng = Config.load(MIXTURE).datasets_cfg, derive_rng("train_step", args.size)
    optimizer = torch.optim.AdamW(model.optimizer_groups(0.05), lr=1e-5, fused=on_gpu)
    count_flops, timing = ModelFlops(model), Timing()
    for step in range(args.warmup + args.steps):
        batch = draw_batch(model, mixture, rng, text_tokens=args.text_tokens, image_size=cfg.image_size)
        if step == args.warmup and on_gpu:
            torch.cuda.reset_peak_memory_stats()
        before = time.perf_counter()
        with autocast(device):
            loss = model(batch.to(device))["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        timing.losses.append(float(loss.detach()))  # waits for the device
        if step >= args.warmup:
            timing.seconds += time.perf_counter() - before
            timing.num_samples += len(batch.lengths)
            timing.num_tokens += len(batch.input_ids)
            timing.flops += count_flops(batch)
    return timing


def autocast(device: torch.device) -> torch.autocast:
    """Return the context of bfloat16 on a GPU, of nothing on a CPU."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def figures_of(timing: Timing, device: torch.device) -> dict[str, Any]:
    """Return the figures to print."""
    on_gpu = device.type == "cuda"
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    mfu = utilisation(timing.flops, seconds=timing.seconds, device=device)
    return {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "seconds": round(timing.seconds, 3),
        "samples_per_s": round(timing.num_samples / timing.seconds, 2),
        "tokens_per_s": round(timing.num_tokens / timing.seconds, 1),
        "model_tflops_per_s": round(timing.flops / timing.seconds / 1e12, 4),
        "mfu": None if mfu is None else round(mfu, 4),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30 if on_gpu else process, 2),
        "losses": [round(timing.losses[0], 4), round(timing.losses[-1], 4)],
    }


def main() -> None:
    """Run the steps and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not timed")
    parser.add_argument("--text-tokens", type=int, default=60)
    parser.add_argument("--generate", action="store_true", help="also generate 20 tokens for two images")
    args = parser.parse_args()
    torch.manual_seed(0)
    device, cfg = torch.device(args.device), model_config(args.size)
    began = time.perf_counter()
    with device:
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = registry.get_model_class(cfg.arch).from_config(cfg, dtype=dtype)
    model = model.to(device).train()
    result: dict[str, Any] = {"size": args.size, "steps": args.steps}
    result["seconds_to_build"] = round(time.perf_counter() - began, 1)
    result |= figures_of(time_steps(model, cfg, device, args), device)
    if args.generate:
        prompts = [f"<s>[INST] {IMAGE_SPAN} [vqa] what is this? [/INST]"] * 2
        images = torch.randn(2, 3, cfg.image_size, cfg.image_size, device=device)
        with autocast(device):
            result["generated"] = model.generate(images, prompts, max_new_tokens=20)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
