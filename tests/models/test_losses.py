"""Cross-entropy a chunk of targets at a time."""

import pytest
import torch
from torch.nn import functional as F

from minigpt4.models import losses


def both_ways(logits, targets, weights):
    found = []
    for loss in (losses.cross_entropy, lambda x, y: F.cross_entropy(x.float(), y, reduction="none")):
        leaf = logits.clone().requires_grad_()
        values = loss(leaf, targets)
        (values * weights).sum().backward()
        found.append((values.detach(), leaf.grad))
    return found


@pytest.mark.parametrize("num_targets", [0, 1, 4, 10])
def test_values_and_gradients_are_those_of_pytorch(num_targets, monkeypatch):
    monkeypatch.setattr(losses, "CHUNK", 4)
    torch.manual_seed(0)
    logits, targets = torch.randn(num_targets, 50) * 5, torch.randint(50, (num_targets,))
    (ours, gradient), (theirs, wanted) = both_ways(logits, targets, torch.rand(num_targets))
    assert torch.allclose(ours, theirs, atol=1e-5) and ours.dtype == torch.float32
    assert torch.allclose(gradient, wanted, atol=1e-6)


def test_losses_of_16_bit_logits_are_computed_in_float32():
    torch.manual_seed(0)
    logits, targets = (torch.randn(6, 500) * 3).bfloat16(), torch.randint(500, (6,))
    (ours, gradient), (theirs, wanted) = both_ways(logits, targets, torch.ones(6))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert gradient.dtype == torch.bfloat16
    assert torch.allclose(gradient, wanted, atol=1e-2)
