"""CUDA graphs of training micro-batches: forward and backward are captured once for each shape, then replayed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from minigpt4.common.dist_utils import all_reduce_sum, get_world_size
from minigpt4.conversation.conversation import Batch, Losses

TOKEN_STEP = 128
"""Tokens are padded to a multiple of this: a tile of a matrix product, so that the padding costs little."""
TARGET_STEPS = (256, 1024)
"""Targets are padded to the first of these that suffices, or to a multiple of the last."""
EXAMPLE_STEP = 4
"""The number of examples is padded to a multiple of this."""
MAX_GRAPHS = 96
"""The number of captured shapes; above it the least recently used one is dropped."""
AUTO_MEMORY = 60 * 2**30
"""The least memory for graphs by default: graphs keep activations besides those of other steps (7B: 44 GiB)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a captured step: those of the padded batch, and the number of micro-batches of its update."""

    num_tokens: int
    num_targets: int
    num_examples: int
    images: tuple[int, ...]
    num_accumulated: int


def shape_of(batch: Batch, num_accumulated: int) -> Shape:
    """Return the padded shape of a batch: at least one token more, the target of all padding."""
    num_targets = len(batch.target_positions)
    return Shape(
        num_tokens=_up(len(batch.input_ids) + 1, TOKEN_STEP),
        num_targets=next((step for step in TARGET_STEPS if num_targets <= step), _up(num_targets, TARGET_STEPS[-1])),
        num_examples=_up(len(batch.seq_lens) + 1, EXAMPLE_STEP),
        images=tuple(_vision_input(batch).shape),
        num_accumulated=num_accumulated,
    )


def padded_buffers(batch: Batch, shape: Shape) -> Batch:
    """Return a batch of a shape on the device of `batch`, for `fill`."""
    has_features = batch.vision_features is not None
    return batch.with_fields(
        **{"vision_features" if has_features else "images": torch.empty_like(_vision_input(batch))},
        input_ids=batch.input_ids.new_zeros(shape.num_tokens),
        labels=batch.labels.new_zeros(shape.num_tokens),
        position_ids=batch.position_ids.new_zeros(shape.num_tokens),
        weights=batch.weights.new_zeros(shape.num_targets),
        divisor=torch.empty_like(batch.divisor),
        image_positions=torch.empty_like(batch.image_positions),
        target_positions=batch.target_positions.new_zeros(shape.num_targets),
        cu_seqlens=batch.cu_seqlens.new_zeros(shape.num_examples + 1),
        lengths=batch.lengths.new_zeros(shape.num_examples),
        seq_lens=(shape.num_tokens,),  # a bound: the kernel reads the longest example
    )


def fill(padded: Batch, batch: Batch) -> None:
    """Copy a batch into padded buffers.

    The padding is one more example with targets of weight zero, and then examples without tokens.
    """
    num_tokens, num_targets = len(batch.input_ids), len(batch.target_positions)
    size = len(padded.input_ids)
    _vision_input(padded).copy_(_vision_input(batch))
    padded.image_positions.copy_(batch.image_positions)
    for name in ("input_ids", "position_ids"):
        target = getattr(padded, name)
        target[:num_tokens].copy_(getattr(batch, name))
        target[num_tokens:].zero_()
    torch.clamp(batch.labels, min=0, out=padded.labels[:num_tokens])  # only labels of targets are read
    padded.labels[num_tokens:].zero_()
    padded.weights[:num_targets].copy_(batch.weights)
    padded.weights[num_targets:].zero_()
    padded.divisor.copy_(batch.divisor)
    padded.target_positions[:num_targets].copy_(batch.target_positions)
    padded.target_positions[num_targets:].fill_(size - 1)
    padded.cu_seqlens[: len(batch.cu_seqlens)].copy_(batch.cu_seqlens)
    padded.cu_seqlens[len(batch.cu_seqlens) :].fill_(size)


def _vision_input(batch: Batch) -> Tensor:
    """Return the features of a batch's images if it has them, else the images."""
    return batch.images if batch.vision_features is None else batch.vision_features


