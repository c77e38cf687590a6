"""Generating answers token by token: what prompts show and share, how a token is chosen, when answers have ended."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from minigpt4.conversation.conversation import IMAGE_PLACEHOLDER, IMAGE_TOKEN
from minigpt4.conversation.tokenizer import Tokenizer
from minigpt4.models.decoder import Decoder, SharedPrefix

TOP_K = 50
"""The most tokens that sampling chooses among (top-k), the default of the published settings."""


class RepetitionPenalty(LogitsProcessor):
    """Penalises what an answer already holds, and the BOS where the tokenizer has one.

    `transformers` counts the padding of a prompt given as embeddings as part of the answer. Its own penalty would
    therefore spare the first words of the shorter prompts of a batch.
    """

    def __init__(self, penalty: float, *, bos_id: int | None) -> None:
        self._penalise = RepetitionPenaltyLogitsProcessor(penalty)
        self._always = [] if bos_id is None else [bos_id]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores (B, vocabulary) of the next token after the new tokens (B, t) so far."""
        always = [input_ids.new_full((len(input_ids), 1), number) for number in self._always]
        penalised: Tensor = self._penalise(torch.cat([*always, input_ids], dim=1), scores)
        return penalised


def decoding_config(
    tokenizer: Tokenizer,
    *,
    end_ids: Sequence[int] = (),
    max_new_tokens: int = 20,
    do_sample: bool = False,
    num_beams: int = 1,
    temperature: float = 1,
    top_p: float = 0.9,
    length_penalty: float = 1,
    min_length: int = 1,
) -> GenerationConfig:
    """Return how answers are written.

    Each of `end_ids` ends an answer; none of them means the tokenizer's end-of-sequence token.
    `min_length` counts the BOS, as published settings do: with 1, the default, an answer may be empty.
    """
    sampling = {"temperature": float(temperature), "top_p": top_p, "top_k": TOP_K}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=max(min_length - 1, 0) or None,
        do_sample=do_sample,
        num_beams=num_beams,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=list(end_ids or [tokenizer.eos_id]),
        pad_token_id=tokenizer.pad_id,
        **(sampling if do_sample else {}),
        **({"length_penalty": float(length_penalty)} if num_beams > 1 else {}),
    )


def logits_processors(
    config: GenerationConfig, device: torch.device, *, repetition_penalty: float = 1
) -> LogitsProcessorList:
    """Return what changes the scores of the next token, in the order of `transformers`."""
    processors = LogitsProcessorList()
    if repetition_penalty != 1:
        processors.append(RepetitionPenalty(float(repetition_penalty), bos_id=config.bos_token_id))
    if config.min_new_tokens:
        options: dict[str, Any] = {"eos_token_id": _end_ids(config), "device": device}
        processors.append(MinNewTokensLengthLogitsProcessor(0, config.min_new_tokens, **options))
    if config.do_sample:
        if config.temperature != 1:
            processors.append(TemperatureLogitsWarper(config.temperature))
        processors.append(TopKLogitsWarper(config.top_k))
        if config.top_p < 1:
            processors.append(TopPLogitsWarper(config.top_p))
    return processors


