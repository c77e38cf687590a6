"""What goes through PyTorch's dispatcher to the null GPU: operands, their types, and launches by operator."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.null_gpu.counters import function, launches

PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "linear", "matmul"}
PRODUCTS |= {"conv2d", "convolution", "_slow_conv2d_forward"}
COPIES = {"_to_copy", "copy_", "to", "lift_fresh"}


class Watch(TorchDispatchMode):
    """Records the operators of its context; backward's too, as autograd takes the mode along.

    on_cpu: operators that were given a device's tensor and a CPU's of one dimension or more; wide: matrix products and
    attention in more than 16 bits, by function; by_operator: launches.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on_cpu: Counter[str] = Counter()
        self.wide: Counter[str] = Counter()
        self.by_operator: Counter[str] = Counter()
        self.num_products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operator between two looks at the counter of launches."""
        name = func._schema.name.split("::")[-1]
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        before = launches()
        output = func(*args, **(kwargs or {}))
        self.by_operator[name] += launches() - before
        devices = {tensor.device.type for tensor in given if tensor.ndim or tensor.is_cuda}
        if devices == {"cpu", "cuda"} and name not in COPIES:
            self.on_cpu[name] += 1
        is_outer = name == "bmm" and given[0].shape[-1] == 1  # the angles of RoPE, which are float32 on purpose
        if "cuda" in devices and not is_outer and (name in PRODUCTS or "attention" in name or "varlen" in name):
            self.num_products += 1
            dtype = next(tensor.dtype for tensor in given if tensor.is_floating_point())
            if dtype not in (torch.float16, torch.bfloat16):
                self.wide[f"{function()}: {name} of {dtype}"] += 1
        return output
