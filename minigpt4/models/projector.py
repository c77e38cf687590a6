"""From patches to image tokens: neighbouring patches become one token through a linear layer."""

from __future__ import annotations

from torch import Tensor, nn

PATCHES_PER_TOKEN = 4
"""Neighbouring patches of a picture that make one token."""


class Projector(nn.Module):
    """Groups patches of `width` and projects each group to `hidden_size`."""

    def __init__(self, width: int, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width * PATCHES_PER_TOKEN, hidden_size)

    @staticmethod
    def count_tokens(num_patches: int, *, image_size: int) -> int:
        """Return the number of tokens of an image. Raises: ValueError when patches do not divide into groups."""
        if num_patches % PATCHES_PER_TOKEN:
            problem = f"{image_size} gives {num_patches} patches, not a multiple of {PATCHES_PER_TOKEN}"
            raise ValueError(f"model.image_size: {problem}")
        return num_patches // PATCHES_PER_TOKEN

    def forward(self, patches: Tensor) -> Tensor:
        """Return the tokens (N, tokens, hidden) of patches (N, patches, width).

        N may be 0: projecting no rows still gives the projection a gradient, of zero.
        """
        num_tokens = patches.shape[1] // PATCHES_PER_TOKEN
        tokens: Tensor = self.linear(patches.reshape(len(patches), num_tokens, self.linear.in_features))
        return tokens
