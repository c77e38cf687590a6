"""Where a number that the device computed decides what happens next: on the null GPU it is zero, so that it is given.

Also switched off is what the null GPU does not have. Nothing else is changed, and each stand-in still calls what it
stands for where that computes on the device, so that its launches and waits are counted.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from minigpt4.models import attention

_PROBE = attention.varlen_works
_NEW_GROUP = dist.new_group


def install() -> None:
    """Put in place what every driver needs; to be called before anything is computed."""
    # cuDNN links its own runtime, which finds no driver
    torch.backends.cudnn.enabled = False
    torch.backends.cuda.enable_cudnn_sdp(False)
    # a kernel that PyTorch compiles at run time, by NVRTC, which asks the driver
    torch.Tensor.erfinv_ = lambda self: self
    _let_the_probe_pass()
    _place_images()


def _let_the_probe_pass() -> None:
    """Have `varlen_works` run, and say that what it compared was equal: zero is not below a tolerance of zero."""

    def passes(dtype: torch.dtype, device: torch.device) -> bool:
        return _PROBE(dtype, device) or dtype in (torch.float16, torch.bfloat16)

    for module in [module for name, module in sys.modules.items() if name.startswith("minigpt4.")]:
        for name, value in list(vars(module).items()):
            if value is _PROBE:
                setattr(module, name, passes)


def forget_the_probe() -> None:
    """Make the next case probe again, like a new process."""
    _PROBE.cache_clear()


def _place_images() -> None:
    """Have `embed` find as many image tokens as it has image embeddings: `nonzero` finds none among zeros."""
    from minigpt4.models.minigpt_v2 import MiniGPTv2

    embed, nonzero = MiniGPTv2.embed, torch.Tensor.nonzero

    def embed_somewhere(self: Any, input_ids: Any, image_tokens: Any, **options: Any) -> Any:
        def found(condition: torch.Tensor) -> torch.Tensor:
            nonzero(condition)
            return torch.arange(image_tokens.shape[0] * image_tokens.shape[1], device=condition.device)[:, None]

        with mock.patch.object(torch.Tensor, "nonzero", found):
            return embed(self, input_ids, image_tokens, **options)

    MiniGPTv2.embed = embed_somewhere


@contextlib.contextmanager
def beams_end_after(num_tokens: int) -> Iterator[None]:
    """Have beam search of `transformers` end: it reads from the device whether a beam can still win."""
    from transformers.generation.utils import GenerationMixin

    goes_on, count = GenerationMixin._has_unfinished_sequences, iter(range(10**9))

    def goes_on_for_a_while(self: Any, *args: Any, **options: Any) -> bool:
        goes_on(self, *args, **options)
        return next(count) < num_tokens

    with mock.patch.object(GenerationMixin, "_has_unfinished_sequences", goes_on_for_a_while):
        yield


def exported_logits_agree() -> Any:
    """Return a patch by which `export` takes logits that are all zero for equal: it divides by the largest of them."""
    from minigpt4 import export

    difference = export.difference

    def zero_if_both_are(logits: torch.Tensor, expected: torch.Tensor) -> float:
        differs = difference(logits, expected)
        return 0.0 if math.isnan(differs) else differs

    return mock.patch.object(export, "difference", zero_if_both_are)


def one_of_eight_ranks() -> None:
    """Join a group of eight ranks, the others of which are not there: collectives return what they were given."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=8)
    _new_groups_are("fake")


def one_rank_of_gloo() -> None:
    """Join a group of this process alone; gloo, as there is no NCCL, and DDP's reducer needs results."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    _new_groups_are("gloo")
    # DDP compares the shapes of all ranks' parameters, which travel over the device
    dist._verify_params_across_processes = lambda *args, **options: None


def keep_buckets(ddp: Any) -> None:
    """Have DDP keep its first buckets: to rebuild them it reads their numbers from the device, and crashes on zeros."""
    real = ddp.reducer

    class Reducer:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def _rebuild_buckets(self) -> bool:
            return False

    ddp.reducer = Reducer()


def _new_groups_are(backend: str) -> None:
    dist.new_group = lambda *args, **options: _NEW_GROUP(*args, **{**options, "backend": backend})
