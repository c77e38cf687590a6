"""Decode steps captured in CUDA graphs: one launch a token instead of one a kernel."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minigpt4.models.kv_cache import KVCache

NUM_WARM_UPS = 2


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: Any
    ids: Tensor
    hidden: Tensor


class DecodeGraphs:
    """A graph for each number of slots and length bucket, over memory of one KV cache that outlasts a call.

    A larger cache, or weights that moved, discard all graphs. Where an answer begins before another one has ended, the
    earlier one gets a copy of its cache and continues without graphs.
    """

    def __init__(self) -> None:
        self._cache: KVCache | None = None
        self._lent: weakref.ref[KVCache] | None = None
        self._addresses: Any = None
        self._captured: dict[Hashable, _Captured] = {}

    def cache_for(self, config: Any, addresses: Any, *, num_slots: int, length: int, **where: Any) -> KVCache:
        """Return an empty cache of at least this size, whose graphs read weights at these addresses."""
        kept = None if addresses != self._addresses else self._cache
        if kept is not None and (num_slots > kept.num_slots or length > kept.length):
            num_slots, length = max(num_slots, kept.num_slots), max(length, kept.length)
            kept = None
        if kept is None:
            self._captured.clear()
            self._cache = None  # its memory goes before other memory is taken
            kept = self._cache = KVCache(config, num_slots=num_slots, length=length, **where)
        else:
            unfinished = self._lent() if self._lent else None
            if unfinished is not None:
                unfinished.move_to_own_memory()
            kept.clear()
        self._addresses = addresses
        lent = copy(kept)
        self._lent = weakref.ref(lent)
        return lent

    def run(self, shape: Hashable, ids: Tensor, cache: KVCache, step: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what `step` makes of `ids` (B,) int64, from the graph of this shape, captured where there is none.

        Raises: RuntimeError naming the option when the step cannot be captured.
        """
        if self._cache is None or self._lent is None or cache is not self._lent():
            return step(ids)
        if cache.data is not self._cache.data:  # it grew
            self._captured.clear()
            self._cache.data = cache.data
        captured = self._captured.get(shape)
        if captured is None:
            captured = self._captured[shape] = _capture(ids, step)
        captured.ids.copy_(ids)
        captured.graph.replay()
        return captured.hidden


def _capture(ids: Tensor, step: Callable[[Tensor], Tensor]) -> _Captured:
    """Capture a step, which may run several times first: it writes the same places of the cache each time."""
    static_ids = ids.clone()
    try:
        stream = torch.cuda.Stream(ids.device)
        stream.wait_stream(torch.cuda.current_stream(ids.device))
        with torch.cuda.stream(stream):
            for _ in range(NUM_WARM_UPS):
                step(static_ids)
        torch.cuda.current_stream(ids.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            hidden = step(static_ids)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise RuntimeError(
            f"run.cuda_graphs: the decode step cannot be captured here: {error}; --options run.cuda_graphs=False"
        ) from error
    return _Captured(graph, static_ids, hidden)
