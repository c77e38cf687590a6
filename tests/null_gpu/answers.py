"""Driver: what a trained model is asked, on the null GPU; python -m tests.null_gpu.answers [CASE ...]"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from minigpt4.api import Assistant
from minigpt4.common.schema import ModelConfig
from minigpt4.conversation.chat_format import LLAMA_2
from minigpt4.export import export
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.runners.strategy import init_from_meta
from tests.models.golden_model import ASSETS, tiny_model
from tests.null_gpu import stand_ins
from tests.null_gpu.driver import Facts, counted, run_cases
from tests.null_gpu.watch import Watch

DEVICE = torch.device("cuda", 0)
PROMPTS = [LLAMA_2.generation_prompt(f"[vqa] question {number}{'?' * 7 * (number % 3)}") for number in range(6)]
EACH_TWICE = [0, 0, 1, 1, 2, 2]
FEW, MANY = 4, 12
"""Tokens of two answers: what the longer one costs more is the cost of its further tokens."""


def real_width(*, layers: int = 2) -> MiniGPTv2:
    """Return a model of real width and few layers in bfloat16, on the device."""
    changes: dict[str, Any] = {"random_weights": True, "vit_ckpt": None, "chat_template": True, "end_sym": "</s>"}
    sizes = {"llama_config": {"num_hidden_layers": layers}, "vit": {"depth": 2}}
    cfg = OmegaConf.merge(OmegaConf.structured(ModelConfig), changes, sizes)
    with torch.device("meta"):
        model = MiniGPTv2.from_config(cfg, dtype=torch.bfloat16)
    init_from_meta(model, DEVICE)
    return model.to(DEVICE).eval()


def watched(ask: Callable[..., Any], **options: Any) -> Facts:
    """Return what asking launches and waits for, under autocast as all who ask do it."""
    facts: Facts = {}
    watch = Watch()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        ask(**options)  # what is done once, such as the choice of an algorithm
        with counted(facts), watch:
            ask(**options)
    return {**facts, "on_cpu": dict(watch.on_cpu), "wide": dict(watch.wide), "num_products": watch.num_products}


def a_token(ask: Callable[..., Any], **options: Any) -> Facts:
    """Return the same for an answer of MANY tokens, and launches and waits of each further token."""
    few, many = (watched(ask, max_new_tokens=number, **options) for number in (FEW, MANY))
    waits = sum(many["waits"].values()) - sum(few["waits"].values())
    per_token = {"launches": (many["launches"] - few["launches"]) / (MANY - FEW), "waits": waits / (MANY - FEW)}
    return {**many, "a_token": per_token}


def generate(model: MiniGPTv2, seen: Tensor, **options: Any) -> Facts:
    """Have answers written, greedily unless the options say otherwise."""
    return a_token(lambda **more: model.generate(seen, PROMPTS, shown=EACH_TWICE, **more), **options)


def beams(model: MiniGPTv2, seen: Tensor) -> Facts:
    """Have answers written by beam search, which is that of `transformers`."""

    def ask() -> None:
        with stand_ins.beams_end_after(FEW):
            model.generate(seen, PROMPTS[:3], max_new_tokens=FEW, num_beams=3)

    return watched(ask)


def rank(model: MiniGPTv2, seen: Tensor) -> Facts:
    """Have choices ranked."""
    choices = [["yes", "no", "a blue car", "x"]] * len(PROMPTS)
    return watched(lambda: model.rank(seen, PROMPTS, choices, shown=EACH_TWICE))


def chat(model: MiniGPTv2) -> Facts:
    """Have two questions of a conversation answered, token by token."""
    assistant = Assistant(model, lambda picture: torch.zeros(3, 448, 448), dtype=torch.bfloat16)

    def ask(**options: Any) -> None:
        talk = assistant.chat(ASSETS / "images/img0.png")
        for question in ("[vqa] What is it?", "And beside it?"):
            assert list(talk.ask(question, **options))

    return watched(ask, max_new_tokens=FEW)


def check_export() -> Facts:
    """Have the tiny model exported from the device, and both folders read back and compared there."""
    facts: Facts = {}
    with tempfile.TemporaryDirectory() as folder, stand_ins.exported_logits_agree(), counted(facts):
        model, out = tiny_model().to(DEVICE), Path(folder) / "out"
        facts["differences"] = export(model, out, llama_folder=str(ASSETS / "llama_tiny"), dtype="float16")
    return facts


def main() -> None:
    """Run the cases, on one model of two layers."""
    stand_ins.install()
    asked = real_width()
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        pictures = asked.encode_images(torch.zeros(3, 3, 448, 448, device=DEVICE))
    sampling = {"do_sample": True, "temperature": 0.7, "seed": 3, "repetition_penalty": 1.1}
    run_cases(
        {
            "generate": lambda: generate(asked, pictures),
            "generate, one layer more": lambda: generate(real_width(layers=3), pictures),
            "sample": lambda: generate(asked, pictures, **sampling),
            "beams": lambda: beams(asked, pictures),
            "rank": lambda: rank(asked, pictures),
            "chat": lambda: chat(asked),
            "export": check_export,
        }
    )


if __name__ == "__main__":
    main()
