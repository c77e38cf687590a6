"""Encodes turns as token ids and labels, and packs examples into a Batch; the only place with the token layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from minigpt4.conversation.chat_format import LLAMA_2, ChatFormat
from minigpt4.conversation.conversation import (
    IGNORE_INDEX,
    IMAGE_PLACEHOLDER,
    IMAGE_TOKEN,
    Batch,
    Example,
    Turn,
)
from minigpt4.conversation.tokenizer import Tokenizer


class SampleTooLong(ValueError):
    """A sample whose image spans alone exceed the token limits: cutting its text does not make it fit."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example with its tokens: input_ids and labels (T,) int64."""

    example: Example
    input_ids: Tensor
    labels: Tensor


@dataclass(slots=True)
class _Tokens:
    """Tokens under construction; `spans` are the index ranges of image spans, which no cut may touch."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)

    def add(self, ids: list[int], *, learnt: bool = False) -> None:
        self.ids += ids
        self.labels += ids if learnt else [IGNORE_INDEX] * len(ids)

    def cut(self, limit: int) -> None:
        """Remove text from the end until at most `limit` tokens are left."""
        excess = len(self.ids) - limit
        if excess <= 0:
            return
        fixed = {i for start, stop in self.spans for i in range(start, stop)}
        text = [i for i in range(len(self.ids)) if i not in fixed]
        if excess > len(text):
            raise SampleTooLong(f"its image spans take {len(fixed)} tokens where {limit} are allowed")
        gone = set(text[-excess:])
        self.ids = [x for i, x in enumerate(self.ids) if i not in gone]
        self.labels = [x for i, x in enumerate(self.labels) if i not in gone]


class ChatEncoder:
    """Lays out turns as the chat format says: its BOS, then questions in its template, and answers with its end.

    Loss falls on answers and their end alone. The prompt (the first question) is cut at `max_context_len` tokens, all
    that follows at `max_txt_len`; text is cut, an image span never. `prompt_template` and `end_sym` replace the
    template and the end of `chat_format`.

    Raises: ValueError when `prompt_template` has no place for the question, or further ones.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        num_image_tokens: int,
        chat_format: ChatFormat = LLAMA_2,
        prompt_template: str | None = None,
        end_sym: str | None = None,
        chat_template: bool = True,
        max_txt_len: int = 160,
        max_context_len: int = 3800,
    ) -> None:
        self.chat_format = chat_format.override(template=prompt_template, end=end_sym)
        self.tokenizer = tokenizer
        self.num_image_tokens = num_image_tokens
        self.chat_template = chat_template
        self.max_txt_len = max_txt_len
        self.max_context_len = max_context_len
        self._image = [IMAGE_TOKEN] * num_image_tokens
        self._bos = tokenizer.encode(chat_format.bos)
        self._num_open = len(tokenizer.encode(chat_format.image_open))
        self._num_close = len(tokenizer.encode(chat_format.image_close))
        ends = [tokenizer.encode(mark) for mark in chat_format.stops]
        self.end_ids = tuple(dict.fromkeys([tokenizer.eos_id, *(ids[0] for ids in ends if len(ids) == 1)]))
        """The tokens that end a generated answer; a mark of several tokens is cut off its text instead."""

    @classmethod
    def from_config(
        cls, model_cfg: Any, *, tokenizer: Tokenizer, chat_format: ChatFormat, num_image_tokens: int
    ) -> ChatEncoder:
        """Build from a `model` section; the tokenizer and the chat format are those of its language model."""
        return cls(
            tokenizer,
            num_image_tokens=num_image_tokens,
            chat_format=chat_format.configured(model_cfg),
            chat_template=bool(model_cfg.chat_template),
            max_txt_len=model_cfg.max_txt_len,
            max_context_len=model_cfg.max_context_len,
        )

    def encode(self, turns: Sequence[Turn]) -> tuple[Tensor, Tensor]:
        """Return input_ids and labels, both (T,) int64.

        The first token has no label, since nothing in its example predicts it.
        Raises: SampleTooLong when the limits cannot be met without cutting an image span.
        """
        layout = self.chat_format
        prompt, rest = _Tokens(), _Tokens()
        for number, turn in enumerate(turns):
            if number:
                self._add_prompt(rest, layout.later_question(turn.prompt))
            elif self.chat_template or len(turns) > 1:  # conversations always use the template
                self._add_prompt(prompt, layout.first_question(turn.prompt))
            else:
                self._add_prompt(prompt, layout.bare_question(turn.prompt))
            rest.add(self.tokenizer.encode(turn.answer + layout.end), learnt=True)
        prompt.cut(self.max_context_len)
        rest.cut(self.max_txt_len)
        ids = torch.tensor([*self._bos, *prompt.ids, *rest.ids], dtype=torch.int64)
        labels = torch.tensor([*([IGNORE_INDEX] * len(self._bos)), *prompt.labels, *rest.labels], dtype=torch.int64)
        labels[:1] = IGNORE_INDEX
        return ids, labels

    def encode_example(self, example: Example) -> Encoded:
        """Return the example with its tokens.

        Raises: SampleTooLong naming the example, ValueError when it has no token at all.
        """
        try:
            ids, labels = self.encode(example.turns)
        except SampleTooLong as error:
            raise SampleTooLong(f"{example.id}: {error}") from error
        if not len(ids):
            raise ValueError(f"{example.id}: neither its question nor its answer has a token")
        return Encoded(example, ids, labels)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return the examples as one Batch.

        Raises: SampleTooLong when an example does not fit; ValueError when no example has anything to learn, or when
        images differ in size. The messages name the examples.
        """
        return self.pack([self.encode_example(example) for example in examples])

    def pack(self, encoded: Sequence[Encoded]) -> Batch:
        """Lay encoded examples end to end; no examples make an empty Batch. Raises: as `collate`."""
        if not encoded:
            return Batch.empty()
        labels = torch.cat([item.labels for item in encoded])
        if not (labels != IGNORE_INDEX).any():
            names = ", ".join(item.example.id for item in encoded)
            raise ValueError(f"nothing to learn in this batch, every label is masked: {names}")
        lengths = [len(item.input_ids) for item in encoded]
        return Batch(
            images=_stack_images([item.example for item in encoded]),
            input_ids=torch.cat([item.input_ids for item in encoded]),
            labels=labels,
            position_ids=torch.cat([torch.arange(length) for length in lengths]),
            lengths=torch.tensor(lengths),
        )

    def prompt_ids(self, prompt: str) -> Tensor:
        """Return the ids (T,) int64 of a whole generation prompt, with the BOS before it.

        In a prompt of several turns each question and each answer is tokenized separately, as in training.
        """
        tokens = _Tokens(ids=list(self._bos))
        for piece in self.chat_format.pieces(prompt):
            self._add_prompt(tokens, piece)
        return torch.tensor(tokens.ids, dtype=torch.int64)

    def answer(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids up to the first end of an answer, without a repeated prompt before it."""
        end = next((number for number, one in enumerate(ids) if one in self.end_ids), len(ids))
        return self.chat_format.clean(self.tokenizer.decode(ids[:end]))

    def _add_prompt(self, tokens: _Tokens, text: str) -> None:
        """Add a text, image tokens in place of its placeholders; the pieces around them are tokenized separately."""
        layout = self.chat_format
        before, *following = text.split(IMAGE_PLACEHOLDER)
        tokens.add(self.tokenizer.encode(before))
        for after in following:
            start = len(tokens.ids) - (self._num_open if before.endswith(layout.image_open) else 0)
            tokens.add(self._image)
            stop = len(tokens.ids) + (self._num_close if after.startswith(layout.image_close) else 0)
            tokens.spans.append((start, stop))
            tokens.add(self.tokenizer.encode(after))
            before = after


def _stack_images(examples: Sequence[Example]) -> Tensor:
    """Return all images in order, (N, 3, H, W). Raises: ValueError naming the example whose image differs in size."""
    images = [image for example in examples for image in example.images]
    if not images:
        return torch.empty(0, 3, 1, 1)
    for example in examples:
        for image in example.images:
            if image.shape != images[0].shape:
                raise ValueError(
                    f"{example.id}: an image of shape {tuple(image.shape)}, others {tuple(images[0].shape)}"
                )
    return torch.stack(images)
