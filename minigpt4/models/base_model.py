"""The base of models: optimizer groups, and trainable tensors under their published names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from minigpt4.common.weight_files import misfit
from minigpt4.conversation.conversation import ImageTokens
from minigpt4.conversation.encoder import ChatEncoder

BACKBONE = ("visual_encoder.", "ln_vision.")
"""Prefixes of the vision tower's tensors."""
_PUBLISHED = {
    "language_model.model.": "llama_model.",
    "vision_tower.vit.": "visual_encoder.",
    "vision_tower.ln_vision.": "ln_vision.",
    "vision_tower.": "visual_encoder.",
    "projector.linear.": "llama_proj.",
}
"""Prefixes of our parameters, and those of published checkpoints."""

_NO_DECAY = ("bias", "ln", "bn")


def published_name(name: str) -> str:
    """Return a parameter's name as published checkpoints have it; a published name stays as it is."""
    for ours, published in _PUBLISHED.items():
        if name.startswith(ours):
            name = published + name.removeprefix(ours)
            break
    # newer releases of peft write the adapter's name
    return name.replace(".lora_A.default.", ".lora_A.").replace(".lora_B.default.", ".lora_B.")


class BaseModel(nn.Module):
    """A module of which a part is trained.

    `mismatches` says how the loaded checkpoint's model differs from this one, where `model.allow_mismatch` allowed it.
    """

    chat_encoder: ChatEncoder
    freeze_vit: bool
    mismatches: Sequence[str] = ()

    checkpoint_url: ClassVar[str] = ""
    """Where a user downloads a trained checkpoint."""
    DEFAULT_CONFIG: ClassVar[str | None] = None
    """The YAML file with the defaults of the `model` and `preprocess` sections, absolute or below the package."""

    @classmethod
    def chat_encoder_of(cls, model_cfg: Any) -> ChatEncoder:
        """Return the encoder of a `model` section. The tokenizer is read, and no weights are.

        Raises: ValueError when the model has none, or its tokenizer cannot be read.
        """
        raise ValueError(f"model.arch: {cls.__name__} has no chat encoder")

    @classmethod
    def checkpoint_misfits(cls, tensors: Mapping[str, Tensor], model_cfg: Any, name: str) -> list[str]:
        """Return why a checkpoint's tensors cannot be loaded into the model of a section, whose weights are not read.

        `name` is the checkpoint's in these messages.
        """
        return []

    @classmethod
    def base_weights(cls, tensors: Mapping[str, Tensor]) -> dict[str, str]:
        """Return the parts of the base weights that a checkpoint was trained on, each with its option."""
        parts = {"llama": "llama_model", "tokenizer": "llama_model"}
        brings_its_tower = any(name.startswith(BACKBONE[0]) for name in tensors)
        return parts if brings_its_tower else {**parts, "vit": "vit_ckpt"}

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield published name and parameter of each trained tensor, in the order of registration."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                yield published_name(name), parameter

    def shardable(self) -> list[nn.Module]:
        """Return the parts whose frozen weights may be spread over processes, in the order of their use."""
        return []

    def compilable(self, part: str) -> list[nn.Module]:
        """Return the modules of a part to compile; they share one compiled graph."""
        raise ValueError(f"run.compile: {type(self).__name__} has no part {part}")

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.parameters()).device

    def use_cuda_graphs(self) -> None:
        """Run decode steps from CUDA graphs from now on. Raises: ValueError when the model has none."""
        raise ValueError(f"run.cuda_graphs: {type(self).__name__} has no CUDA graphs; --options run.cuda_graphs=False")

    def merged(self) -> AbstractContextManager[None]:
        """Return a context in which the model answers many questions fast."""
        return nullcontext()

    def merge_for_good(self) -> None:
        """Make the model answer fast from now on; it may not be trained after."""

    def encode_images(self, images: Tensor) -> ImageTokens:
        """Return what the language model sees of images (N, 3, H, W)."""
        raise NotImplementedError

    def generate(self, images: ImageTokens | Tensor | None, prompts: Sequence[str], **options: Any) -> list[str]:
        """Return the answer to each prompt."""
        raise NotImplementedError

    def stream(self, images: ImageTokens | Tensor | None, prompt: str, **options: Any) -> Iterator[str]:
        """Yield the answer to one prompt as far as it is written."""
        raise NotImplementedError

    def rank(
        self,
        images: ImageTokens | Tensor | None,
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        shown: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Return for each prompt the indices of its choices, most likely first."""
        raise NotImplementedError

    def encode_vision(self, images: Tensor) -> Tensor:
        """Return what a frozen vision tower makes of images (N, 3, H, W), as `Batch.vision_features` holds it."""
        raise NotImplementedError

    def join_weights(self) -> None:
        """Lay frozen weights end to end where one product can take them; called once they are where they stay."""

    def quantise_frozen(self) -> None:
        """Keep frozen weights in 8 bits where the config says so; called once they are where they stay."""

    def graph_problems(self, dtype: torch.dtype, device: torch.device) -> list[str]:
        """Return what keeps the model's step from being captured in a CUDA graph when it computes in a 16-bit type."""
        return []

    def num_trainable(self) -> int:
        """Return the number of trained scalars."""
        return sum(parameter.numel() for _, parameter in self.trainable())

    def optimizer_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return two groups: parameters that decay, and those of fewer than 2 dims or named bias, ln or bn."""
        decay: list[nn.Parameter] = []
        no_decay: list[nn.Parameter] = []
        for name, parameter in self.trainable():
            exempt = parameter.ndim < 2 or any(word in name for word in _NO_DECAY)
            (no_decay if exempt else decay).append(parameter)
        return [{"params": decay, "weight_decay": weight_decay}, {"params": no_decay, "weight_decay": 0.0}]

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the trained tensors by published name; they share memory with the model."""
        return {name: parameter.detach() for name, parameter in self.trainable()}

    def load_trainable_state(self, state: dict[str, Tensor], source: str = "x.pth") -> None:
        """Copy trained tensors into the model; either naming of adapters is understood, inv_freq buffers are ignored.

        A trained vision encoder keeps its base weights when the state, saved while it was frozen, holds none of it.

        Raises: ValueError naming `source` and the first keys that are missing, unexpected or of another shape.
        """
        given = {
            published_name(name): value for name, value in state.items() if not name.endswith("rotary_emb.inv_freq")
        }
        wanted = dict(self.trainable())
        if not any(name.startswith(BACKBONE) for name in given):
            wanted = {name: parameter for name, parameter in wanted.items() if not name.startswith(BACKBONE)}
        problem = misfit(shapes_of(given), shapes_of(wanted))
        if problem or not given:
            raise ValueError(f"{source} does not fit this model: {problem or 'it has no tensors'}")
        with torch.no_grad():
            for name, parameter in wanted.items():
                parameter.copy_(given[name])


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor."""
    return {name: tuple(value.shape) for name, value in tensors.items()}
