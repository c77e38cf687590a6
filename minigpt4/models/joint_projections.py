"""Linear layers of one module that share an input: their frozen weights as one, of whole or of 8 bits."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from minigpt4.models.float8 import Float8Weight, quantise_joint
from minigpt4.models.joint_weights import FrozenWeight, join, joined, plain_linears
from minigpt4.models.lora import FusedLoraLinear


class JointProjections:
    """A part of a module whose linear layers `projections` share an input; one product serves them all.

    `takes_lora` says whether the module computes LoRA on these layers itself.
    """

    projections: ClassVar[tuple[str, ...]]
    takes_lora: ClassVar[bool] = False
    float8: Float8Weight | None = None

    def join_weights(self) -> None:
        """Lay the weights of the layers end to end, LoRA or not, if they are plain linear layers.

        Answering joins them too. When they are joined before, no captured graph has their old addresses.
        """
        linears = plain_linears([getattr(self, name) for name in self.projections])
        if linears is not None:
            join(linears)

    def quantise(self) -> None:
        """Quantise the joint weight to 8 bits, if the layers are plain linear layers."""
        linears = self._linears()
        if linears is not None:
            self.float8 = quantise_joint(linears)

    def joint_weight(self) -> FrozenWeight | Float8Weight | None:
        """Return the weights as one; None where they lie apart, or a layer is no plain linear layer."""
        linears = self._linears()
        return None if linears is None else self.float8 or joined(linears)

    def _linears(self) -> list[nn.Linear] | None:
        modules: list[Any] = [getattr(self, name) for name in self.projections]
        adapted = [one for one in modules if hasattr(one, "base_layer")]
        if not all(self.takes_lora and type(one) is FusedLoraLinear and one.is_active() for one in adapted):
            return None
        return plain_linears(modules)