@dataclass(slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    buffers: Batch
    loss: Tensor
    target_losses: Tensor


class GraphedSteps:
    """Runs forward and backward of micro-batches; from its second time on, a shape runs as a CUDA graph.

    `step(batch, num_accumulated)` computes the output and adds the gradients of the trained `parameters`. Gradients
    keep their place in memory, so they are zeroed, never deleted. All graphs share one memory pool: no two run at once.
    """

    def __init__(self, step: Callable[[Batch, int], Losses], parameters: list[Tensor], device: torch.device) -> None:
        self._step, self._device = step, device
        self._stream = torch.cuda.Stream(device)
        self._pool: Any = None
        self._seen: set[Shape] = set()
        self._graphs: OrderedDict[Shape, _Captured] = OrderedDict()
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)

    @property
    def num_graphs(self) -> int:
        """Return how many shapes are captured."""
        return len(self._graphs)

    def __call__(self, batch: Batch, *, num_accumulated: int) -> Losses:
        """Add the gradient of a batch and return the model's output; the batch must not be empty."""
        shape = shape_of(batch, num_accumulated)
        if shape not in self._seen:
            self._seen.add(shape)  # in this step kernels load and cuBLAS picks its algorithms, outside of a graph
            buffers = padded_buffers(batch, shape)
            fill(buffers, batch)
            output = self._step(buffers, num_accumulated)
            return _unpadded(output.loss.detach(), output.target_losses, batch)
        captured = self._graphs.get(shape) or self._capture(batch, shape)
        self._graphs.move_to_end(shape)
        fill(captured.buffers, batch)
        captured.graph.replay()
        return _unpadded(captured.loss.clone(), captured.target_losses.clone(), batch)

    def _capture(self, batch: Batch, shape: Shape) -> _Captured:
        """Capture the step of a shape without computing it."""
        while len(self._graphs) >= MAX_GRAPHS:
            torch.cuda.synchronize(self._device)
            self._graphs.popitem(last=False)
        buffers = padded_buffers(batch, shape)
        fill(buffers, batch)
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.stream(self._stream):
            # another thread pins batches meanwhile, which the default mode forbids
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                output = self._step(buffers, shape.num_accumulated)
            finally:
                graph.capture_end()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        captured = _Captured(graph, buffers, output.loss.detach(), output.target_losses)
        self._graphs[shape] = captured
        return captured


def _unpadded(loss: Tensor, target_losses: Tensor, batch: Batch) -> Losses:
    return Losses(loss, target_losses[: len(batch.target_positions)], batch.target_positions)


def _up(number: int, step: int) -> int:
    return -(-number // step) * step


def takes_graphs(
    run_cfg: Any, model_cfg: Any, device: torch.device, amp_dtype: torch.dtype | None, *, model: Any = None
) -> bool:
    """Return whether training steps are captured, by `run.cuda_graphs`; the same on all ranks.

    Unset, they are captured if nothing forbids it, if `run.max_tokens_per_forward` is unset so that shapes repeat, and
    if every GPU has AUTO_MEMORY bytes. Raises: ValueError with every option that makes requested graphs impossible.
    """
    problems = graph_problems(run_cfg, model_cfg, device, amp_dtype)
    if not problems and model is not None:
        problems += model.graph_problems(amp_dtype, device)
    if run_cfg.cuda_graphs and problems:
        raise ValueError(f"run.cuda_graphs: not possible, as {'; '.join(problems)}")
    if run_cfg.cuda_graphs is not None:
        return bool(run_cfg.cuda_graphs)
    if device.type != "cuda" or run_cfg.max_tokens_per_forward is not None:
        return False
    fits = not problems and torch.cuda.get_device_properties(device).total_memory >= AUTO_MEMORY
    if get_world_size() == 1:
        return fits
    return int(all_reduce_sum(torch.tensor([float(fits)], device=device))) == get_world_size()


def graph_problems(run_cfg: Any, model_cfg: Any, device: torch.device, amp_dtype: torch.dtype | None) -> list[str]:
    """Return every option that makes the capture of training steps impossible."""
    found = {
        "run.device is not cuda": device.type != "cuda",
        "run.amp is false, and attention over packed examples needs 16 bits": amp_dtype is None,
        "run.strategy is fsdp": run_cfg.strategy == "fsdp",
        "run.compile may compile again while a step is captured": bool(run_cfg.compile),
        "model.use_grad_checkpoint_llm is true": model_cfg.use_grad_checkpoint_llm,
        "model.use_grad_checkpoint is true for a trained vision encoder": (
            model_cfg.use_grad_checkpoint and not model_cfg.freeze_vit
        ),
        "weights have 8 or 4 bits (model.low_resource, model.load_in_4bit)": (
            model_cfg.low_resource or model_cfg.load_in_4bit
        ),
    }
    return [problem for problem, applies in found.items() if applies]
