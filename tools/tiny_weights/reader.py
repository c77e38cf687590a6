"""Lessons as padded batches of tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from minigpt4.conversation.conversation import IGNORE_INDEX
from minigpt4.conversation.encoder import ChatEncoder
from minigpt4.conversation.tokenizer import SentencePieceTokenizer
from minigpt4.processors.blip_processors import BlipImageProcessor
from minigpt4.sample_world.drawing import draw_scene
from minigpt4.sample_world.scenes import SIDE
from tools.tiny_weights.lessons import Lesson
from tools.tiny_weights.tiny_model import NUM_IMAGE_TOKENS, PaddedBatch

LENGTH_MULTIPLE = 32
"""Lengths are rounded up to this, so that few shapes of tensors come up: each new shape costs time on a CPU."""


class Reader:
    """Makes padded batches of lessons."""

    def __init__(self, tokenizer: SentencePieceTokenizer) -> None:
        self._encoder = ChatEncoder(tokenizer, num_image_tokens=NUM_IMAGE_TOKENS, max_txt_len=1024)
        self._process = BlipImageProcessor(SIDE)
        self.tokenizer = tokenizer

    def read(self, lessons: Sequence[Lesson], *, num_batches: int = 1) -> list[PaddedBatch]:
        """Return lessons as batches of like length, so that little of them is padding."""
        encoded = [(lesson, *self._encoder.encode(lesson.turns)) for lesson in lessons]
        if num_batches > 1:
            encoded.sort(key=lambda item: len(item[1]))
        size = math.ceil(len(encoded) / num_batches)
        return [self._pad(encoded[i : i + size]) for i in range(0, len(encoded), size)]

    def _pad(self, encoded: Sequence[tuple[Lesson, Tensor, Tensor]]) -> PaddedBatch:
        pad = nn.utils.rnn.pad_sequence
        ids = pad([ids for _, ids, _ in encoded], batch_first=True, padding_value=self.tokenizer.pad_id)
        labels = pad([labels for _, _, labels in encoded], batch_first=True, padding_value=IGNORE_INDEX)
        ids, labels = _lengthen(ids, self.tokenizer.pad_id), _lengthen(labels, IGNORE_INDEX)
        images = [self._process(draw_scene(lesson.scene)) for lesson, _, _ in encoded if lesson.shown]
        return PaddedBatch(ids, labels, torch.stack(images) if images else torch.empty(0, 3, SIDE, SIDE))


def _lengthen(rows: Tensor, value: int) -> Tensor:
    return nn.functional.pad(rows, (0, -rows.shape[1] % LENGTH_MULTIPLE), value=value)
