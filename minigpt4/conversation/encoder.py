"""The chat layout: turns to token ids and labels, examples to a packed Batch. The one place that knows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from minigpt4.conversation.conversation import (
    IGNORE_INDEX,
    IMAGE_PLACEHOLDER,
    IMAGE_TOKEN,
    Batch,
    Example,
    Turn,
)
from minigpt4.conversation.prompts import PROMPT_TEMPLATE, prompt_ends
from minigpt4.conversation.tokenizer import Tokenizer

_IMAGE_OPEN, _IMAGE_CLOSE = "<Img>", "</Img>"
_BOS = "<s>"


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
        """Take text off the end until at most `limit` tokens are left."""
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
    """Lays out turns as `<s>` template(question) answer end_sym [`<s>` template(question) answer end_sym ...].

    Loss falls on answers and their end_sym alone. The prompt (the first question) is cut at `max_context_len` tokens,
    all that follows at `max_txt_len`; text is cut, an image span never.

    Raises: ValueError when `prompt_template` has no place for the question, or further ones.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        num_image_tokens: int,
        prompt_template: str = PROMPT_TEMPLATE,
        end_sym: str = "</s>",
        chat_template: bool = True,
        max_txt_len: int = 160,
        max_context_len: int = 3800,
    ) -> None:
        if "{}" not in prompt_template:
            raise ValueError(f"model.prompt_template: {prompt_template!r} has no {{}} where the question goes")
        try:
            self._prompt_start, self.prompt_end = prompt_ends(prompt_template)
        except (ValueError, IndexError, KeyError) as error:
            problem = f"model.prompt_template: {prompt_template!r} may have one {{}} and no other braces"
            raise ValueError(problem) from error
        self.tokenizer = tokenizer
        self.num_image_tokens = num_image_tokens
        self.prompt_template = prompt_template
        self.end_sym = end_sym
        self.chat_template = chat_template
        self.max_txt_len = max_txt_len
        self.max_context_len = max_context_len
        self._image = [IMAGE_TOKEN] * num_image_tokens
        self._num_open = len(tokenizer.encode(_IMAGE_OPEN))
        self._num_close = len(tokenizer.encode(_IMAGE_CLOSE))

    def encode(self, turns: Sequence[Turn]) -> tuple[Tensor, Tensor]:
        """Return input_ids and labels, both (T,) int64, beginning with one BOS.

        Raises: SampleTooLong when the limits cannot be met without cutting an image span.
        """
        templated = self.chat_template or len(turns) > 1  # conversations use the template whatever the option says
        prompt, rest = _Tokens(), _Tokens()
        for number, turn in enumerate(turns):
            question = self.prompt_template.format(turn.prompt) if templated else turn.prompt
            if number == 0:
                self._add_prompt(prompt, question)
            else:
                self._add_prompt(rest, _BOS + question)
            rest.add(self.tokenizer.encode(turn.answer + self.end_sym), learnt=True)
        prompt.cut(self.max_context_len)
        rest.cut(self.max_txt_len)
        ids = torch.tensor([self.tokenizer.bos_id, *prompt.ids, *rest.ids])
        return ids, torch.tensor([IGNORE_INDEX, *prompt.labels, *rest.labels])

    def encode_example(self, example: Example) -> Encoded:
        """Return the example with its tokens. Raises: SampleTooLong naming the example."""
        try:
            return Encoded(example, *self.encode(example.turns))
        except SampleTooLong as error:
            raise SampleTooLong(f"{example.id}: {error}") from error

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Return the examples as one Batch.

        Raises: SampleTooLong when an example does not fit; ValueError when no example has anything to learn, or when
        images differ in size. The messages name the examples.
        """
        return self.pack([self.encode_example(example) for example in examples])

    def pack(self, encoded: Sequence[Encoded]) -> Batch:
        """Lay encoded examples end to end; none at all give a Batch without tokens. Raises: as `collate`."""
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
        """Return the ids (T,) int64 of a whole generation prompt, with a BOS before the one that its text carries.

        Of a prompt over several turns each answer is tokenized on its own: from the end of the prompt template
        (`[/INST]`) to the next `<s>`.
        """
        tokens = _Tokens(ids=[self.tokenizer.bos_id])
        *past, now = prompt.split(_BOS)
        for number, text in enumerate(past):
            begun = len(self._prompt_start) if text.startswith(self._prompt_start) else 0
            found = text.find(self.prompt_end, begun) if self.prompt_end else -1
            end = len(text) if found < 0 else found + len(self.prompt_end)
            self._add_prompt(tokens, (_BOS if number else "") + text[:end])
            tokens.add(self.tokenizer.encode(text[end:]))
        self._add_prompt(tokens, _BOS + now if past else now)
        return torch.tensor(tokens.ids)

    def _add_prompt(self, tokens: _Tokens, text: str) -> None:
        """Add a text, image tokens in place of its placeholders; the pieces around them are tokenized separately."""
        before, *following = text.split(IMAGE_PLACEHOLDER)
        tokens.add(self.tokenizer.encode(before))
        for after in following:
            start = len(tokens.ids) - (self._num_open if before.endswith(_IMAGE_OPEN) else 0)
            tokens.add(self._image)
            stop = len(tokens.ids) + (self._num_close if after.startswith(_IMAGE_CLOSE) else 0)
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