def generate_tokens(
    decoder: Decoder,
    embeds: Sequence[Tensor],
    config: GenerationConfig,
    *,
    prefixes: Sequence[SharedPrefix] | None = None,
    repetition_penalty: float = 1,
) -> Iterator[Tensor]:
    """Yield the next token of each prompt (tokens, hidden), as (B,) int64, until every answer has ended.

    The pad token follows an answer's end. The likeliest token is taken, or with `do_sample` torch's generator draws.
    """
    limit = config.max_new_tokens
    processors = logits_processors(config, embeds[0].device, repetition_penalty=repetition_penalty)
    cache = decoder.new_cache(len(embeds), max(map(len, embeds)) + limit)
    hidden = decoder.prefill(cache, embeds, prefixes)
    new_ids: Any = torch.empty(len(embeds), 0, dtype=torch.int64, device=hidden.device)
    ends, end_ids = AnswerEnds(len(embeds), hidden.device), _end_ids(config)
    for number in range(1, limit + 1):
        scores = processors(new_ids, decoder.head(hidden).float())
        if config.do_sample:
            token = torch.multinomial(scores.softmax(-1), num_samples=1).squeeze(1)
        else:
            token = scores.argmax(-1)
        token = token.masked_fill(ends.has_ended, config.pad_token_id)
        yield token
        if number == limit:
            return
        # compared with each in turn: a tensor of them would be one more copy to the device
        ends.add(functools.reduce(torch.logical_or, (token == number for number in end_ids)))
        if ends.are_known and ends.all():
            return
        new_ids = torch.cat([new_ids, token[:, None]], dim=1)
        hidden = decoder.decode_step(cache, token)
        if ends.all():
            return


def _end_ids(config: GenerationConfig) -> list[int]:
    """Return the tokens that end an answer: `transformers` takes one of them as a number too."""
    given: int | list[int] = config.eos_token_id
    return [given] if isinstance(given, int) else given


class AnswerEnds:
    """Which answers have ended; the host learns it a step late, after it has launched the next step.

    So a GPU always has work. A CPU computes synchronously, so the host knows at once.
    """

    def __init__(self, num_answers: int, device: torch.device) -> None:
        self._device = device
        self._event = torch.cuda.Event() if device.type == "cuda" else None
        self.has_ended = torch.zeros(num_answers, dtype=torch.bool, device=device)
        self._copied = torch.zeros(num_answers, dtype=torch.bool, pin_memory=self._event is not None)

    @property
    def are_known(self) -> bool:
        """Whether the host may look before it launches the next step, as it waits for nothing."""
        return self._event is None

    def add(self, ended: Tensor) -> None:
        """Add the answers (B,) bool that end with the newest token, and begin the copy to the host."""
        self.has_ended = self.has_ended | ended
        self._copied.copy_(self.has_ended, non_blocking=True)
        if self._event is not None:
            self._event.record(torch.cuda.current_stream(self._device))

    def all(self) -> bool:
        """Return whether all have ended, as of the last `add`; wait for a GPU that is more than a step behind."""
        if self._event is not None and not self._event.query():
            self._event.synchronize()
        return bool(self._copied.all())


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Hold torch's generators at a seed, and restore them after; without a seed do nothing."""
    devices = [device] if device.type == "cuda" else []
    with nullcontext() if seed is None else torch.random.fork_rng(devices):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def checked_images(prompts: Sequence[str], num_images: int, shown: Sequence[int] | None) -> Sequence[int]:
    """Return which image each placeholder shows, over all prompts; by default each image once, in order.

    Raises: ValueError when placeholders and `shown` differ in number.
    """
    num_placeholders = sum(prompt.count(IMAGE_PLACEHOLDER) for prompt in prompts)
    shown = range(num_images) if shown is None else shown
    if num_placeholders != len(shown):
        raise ValueError(f"the prompts show {num_placeholders} images but {len(shown)} are given")
    return shown


def shared_prefixes(
    prompts: Sequence[str], asked: Sequence[Tensor], shown: Sequence[int] | None
) -> list[SharedPrefix] | None:
    """Return what each prompt says and shows up to the end of its last image; None where no image is shown twice.

    `asked` are the prompts' ids (tokens,) int64.
    """
    if shown is None or len(set(shown)) == len(shown):
        return None
    prefixes: list[SharedPrefix] = []
    images = iter(shown)
    for prompt, ids in zip(prompts, asked, strict=True):
        positions = (ids == IMAGE_TOKEN).nonzero()
        length = int(positions[-1]) + 1 if len(positions) else 0
        pictures = tuple(next(images) for _ in range(prompt.count(IMAGE_PLACEHOLDER)))
        prefixes.append(((tuple(ids[:length].tolist()), pictures), length))
    return prefixes
