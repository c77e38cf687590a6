"""The units of data: an Example of Turns leaves a dataset, a Batch enters the model, and Losses leave it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor

IMAGE_PLACEHOLDER = "<ImageHere>"
IMAGE_SPAN = f"<Img>{IMAGE_PLACEHOLDER}</Img>"
IMAGE_TOKEN = -200
"""The place of one image embedding in `Batch.input_ids`; no vocabulary has a negative id."""
IGNORE_INDEX = -100
"""The label of tokens without a loss in `Batch.labels`; PyTorch's cross-entropy ignores it by default."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One question (with its image spans, without the chat template) and its answer."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One training sample: turns, and one (3, H, W) float image for each `<ImageHere>` of its prompts.

    Raises: ValueError when there is no turn, when an answer contains a placeholder, or when prompts and images
    disagree; the message begins with `id` ("gqa[17] images/3.jpg").
    """

    turns: tuple[Turn, ...]
    images: tuple[Tensor, ...] = ()
    id: str = ""

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"{self.id}: an example needs at least one turn")
        if any(IMAGE_PLACEHOLDER in turn.answer for turn in self.turns):
            raise ValueError(f"{self.id}: an answer contains {IMAGE_PLACEHOLDER}, which only prompts may show")
        shown = sum(turn.prompt.count(IMAGE_PLACEHOLDER) for turn in self.turns)
        if shown != len(self.images):
            raise ValueError(f"{self.id}: its prompts show {shown} images but it carries {len(self.images)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Examples laid end to end, no padding between them.

    images (N, 3, H, W) float, N = 0 for text only; vision_features (N, patches, width) float32, with `run.look_ahead`
    the output of a frozen vision tower, else None; input_ids (T,) int64 with IMAGE_TOKEN at image embeddings;
    labels (T,) int64, IGNORE_INDEX except on answers; position_ids (T,) int64, from 0 at each example's BOS;
    lengths (B,) int64, sum = T.

    Derived from these when the batch is made, on the CPU, so that no step waits for a device: image_positions
    (image tokens,) and target_positions (targets,) int64 in the stream (nothing predicts the label of the first token,
    so it does not count); weights (targets,) and divisor () float32: the batch's
    loss is the weighted sum of its targets' losses over the divisor, their mean unless `with_fields` gives others;
    cu_seqlens (B + 1,) int32, where examples begin and end; seq_lens, the lengths as Python numbers.
    """

    images: Tensor
    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    lengths: Tensor
    vision_features: Tensor | None = None
    image_positions: Tensor = field(init=False)
    target_positions: Tensor = field(init=False)
    weights: Tensor = field(init=False)
    divisor: Tensor = field(init=False)
    cu_seqlens: Tensor = field(init=False)
    seq_lens: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        targets = (self.labels[1:] != IGNORE_INDEX).nonzero().squeeze(1) + 1
        self._set(
            image_positions=(self.input_ids == IMAGE_TOKEN).nonzero().squeeze(1),
            target_positions=targets,
            weights=torch.ones_like(targets, dtype=torch.float32),
            divisor=torch.tensor(float(max(len(targets), 1))),
            cu_seqlens=torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)]).int(),
            seq_lens=tuple(self.lengths.tolist()),
        )

    @classmethod
    def empty(cls) -> Batch:
        """Return a batch of no examples."""
        none = torch.empty(0, dtype=torch.int64)
        return cls(images=torch.empty(0, 3, 1, 1), input_ids=none, labels=none, position_ids=none, lengths=none)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; the DataLoader calls this when it pins."""
        return self._each(Tensor.pin_memory)

    def with_fields(self, **values: Any) -> Batch:
        """Return a batch with other values in the named fields; it shares all other tensors with this one.

        Derived fields are kept, so no step waits for a device: the caller names those too if new values change them.
        """
        other = copy(self)
        other._set(**values)
        return other

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return a batch of changed tensors; nothing is derived again."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return self.with_fields(**{name: change(v) for name, v in values.items() if isinstance(v, Tensor)})

    def _set(self, **values: Any) -> None:
        """Set fields while a batch is made; afterwards it is frozen."""
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """Image embeddings for the language model: `values` (N, tokens, hidden)."""

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, chosen: Sequence[int] | slice) -> ImageTokens:
        """Return the tokens of these images, in this order."""
        return ImageTokens(self.values[chosen if isinstance(chosen, slice) else list(chosen)])


class Losses(NamedTuple):
    """The losses of a Batch.

    loss () float32, with a gradient: the sum of the target losses by `Batch.weights`, by default their mean;
    target_losses (targets,) float32 without a gradient; target_positions (targets,) int64 in the stream.
    """

    loss: Tensor
    target_losses: Tensor
    target_positions: Tensor

    @property
    def num_targets(self) -> int:
        """Return the number of tokens that were predicted."""
        return len(self.target_losses)
