"""Our training step with one idea taken out, and with its parts timed."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

import torch
from published_recipe import make_plain
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface

from minigpt4.conversation.conversation import IGNORE_INDEX, Batch, Losses
from minigpt4.conversation.encoder import ChatEncoder, Encoded
from minigpt4.models import kernels, minigpt_v2
from minigpt4.models.attention import PACKED
from minigpt4.models.language.llama_layers import FusedAttention, FusedRMSNorm, RecomputeSiluMLP
from minigpt4.models.lora import FusedLoraLinear
from minigpt4.runners.runner_base import RunnerBase
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask


class PartTimer:
    """Adds up the seconds of named parts, the device waited for before and after; does nothing until enabled."""

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self.device, self.enabled = device, enabled
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self.ended = 0.0

    def now(self) -> float:
        """Return the time when all that the device was given is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Time a part."""
        if not self.enabled:
            yield
            return
        began = self.now()
        yield
        self.ended = self.now()
        self.add(part, self.ended - began)

    def add(self, part: str, seconds: float) -> None:
        """Count the seconds of a part, but for its first three times, which are slower."""
        self.counts[part] += 1
        if self.counts[part] > 3:
            self.seconds[part] += seconds

    def milliseconds(self, *, num_steps: int) -> dict[str, float]:
        """Return the mean a step of every part."""
        return {part: round(1000 * seconds / num_steps, 2) for part, seconds in self.seconds.items()}


class TimedTask(ImageTextPretrainTask):
    """A step whose forward is timed: as a whole, and of it the vision encoder and the projection."""

    def __init__(self, timer: PartTimer) -> None:
        self.timer = timer

    def train_step(self, model: Any, batch: Batch) -> Losses:
        """Return the model's output for one batch."""
        if not self.timer.enabled:
            return super().train_step(model, batch)
        encode_vision, project = model.encode_vision, model.projector.linear.forward

        def timed(part: str, call: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def wrapped(*args: Any) -> Tensor:
                with self.timer(part):
                    return call(*args)

            return wrapped

        model.encode_vision, model.projector.linear.forward = timed("vit", encode_vision), timed("projection", project)
        inside = sum(self.timer.seconds[part] for part in ("vit", "projection"))
        began = self.timer.now()
        try:
            return super().train_step(model, batch)
        finally:
            del model.encode_vision, model.projector.linear.forward
            self.timer.ended = self.timer.now()
            inside = sum(self.timer.seconds[part] for part in ("vit", "projection")) - inside
            self.timer.add("llm forward", self.timer.ended - began - inside)


class TimedRunner(RunnerBase):
    """The trainer; where its timer is enabled, backward is what lies between the forward's end and the update."""

    def __init__(self, timer: PartTimer, **given: Any) -> None:
        super().__init__(**given)
        advance = self.state.advance

        def timed(*args: Any, **options: Any) -> Tensor | None:
            if timer.enabled:
                timer.add("backward", timer.now() - timer.ended)
            with timer("optimizer"):
                return advance(*args, **options)

        self.state.advance = timed  # type: ignore[method-assign]


@contextlib.contextmanager
def put_back(model: Any) -> Iterator[None]:
    """Undo at the end what ideas taken out, recomputation and torch.compile have changed in a model and globally."""
    kinds = {module: module.__class__ for module in model.modules()}
    loss, inference, triton_works = vars(minigpt_v2)["cross_entropy"], torch.inference_mode, kernels.triton_works
    attend = AttentionInterface()[PACKED]
    llama: Any = model.language_model.causal_lm
    hooked: list[Any] = [llama.lm_head, llama.model]
    hooks = [list(module._forward_hooks) for module in hooked]
    try:
        yield
    finally:
        for module, kind in kinds.items():
            module.__class__ = kind
            module._compiled_call_impl = None
        for module, kept in zip(hooked, hooks, strict=True):
            for number in set(module._forward_hooks).difference(kept):
                del module._forward_hooks[number]
        vars(minigpt_v2)["cross_entropy"] = loss
        torch.inference_mode = inference  # type: ignore[misc]
        kernels.triton_works = triton_works
        AttentionInterface.register(PACKED, attend)
        vars(model.chat_encoder).pop("pack", None)
        llama.gradient_checkpointing_disable()


def without_attention(model: Any) -> None:
    """Attend under a mask over all pairs of tokens of the stream."""
    AttentionInterface.register(PACKED, _masked)


def _masked(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, *, sizes: Sequence[int], **_: Any
) -> tuple[Tensor, None]:
    example = torch.arange(len(sizes), device=query.device).repeat_interleave(
        torch.tensor(sizes, device=query.device), output_size=query.shape[2]
    )
    sees = (example[:, None] == example).tril()
    return F.scaled_dot_product_attention(query, key, value, attn_mask=sees).transpose(1, 2), None


def without_loss(model: Any) -> None:
    """Take PyTorch's cross-entropy of float32 logits."""
    plain: Any = lambda logits, targets: F.cross_entropy(logits.float(), targets, reduction="none")  # noqa: E731
    vars(minigpt_v2)["cross_entropy"] = plain


def without_logits(model: Any) -> None:
    """Take the logits of all positions, of which only those at answers are used."""
    head = model.language_model.causal_lm.lm_head
    language = model.language_model.causal_lm.model
    seen: list[Tensor] = []
    language.register_forward_hook(lambda module, args, output: seen.append(output.last_hidden_state[0]))
    head.register_forward_hook(lambda module, args, output: output + 0 * F.linear(seen.pop(), head.weight).sum())


def without_inference(model: Any) -> None:
    """See images under no_grad, as autograd's bookkeeping costs something there."""
    torch.inference_mode = torch.no_grad  # type: ignore[misc, assignment]


def without_triton(model: Any) -> None:
    """Take PyTorch's operators where a Triton kernel does the same in one launch."""
    kernels.triton_works = lambda device: False  # type: ignore[assignment]


def without_packing(model: Any) -> None:
    """Fill every example of a batch up to the longest one."""
    pack: Callable[[ChatEncoder, Sequence[Encoded]], Batch] = type(model.chat_encoder).pack

    def padded(encoder: ChatEncoder, encoded: Sequence[Encoded]) -> Batch:
        longest = max((len(item.input_ids) for item in encoded), default=0)
        return pack(encoder, [_filled(item, longest) for item in encoded])

    model.chat_encoder.pack = MethodType(padded, model.chat_encoder)


def _filled(item: Encoded, length: int) -> Encoded:
    missing = length - len(item.input_ids)
    ids, labels = F.pad(item.input_ids, (0, missing)), F.pad(item.labels, (0, missing), value=IGNORE_INDEX)
    return Encoded(item.example, ids, labels)


VARIANTS: Mapping[str, Callable[[Any], None]] = {
    "packing": without_packing,
    "attention": without_attention,
    "logits": without_logits,
    "loss": without_loss,
    "lora": lambda model: make_plain(model, FusedLoraLinear),
    "norm": lambda model: make_plain(model, FusedRMSNorm),
    "mlp": lambda model: make_plain(model, RecomputeSiluMLP),  # which is another on CUDA alone
    "joint": lambda model: make_plain(model, FusedAttention),
    "triton": without_triton,
    "inference": without_inference,
    "fused": lambda model: None,  # the runner's optimizer, not the model
}
