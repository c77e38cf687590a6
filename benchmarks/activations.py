"""What a training step of the real model keeps for its gradient, counted on pretended tensors: no GPU, no memory.

    python benchmarks/activations.py                 # bytes a token and an image, ours and the published way
    python benchmarks/activations.py --budget 60     # and how many tokens a forward fit into 60 GB

Counted are the distinct tensors that autograd saves, weights aside, between a step's forward and its backward; what
kernels need besides for a moment, and the allocator's gaps, come on top. Ours are PyTorch's fake CUDA tensors, for
which it chooses the operators of a GPU; the published way's are on meta. Tokens are in examples of one image and about
60 text tokens, of which 20 are answers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import OmegaConf
from published_recipe import PaddedModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from variants import PartTimer

from minigpt4.common.registry import registry
from minigpt4.common.schema import ModelConfig
from minigpt4.conversation.conversation import IMAGE_SPAN, Example, Turn
from minigpt4.models import attention

GB = 1e9
META = torch.device("meta")


class SavedBytes:
    """Adds up the storages that autograd saves, each once, without those of `weights`."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._known = {storage_of(weight) for weight in [*model.parameters(), *model.buffers()]}
        self._kept: list[Any] = []  # a storage that is freed could lend its identity to another
        self.total = 0

    def save(self, tensor: Tensor) -> Tensor:
        """Count a tensor."""
        if storage_of(tensor) not in self._known:
            self._known.add(storage_of(tensor))
            self._kept.append(tensor)
            self.total += tensor.untyped_storage().nbytes()
        return tensor


def storage_of(tensor: Tensor) -> int:
    """Return what tells a tensor's storage from others."""
    return int(tensor.untyped_storage()._cdata)


def build(dtype: torch.dtype, *, recompute: bool) -> Any:
    """Return the real model on meta."""
    options = {"random_weights": True, "vit_ckpt": None, "chat_template": True, "end_sym": "</s>"}
    cfg: Any = OmegaConf.merge(OmegaConf.structured(ModelConfig), options, {"use_grad_checkpoint_llm": recompute})
    with META:
        return registry.get_model_class(cfg.arch).from_config(cfg, dtype=dtype).train()


def pretend_on_gpu(model: torch.nn.Module) -> None:
    """Replace a model's tensors by CUDA ones of the same shape, inside a fake mode."""
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            there = torch.empty(weight.shape, dtype=weight.dtype, device="cuda")
            setattr(module, name, torch.nn.Parameter(there, requires_grad=weight.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda"))


def examples(count: int) -> list[Example]:
    """Return examples of one image and about 60 text tokens."""
    turn = Turn(f"{IMAGE_SPAN} {'q' * 20} ", "a" * 19)
    return [Example(turns=(turn,), images=(torch.zeros(3, 448, 448),)) for _ in range(count)]


def flash(query: Tensor, key: Tensor, value: Tensor, *, is_causal: bool, enable_gqa: bool) -> Tensor:
    """Return attention by the kernel that a GPU takes for 16 bits."""
    out: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, is_causal)[0]
    return out


def ours(count: int, *, recompute: bool) -> tuple[int, int]:
    """Return the bytes that autograd saves for `count` examples, and the number of their tokens."""
    attention.varlen_works = lambda dtype, device: False  # type: ignore[assignment]  # it would ask the GPU
    kernels: Any = SimpleNamespace(scaled_dot_product_attention=flash)  # which PyTorch would choose there
    vars(attention)["F"] = kernels
    batch = build(torch.bfloat16, recompute=False).chat_encoder.collate(examples(count))
    model = build(torch.bfloat16, recompute=recompute)
    features = model.encode_vision(batch.images.to(META))  # by a frozen encoder, which keeps nothing
    with FakeTensorMode() as pretended:
        pretend_on_gpu(model)
        on_gpu = batch.with_fields(vision_features=features)._each(
            lambda tensor: pretended.from_tensor(tensor).to("cuda")
        )
        saved = SavedBytes(model)
        with saved_tensors_hooks(saved.save, lambda tensor: tensor):
            model(on_gpu)
    return saved.total, len(batch.input_ids)


def published(count: int) -> tuple[int, int]:
    """Return the same of the published way; its autocast, which meta lacks, would add float32 copies of inputs."""
    model = build(torch.float16, recompute=False)
    model.projector.linear.half()
    padded = PaddedModel(model, PartTimer(META, enabled=False)).half()
    model.vision_tower.ln_vision.float()
    made = examples(count)
    saved = SavedBytes(model)
    with saved_tensors_hooks(saved.save, lambda tensor: tensor):
        padded(made)
    return saved.total, len(model.chat_encoder.collate(made).input_ids)


def main() -> None:
    """Print a line a way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=6)
    parser.add_argument("--budget", type=float, default=60, help="GB of the GPU's memory that a step may take")
    args = parser.parse_args()
    model = build(torch.bfloat16, recompute=False)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    training = model.num_trainable() * 12  # gradient and two moments, float32
    print(json.dumps({"weights_gb": round(weights / GB, 2), "gradients_and_moments_gb": round(training / GB, 2)}))
    ways: dict[str, Callable[[], tuple[int, int]]] = {
        "ours": lambda: ours(args.examples, recompute=False),
        "ours, recomputing": lambda: ours(args.examples, recompute=True),
        "published": lambda: published(args.examples),
    }
    for name, way in ways.items():
        total, num_tokens = way()
        each = total / num_tokens
        fits = int((args.budget * GB - weights - training) / each)
        line = {"way": name, "examples": args.examples, "tokens": num_tokens, "saved_gb": round(total / GB, 2)}
        print(json.dumps({**line, "mb_a_token": round(each / 1e6, 3), f"tokens_in_{args.budget:g}_gb": fits}))


if __name__ == "__main__":
    main()
