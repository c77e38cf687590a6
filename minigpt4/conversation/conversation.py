"""The units of data: a Turn is asked and answered, an Example leaves a dataset, a Batch enters the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

IMAGE_PLACEHOLDER = "<ImageHere>"
IMAGE_SPAN = f"<Img>{IMAGE_PLACEHOLDER}</Img>"
IMAGE_TOKEN = -200
"""Stands in `Batch.input_ids` where one image embedding goes; no vocabulary has a negative id."""
IGNORE_INDEX = -100
"""Stands in `Batch.labels` where nothing is learnt; what PyTorch's cross-entropy ignores by default."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One question (with its image spans, without the chat template) and its answer."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training sample: turns, and one (3, H, W) float image for each `<ImageHere>` of its prompts.

    Raises: ValueError when there is no turn, when a placeholder stands in an answer, or when prompts and images
    disagree; the message begins with `id` ("gqa[17] images/3.jpg").
    """

    turns: tuple[Turn, ...]
    images: tuple[Tensor, ...] = ()
    id: str = ""

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"{self.id}: an example needs at least one turn")
        if any(IMAGE_PLACEHOLDER in turn.answer for turn in self.turns):
            raise ValueError(f"{self.id}: an answer holds {IMAGE_PLACEHOLDER}, which only prompts may show")
        shown = sum(turn.prompt.count(IMAGE_PLACEHOLDER) for turn in self.turns)
        if shown != len(self.images):
            raise ValueError(f"{self.id}: its prompts show {shown} images but it carries {len(self.images)}")


@dataclass(slots=True, kw_only=True)
class Batch:
    """Examples laid end to end, no padding between them.

    images (N, 3, H, W) float, N = 0 for text only; input_ids (T,) int64 with IMAGE_TOKEN at image embeddings;
    labels (T,) int64, IGNORE_INDEX except on answers; position_ids (T,) int64, from 0 at each example's BOS;
    lengths (B,) int64, sum = T; weights (T,) float32, what each label's loss counts (their sum is the batch's loss),
    None for the mean over all labels.
    """

    images: Tensor
    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    lengths: Tensor
    weights: Tensor | None = None

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; the DataLoader calls this when it pins."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {name: None if t is None else change(t) for name, t in tensors.items()}
        return Batch(**changed)
