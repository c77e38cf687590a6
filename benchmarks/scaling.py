"""What a step of the published mixture computes and sends, and what follows for 8, 64 and 512 GPUs.

    python benchmarks/scaling.py --device H200 --mfu 0.41 0.5           # the best published MFU of LoRA, and half
    python benchmarks/scaling.py --device H200 --samples-per-s 27.5     # as benchmarks/train_step.py measured it

First the work of a mean draw, by part, and how long each part takes at the device's peak and at its memory's bandwidth
(frozen weights are read once forward and once backward, the vision encoder's once): a roofline. Then a line a number of
GPUs: a step waits for the rank with most work (benchmarks/balance.py) and for its gradients, whose whole sending is
counted, as if backward hid none of it: two thirds and more of it can be. Nothing here is measured but what is given.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any

import torch
from balance import cost_ratio
from made_up_mixture import MadeUpDataset
from omegaconf import OmegaConf
from published_recipe import work_of

from minigpt4.common.config import PACKAGE_DIR, Config
from minigpt4.common.registry import registry
from minigpt4.common.schema import ModelConfig
from minigpt4.common.seeds import derive_rng
from minigpt4.datasets.mixture import MixtureComponent, MixtureSampler
from minigpt4.runners.flops import PEAK_FLOPS, ModelFlops

MIXTURE = PACKAGE_DIR.parent / "train_configs" / "minigptv2_finetune_dataengine.yaml"
BANDWIDTH = {"A100": 2.0e12, "H100": 3.35e12, "H200": 4.8e12, "B200": 8.0e12}
"""Bytes/s of a device's memory, by its data sheet."""
NVLINK, NETWORK = 450e9, 50e9
"""Bytes/s a GPU sends in its machine (NVLink 4) and out of it (one 400 Gbit/s card a GPU)."""
GPUS_A_MACHINE = 8
PUBLISHED_STEPS, PUBLISHED_GPUS = 30_000, 8


def real_model() -> Any:
    """Return the real model on meta."""
    options = {"random_weights": True, "vit_ckpt": None, "chat_template": True, "end_sym": "</s>"}
    cfg: Any = OmegaConf.merge(OmegaConf.structured(ModelConfig), options)
    with torch.device("meta"):
        return registry.get_model_class(cfg.arch).from_config(cfg, dtype=torch.bfloat16)


def mean_draw(model: Any, *, num_draws: int) -> Counter[str]:
    """Return a mean draw's samples, images, tokens, tokens when padded, targets, and FLOPs by part."""
    body = Config.load(MIXTURE).datasets_cfg
    datasets = {str(name): MadeUpDataset(str(name), (), image_size=448) for name in body}
    components = [MixtureComponent(n, len(d), body[n].batch_size, body[n].sample_ratio) for n, d in datasets.items()]
    count, total = ModelFlops(model), Counter[str]()
    for number, draws in enumerate(MixtureSampler(components, num_steps=num_draws, seed=0)):
        rng, dataset = derive_rng("scaling", number), datasets[draws[0].dataset]
        batch = work_of(model.chat_encoder, [(dataset.turns(rng), int(dataset.has_image)) for _ in draws])
        total += Counter({"samples": len(draws), "images": len(batch.images), "tokens": sum(batch.seq_lens)})
        total += Counter({"targets": len(batch.target_positions), "padded": max(batch.seq_lens) * len(batch.seq_lens)})
        total += Counter({part: flops for part, flops in count.parts(batch).items() if flops})
    return Counter({key: value / num_draws for key, value in total.items()})


def roofline(model: Any, draw: Counter[str], device: str) -> list[dict[str, Any]]:
    """Return a line a part of a mean draw: its work, and its least time by arithmetic and by memory."""
    weights = {
        "vit": model.vision_tower.vit,
        "projection": model.projector.linear,
        "llm": model.language_model.causal_lm.model,
        "head": model.language_model.causal_lm.lm_head,
    }
    work = sum(draw[part] for part in weights)
    lines = []
    for part, module in weights.items():
        size = sum(p.numel() * p.element_size() for p in module.parameters())
        lines.append(
            {
                "part": part,
                "tflop": round(draw[part] / 1e12, 2),
                "share": round(draw[part] / work, 3),
                "ms_by_arithmetic": round(1000 * draw[part] / PEAK_FLOPS[device], 2),
                "ms_by_memory": round(1000 * size * (1 if part == "vit" else 2) / BANDWIDTH[device], 2),
            }
        )
    return lines


def sending(num_bytes: float, num_gpus: int) -> float:
    """Return the seconds of a ring's all-reduce: in each machine, then among machines, each GPU its eighth."""
    inside = min(num_gpus, GPUS_A_MACHINE)
    machines = num_gpus // inside
    seconds = 2 * (inside - 1) / inside * num_bytes / NVLINK
    return seconds + 2 * (machines - 1) / machines * num_bytes / inside / NETWORK


def at_scale(
    num_gpus: int, draw: Counter[str], *, draw_seconds: float, num_bytes: float, together: int
) -> dict[str, Any]:
    """Return what to expect of a number of GPUs."""
    ratio = cost_ratio(num_gpus, num_steps=8 * together, together=together)
    update = together * draw_seconds * ratio + sending(num_bytes, num_gpus)
    rate = num_gpus * together * draw["samples"] / update
    samples = PUBLISHED_STEPS * PUBLISHED_GPUS * draw["samples"]
    return {
        "gpus": num_gpus,
        "draws_an_update": together,
        "largest_over_mean": round(ratio, 3),
        "sending_ms": round(1000 * sending(num_bytes, num_gpus), 2),
        "samples_per_s": round(rate, 1),
        "efficiency": round(together * draw_seconds / update, 3),
        "hours_for_the_published_samples": round(samples / rate / 3600, 2),
    }


def main() -> None:
    """Print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=BANDWIDTH, default="H200")
    parser.add_argument("--mfu", type=float, nargs="+", default=[0.41, 0.5], help="assumed without a measured rate")
    parser.add_argument("--samples-per-s", type=float, help="of one GPU, measured")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--together", type=int, nargs="+", default=[1, 8], help="draws an update")
    parser.add_argument("--draws", type=int, default=2000)
    args = parser.parse_args()
    model = real_model()
    draw = mean_draw(model, num_draws=args.draws)
    means = {key: round(draw[key], 2) for key in ("samples", "images", "tokens", "targets")}
    print(
        json.dumps({"mean_draw": means, "padding_of_published_batches": round(1 - draw["tokens"] / draw["padded"], 3)})
    )
    for line in roofline(model, draw, args.device):
        print(json.dumps(line))
    flops = sum(draw[part] for part in ("vit", "projection", "llm", "head"))
    num_bytes = 4.0 * model.num_trainable()
    possible = [flops / PEAK_FLOPS[args.device] / mfu for mfu in args.mfu]
    for seconds in [draw["samples"] / args.samples_per_s] if args.samples_per_s else possible:
        rate = {
            "samples_per_s": round(draw["samples"] / seconds, 1),
            "mfu": round(flops / seconds / PEAK_FLOPS[args.device], 3),
        }
        print(json.dumps({"one_gpu": args.device, "measured": bool(args.samples_per_s), **rate}))
        for num_gpus in args.gpus:
            for together in args.together:
                at = {"draw_seconds": seconds, "num_bytes": num_bytes, "together": together}
                print(json.dumps(at_scale(num_gpus, draw, **at)), flush=True)


if __name__ == "__main__":
    main()
