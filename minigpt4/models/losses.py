"""Cross-entropy over a large vocabulary, without float32 copies of all logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 1024
"""Targets whose logits are float32 at a time: 131 MB of them with 32,000 tokens."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Keeps the logits as they came and a number a target; the softmax is computed again for the gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        losses, normalisers = [], []
        for rows, target in zip(logits.split(CHUNK), targets.split(CHUNK), strict=True):
            wide = rows.float()
            normalisers.append(wide.logsumexp(1))
            losses.append(normalisers[-1] - wide.gather(1, target[:, None]).squeeze(1))
        ctx.save_for_backward(logits, targets, torch.cat(normalisers))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, targets, normalisers = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        pieces = (x.split(CHUNK) for x in (logits, targets, normalisers, grads[0], gradient))
        for rows, target, normaliser, grad, out in zip(*pieces, strict=True):
            wide = (rows.float() - normaliser[:, None]).exp_()
            at_target = wide.gather(1, target[:, None])
            wide.scatter_(1, target[:, None], at_target - 1)
            out.copy_(wide.mul_(grad[:, None]))
        return gradient, None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of each row of logits (N, V) at its target (N,) int64, (N,) float32 computed in float32."""
    losses: Tensor = _ChunkedCrossEntropy.apply(logits, targets)
    return losses
