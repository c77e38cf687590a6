"""How far our kernels and functions are from float64 on a CPU, and the recorded model from its recording, on a device.

An error is ||found - wanted|| / ||wanted||, of the output and of each gradient, for the same rounded inputs; beside it
that of the libraries' own part.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from published_recipe import make_plain
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt4.models.attention import packed_attention
from minigpt4.models.language.llama_layers import FusedRMSNorm, RecomputeSiluMLP
from minigpt4.models.lora import FusedLoraLinear
from minigpt4.models.losses import cross_entropy

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
LENGTHS = ((1,), (128,), (129,), (700,), (1, 128, 129, 700), (257, 300, 2, 64))
NOTHING = 1e-9
"""A wanted gradient that is smaller is zero but for rounding, as that of one key alone."""
SIZES = {"real": (4096, 11008, 32000, 2500), "small": (512, 1376, 32000, 1100), "tiny": (64, 172, 320, 1100)}
"""Width, width of the MLP, vocabulary, and number of targets."""

GOLDEN_FOLDER = str(Path(__file__).resolve().parents[1] / "tests" / "models")


def error(found: Tensor, wanted: Tensor) -> float | None:
    """Return the relative error of a tensor, None where nothing is wanted."""
    size = float(wanted.double().norm())
    if size < NOTHING:
        return None
    return float(f"{float((found.detach().cpu().double() - wanted.cpu().double()).norm()) / size:.3g}")


def with_gradients(call: Callable[..., Tensor], inputs: Sequence[Tensor], towards: Tensor) -> list[Tensor]:
    """Return a call's output and the gradients of its inputs, for a gradient of the output."""
    leaves = [one.detach().requires_grad_() for one in inputs]
    output = call(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, towards.to(output))]


def compare(
    calls: Mapping[str, Callable[..., Tensor]],
    wanted: Callable[..., Tensor],
    inputs: Mapping[str, Tensor],
    device: torch.device,
) -> dict[str, Any]:
    """Return the errors of calls on a device against `wanted` in float64 on the CPU, from the same inputs."""
    given = [one.to(device) for one in inputs.values()]
    with torch.no_grad():
        shape = wanted(*(one.double() for one in inputs.values())).shape
    dtype = next(iter(inputs.values())).dtype
    towards = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    right = with_gradients(wanted, [one.double() for one in inputs.values()], towards.double())
    names = ["output", *inputs]
    found: dict[str, Any] = {}
    for which, call in calls.items():
        values = with_gradients(call, given, towards.to(device))
        found[which] = {name: error(a, b) for name, a, b in zip(names, values, right, strict=True)}
    return found


def attention(device: torch.device, size: str) -> dict[str, Any]:
    """Return the errors of packed attention by type and lengths of the examples, and those of one SDPA an example."""
    heads = 2 if size == "tiny" else 8
    figures: dict[str, Any] = {}
    for (name, dtype), sizes in itertools.product(DTYPES.items(), LENGTHS):
        generator = torch.Generator().manual_seed(0)
        shape = (1, heads, sum(sizes), 128)
        inputs = {key: torch.randn(shape, generator=generator).to(dtype) for key in ("query", "key", "value")}
        bounds = torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32, device=device)

        def packed(q: Tensor, k: Tensor, v: Tensor, sizes: Any = sizes, bounds: Tensor = bounds) -> Tensor:
            return packed_attention(nn.Identity(), q, k, v, None, sizes=sizes, bounds=bounds)[0]

        def one_by_one(q: Tensor, k: Tensor, v: Tensor, sizes: Any = sizes) -> Tensor:
            return packed_attention(nn.Identity(), q, k, v, None, sizes=sizes)[0]

        calls = {"ours": packed, "one by one": one_by_one}
        figures[f"{name} {'+'.join(map(str, sizes))}"] = compare(calls, one_by_one, inputs, device)
    return figures


def parts(device: torch.device, size: str) -> dict[str, Any]:
    """Return the errors of the norm, the MLP, LoRA and the loss by type, ours and the libraries'."""
    torch.manual_seed(0)
    return {
        f"{part} {name}": check(device, dtype, *SIZES[size])
        for part, check in (("norm", norm), ("mlp", mlp), ("lora", lora), ("loss", loss))
        for name, dtype in DTYPES.items()
    }


def norm(device: torch.device, dtype: torch.dtype, width: int, *_: int) -> dict[str, Any]:
    """Return the errors of the RMS norm."""
    ours = FusedRMSNorm(width, 1e-5)
    nn.init.uniform_(ours.weight, 0.5, 1.5)
    return _modules(ours, torch.randn(300, width), dtype, device)


def mlp(device: torch.device, dtype: torch.dtype, width: int, wide: int, *_: int) -> dict[str, Any]:
    """Return the errors of the MLP."""
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=width, intermediate_size=wide, mlp_bias=False, hidden_act="silu")
    return _modules(RecomputeSiluMLP(config), torch.randn(64, width), dtype, device)  # type: ignore[no-untyped-call]


