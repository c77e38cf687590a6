"""Writing answers token by token: prompts that begin alike are read once, and all stops at the last end."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    DynamicCache,
    GenerationConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from minigpt4.conversation.tokenizer import Tokenizer

TOP_K = 50
"""Sampling chooses among so many tokens at most, as the published settings do without saying it."""
Head = tuple[Hashable, int]
"""What a prompt begins with, and for how many tokens: prompts with equal heads begin alike."""


class RepetitionPenalty(LogitsProcessor):
    """Penalises what an answer already holds, and the BOS.

    `transformers` counts the padding of a prompt given as embeddings against the answer, so that its own penalty would
    spare the first words of the shorter prompts of a batch.
    """

    def __init__(self, penalty: float, *, bos_id: int) -> None:
        self._penalise = RepetitionPenaltyLogitsProcessor(penalty)
        self._bos_id = bos_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores (B, vocabulary) of the next token after the new tokens (B, t) so far."""
        bos = input_ids.new_full((len(input_ids), 1), self._bos_id)
        return self._penalise(torch.cat([bos, input_ids], dim=1), scores)


class NoEndBefore(LogitsProcessor):
    """Keeps an answer from ending before it has `num_tokens` tokens."""

    def __init__(self, num_tokens: int, *, eos_id: int) -> None:
        self._num_tokens, self._eos_id = num_tokens, eos_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores (B, vocabulary) of the next token after the new tokens (B, t) so far."""
        if input_ids.shape[1] < self._num_tokens:
            scores[:, self._eos_id] = -torch.inf
        return scores


def decoding_config(
    tokenizer: Tokenizer,
    *,
    max_new_tokens: int = 20,
    do_sample: bool = False,
    num_beams: int = 1,
    temperature: float = 1,
    top_p: float = 0.9,
    length_penalty: float = 1,
    min_length: int = 1,
) -> GenerationConfig:
    """Return how answers are written.

    `min_length` counts the BOS, as published settings do: with 1, the default, an answer may be empty.
    """
    sampling = {"temperature": float(temperature), "top_p": top_p, "top_k": TOP_K}
    return GenerationConfig(
        max_new_tokens=max_new_tokens,
        min_new_tokens=max(min_length - 1, 0) or None,
        do_sample=do_sample,
        num_beams=num_beams,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
        **(sampling if do_sample else {}),
        **({"length_penalty": float(length_penalty)} if num_beams > 1 else {}),
    )


def logits_processors(config: GenerationConfig, *, repetition_penalty: float = 1) -> LogitsProcessorList:
    """Return what changes the scores of the next token, in the order of `transformers`."""
    processors = LogitsProcessorList()
    if repetition_penalty != 1:
        processors.append(RepetitionPenalty(float(repetition_penalty), bos_id=config.bos_token_id))
    if config.min_new_tokens:
        processors.append(NoEndBefore(config.min_new_tokens, eos_id=config.eos_token_id))
    if config.do_sample:
        if config.temperature != 1:
            processors.append(TemperatureLogitsWarper(config.temperature))
        processors.append(TopKLogitsWarper(config.top_k))
        if config.top_p < 1:
            processors.append(TopPLogitsWarper(config.top_p))
    return processors


def write(
    llama: LlamaForCausalLM,
    embeds: Sequence[Tensor],
    config: GenerationConfig,
    *,
    heads: Sequence[Head] | None = None,
    repetition_penalty: float = 1,
) -> Iterator[Tensor]:
    """Yield the next token of each prompt (tokens, hidden), as (B,) int64, until every answer has ended.

    The pad token follows an answer's end. The likeliest token is taken, or with `do_sample` torch's generator draws.
    """
    processors = logits_processors(config, repetition_penalty=repetition_penalty)
    reader = Reader(llama)
    hidden = reader.read_prompts(embeds, heads)
    new_ids: Any = torch.empty(len(embeds), 0, dtype=torch.int64, device=hidden.device)
    has_ended = torch.zeros(len(embeds), dtype=torch.bool, device=hidden.device)
    for number in range(1, config.max_new_tokens + 1):
        scores = processors(new_ids, llama.lm_head(hidden).float())
        if config.do_sample:
            token = torch.multinomial(scores.softmax(-1), num_samples=1).squeeze(1)
        else:
            token = scores.argmax(-1)
        token = token.masked_fill(has_ended, config.pad_token_id)
        yield token
        has_ended = has_ended | (token == config.eos_token_id)
        if number == config.max_new_tokens or has_ended.all():
            return
        new_ids = torch.cat([new_ids, token[:, None]], dim=1)
        hidden = reader.read(llama.get_input_embeddings()(token)[:, None])


class Reader:
    """Feeds a language model and keeps what it has read, so that nothing is read twice."""

    def __init__(self, llama: LlamaForCausalLM) -> None:
        self._llama = llama
        self._cache = DynamicCache()
        self._is_text: Tensor | None = None
        self._has_padding = False

    def read_prompts(self, prompts: Sequence[Tensor], heads: Sequence[Head] | None = None) -> Tensor:
        """Read prompts (tokens, hidden), each distinct head once; return what follows their ends, (B, hidden)."""
        places = {head: place for place, head in enumerate(dict.fromkeys(heads or ()))}
        if heads is None or len(places) == len(prompts) or not any(length for _, length in places):
            return self.read_padded(prompts)
        first = {places[head]: prompt[: head[1]] for head, prompt in zip(heads, prompts, strict=True)}
        self.read_padded([first[place] for place in range(len(places))])
        self._spread([places[head] for head in heads])
        return self.read_padded([prompt[head[1] :] for head, prompt in zip(heads, prompts, strict=True)])

    def read_padded(self, pieces: Sequence[Tensor]) -> Tensor:
        """Read one piece (tokens, hidden) for each row, padded on the left; return what follows, (B, hidden)."""
        lengths = [len(piece) for piece in pieces]
        padded = pad_sequence(list(pieces), batch_first=True, padding_side="left")
        if min(lengths) == max(lengths):
            return self.read(padded)
        self._has_padding = True
        starts = max(lengths) - torch.tensor(lengths, device=padded.device)
        return self.read(padded, torch.arange(max(lengths), device=padded.device) >= starts[:, None])

    def read(self, embeds: Tensor, is_text: Tensor | None = None) -> Tensor:
        """Read (B, t, hidden), padding where `is_text` (B, t) is False; return the last hidden state (B, hidden)."""
        shape = embeds.shape[:2]
        new = torch.ones(shape, dtype=torch.bool, device=embeds.device) if is_text is None else is_text
        self._is_text = new if self._is_text is None else torch.cat([self._is_text, new], dim=1)
        positions = self._is_text.cumsum(1)[:, -shape[1] :] - 1
        output = self._llama.model(
            inputs_embeds=embeds,
            attention_mask=self._is_text.long() if self._has_padding else None,
            position_ids=positions.clamp(min=0),
            past_key_values=self._cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]

    def _spread(self, rows: Sequence[int]) -> None:
        """Go on with these rows of what was read, in this order."""
        assert self._is_text is not None
        chosen = torch.tensor(rows, device=self._is_text.device)
        self._cache.batch_select_indices(chosen)
        self._is_text = self._is_text[chosen]
