"""LoRA as peft lays it out, computed without the copies that peft makes."""

from __future__ import annotations

from typing import Any, cast

from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import functional as F

ADAPTER = "default"


class LeanLinear(Linear):
    """A linear layer with LoRA whose sum goes into the frozen layer's own output.

    peft widens the input to float32, and makes the low-rank part, its scaled copy and their sum one after the other;
    here the input stays in its type and one multiplication adds to what is there. Weights, names and random draws
    are peft's.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return frozen(x) + scaling B A dropout(x), x (.., in) -> (.., out) in the frozen layer's type."""
        if self.disable_adapters or self.merged or kwargs:
            return super().forward(x, *args, **kwargs)
        rows = x.flatten(0, -2)
        result: Tensor = self.base_layer(rows)
        first, second = cast(Tensor, self.lora_A[ADAPTER].weight), cast(Tensor, self.lora_B[ADAPTER].weight)
        low = F.linear(self.lora_dropout[ADAPTER](rows), first.to(rows.dtype)).to(result.dtype)
        # nothing has saved the frozen layer's output, so that it may be written to
        result = result.addmm_(low, second.to(result.dtype).T, alpha=self.scaling[ADAPTER])
        return result.view(*x.shape[:-1], -1)


def make_lora_lean(model: nn.Module) -> None:
    """Have the plain LoRA layers of a peft model compute so; those of 8-bit and 4-bit weights stay peft's."""
    for module in model.modules():
        if type(module) is Linear:
            module.__class__ = LeanLinear