def lora(device: torch.device, dtype: torch.dtype, width: int, *_: int) -> dict[str, Any]:
    """Return the errors of a linear layer with float32 LoRA, dropout off."""
    from peft import LoraConfig, get_peft_model

    base = nn.Sequential(nn.Linear(width, width, bias=False)).to(dtype)
    config = LoraConfig(r=min(64, width // 4), lora_alpha=16, lora_dropout=0.0, target_modules=["0"])
    config._register_custom_module({nn.Linear: FusedLoraLinear})
    model: Any = get_peft_model(base, config)
    layer = model.base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight, std=0.02)
    return _modules(layer, torch.randn(100, width), dtype, device, convert=False)


def _modules(
    ours: nn.Module, rows: Tensor, dtype: torch.dtype, device: torch.device, *, convert: bool = True
) -> dict[str, Any]:
    """Return the errors of a part of ours and of the libraries' in its place, also of its parameters' gradients."""
    if convert:
        ours.to(dtype)
    names = [name for name, _ in ours.named_parameters()]
    parameters = [parameter.detach() for parameter in ours.parameters()]
    inputs = {"input": rows.to(dtype), **dict(zip(names, parameters, strict=True))}

    def call(plain: bool) -> Callable[..., Tensor]:
        def run(x: Tensor, *values: Tensor) -> Tensor:
            kind = [module.__class__ for module in ours.modules()]
            if plain:
                make_plain(ours)
            try:
                output: Tensor = torch.func.functional_call(ours, dict(zip(names, values, strict=True)), (x,))
                return output
            finally:
                for module, was in zip(ours.modules(), kind, strict=True):
                    module.__class__ = was

        return run

    # the libraries' norm goes through float32, and their LoRA does; ours in float64 on a CPU is exact
    return compare({"ours": call(False), "libraries": call(True)}, call(False), inputs, device)


def loss(device: torch.device, dtype: torch.dtype, width: int, wide: int, vocabulary: int, num: int) -> dict[str, Any]:
    """Return the errors of the cross-entropy."""
    logits = (4 * torch.randn(num, vocabulary)).to(dtype)
    targets = torch.randint(vocabulary, (num,))

    def plain(rows: Tensor) -> Tensor:
        wide_rows = rows if rows.dtype == torch.float64 else rows.float()
        return F.cross_entropy(wide_rows, targets.to(rows.device), reduction="none")

    calls = {"ours": lambda rows: cross_entropy(rows, targets.to(rows.device)), "libraries": plain}
    return compare(calls, plain, {"logits": logits}, device)


def golden(device: torch.device, dtype: str, *, bits: int | None = None) -> dict[str, Any]:
    """Return the largest errors of loss and gradients over the recorded training calls, frozen weights in `dtype`."""
    calls: dict[str, Any] = _golden().recorded("train_calls.json")
    names = _golden().AS_RECORDED
    found = {name: _one_call(calls[name], device, DTYPES[dtype], bits) for name in names}
    worst = {key: max(one[key] for one in found.values()) for key in ("loss_error", "gradient_error")}
    return {
        **worst,
        "least_cosine": min(one["least_cosine"] for one in found.values()),
        "num_calls": len(found),
        "worst_call": max(found, key=lambda name: found[name]["gradient_error"]),
    }


def _one_call(call: Mapping[str, Any], device: torch.device, dtype: torch.dtype, bits: int | None) -> dict[str, float]:
    from minigpt4.models.minigpt_v2 import MiniGPTv2

    golden_model = _golden()
    quantised = {4: {"load_in_4bit": True}, 8: {"low_resource": True}}.get(bits or 0, {})
    vit = "fp32" if dtype == torch.float32 else "fp16"
    cfg = golden_model.tiny_config(image_size=call["image_size"], vit_precision=vit, **call["config"], **quantised)
    model = MiniGPTv2.from_config(cfg, dtype=dtype).eval().to(device)
    examples = golden_model.examples_of(call["samples"], call["image_size"])
    batch = model.chat_encoder.collate(examples).to(device)
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        output = model(batch)
    output.loss.backward()
    arrays = golden_model.recorded(call["file"])
    errors, cosines = [], []
    for name, parameter in model.trainable():
        if name not in call["trainable_without_grad"]:
            wanted, gradient = arrays[f"grad:{name}"].double(), _gradient(parameter)
            errors.append(error(gradient, wanted) or 0.0)
            cosines.append(float(F.cosine_similarity(gradient.flatten(), wanted.flatten(), dim=0)))
    lost = abs(output.loss.item() - call["loss"]) / abs(call["loss"])
    return {"loss_error": lost, "gradient_error": max(errors), "least_cosine": min(cosines)}


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.cpu().double()


def golden_answers(device: torch.device) -> dict[str, Any]:
    """Return how many greedy answers of the recorded float32 model on a device are those of the CPU."""
    golden_model = _golden()
    texts = golden_model.recorded("generate.json")["texts"]
    images = torch.stack([golden_model.picture(number) for number in range(len(texts))])
    model = golden_model.tiny_model()
    ways: list[dict[str, Any]] = [{}, {"max_new_tokens": 5}, {"repetition_penalty": 1.05}, {"min_length": 12}]
    wanted = [answer for way in ways for answer in model.generate(images, texts, **way)]
    model.to(device)
    found = [answer for way in ways for answer in model.generate(images, texts, **way)]
    alone = [model.generate(image[None], [text])[0] for image, text in zip(images, texts, strict=True)]
    return {
        "num_answers": len(wanted),
        "num_equal": sum(a == b for a, b in zip(found, wanted, strict=True)),
        "num_alone": len(alone),
        "num_alone_equal": sum(a == b for a, b in zip(alone, wanted, strict=False)),
    }


def _golden() -> Any:
    """Return the module that rebuilds the recorded model."""
    if GOLDEN_FOLDER not in sys.path:
        sys.path.append(GOLDEN_FOLDER)
    import golden_model  # type: ignore[import-not-found]

    return golden_model
