"""A trained model that answers questions about pictures, one by one or in a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from minigpt4.conversation.conversation import IMAGE_PLACEHOLDER, IMAGE_SPAN, ImageTokens, Turn
from minigpt4.processors.pictures import AS_SEEN, decode_image

Picture = Image.Image | str | Path


def open_picture(picture: Picture, pictures: str = AS_SEEN) -> Image.Image:
    """Return a picture in RGB, upright and on white unless `pictures` says as_stored.

    Raises: ValueError that names the file when it cannot be read.
    """
    try:
        return decode_image(picture, pictures)
    except ValueError as error:
        name = getattr(picture, "filename", picture)
        raise ValueError(f"cannot read the picture {name}: {error}") from error


class Assistant:
    """A model with the image processor that it was trained with; its LoRA is merged for good."""

    def __init__(
        self, model: Any, processor: Any, *, dtype: torch.dtype | None = None, pictures: str = AS_SEEN
    ) -> None:
        model.merge_for_good()
        self.pictures = pictures
        self.model, self.processor, self._dtype = model, processor, dtype
        self.device: torch.device = model.device

    def generate(
        self, images: Picture | Sequence[Picture | None], questions: str | Sequence[str], **options: Any
    ) -> list[str]:
        """Return an answer to each question about its picture, or about the one that is given for all.

        A picture given more than once is encoded once; None asks without a picture. `options` as of
        `MiniGPTv2.generate`: max_new_tokens, num_beams, do_sample, temperature..
        Raises: ValueError when a picture cannot be read, or pictures and questions differ in number.
        """
        asked = [questions] if isinstance(questions, str) else list(questions)
        if not isinstance(images, str | Path | Image.Image | Sequence):
            raise ValueError(f"pictures should be paths or images of Pillow, not {type(images).__name__}")
        given = [images] * len(asked) if isinstance(images, Picture) else list(images)
        if len(given) != len(asked):
            raise ValueError(f"{len(asked)} questions about {len(given)} pictures; give one each, or one for all")
        for question in asked:
            _check(question)
        keys = [None if one is None else id(one) if isinstance(one, Image.Image) else str(one) for one in given]
        distinct = [key for key in dict.fromkeys(keys) if key is not None]
        encoded = self.encode([given[keys.index(key)] for key in distinct]) if distinct else None
        ask = self.model.chat_encoder.chat_format.generation_prompt
        prompts = [ask(text, has_image=key is not None) for text, key in zip(asked, keys, strict=True)]
        shown = [distinct.index(key) for key in keys if key is not None]
        with self._autocast():
            answers: list[str] = self.model.generate(encoded, prompts, shown=shown, **options)
        return answers

    def encode(self, pictures: Sequence[Any]) -> ImageTokens:
        """Return the image tokens of pictures."""
        images = torch.stack([self.processor(open_picture(picture, self.pictures)) for picture in pictures])
        with torch.no_grad(), self._autocast():
            encoded: ImageTokens = self.model.encode_images(images.to(self.device))
        return encoded

    def chat(self, image: Picture | None = None) -> Chat:
        """Return a conversation, about a picture or about none."""
        return Chat(self, image)

    def stream(self, encoded: ImageTokens | None, prompt: str, **options: Any) -> Iterator[str]:
        """Yield the answer to a prompt so far, after each token."""
        steps = self.model.stream(encoded, prompt, **options)
        while True:
            with self._autocast():  # not held between steps, where it would reach into the caller's work
                text = next(steps, None)
            if text is None:
                return
            yield text

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype is not None)


class Chat:
    """A conversation of several turns about one picture, which is encoded once."""

    def __init__(self, assistant: Assistant, image: Picture | None = None) -> None:
        self._assistant = assistant
        self._encoded = None if image is None else assistant.encode([image])
        self.turns: list[Turn] = []

    def ask(self, question: str, **options: Any) -> Iterator[str]:
        """Yield the answer so far after each token; the turn is added when the answer has ended."""
        _check(question)
        has_image = self._encoded is not None and not self.turns
        asked = f"{IMAGE_SPAN} {question}" if has_image else question
        answer = ""
        prompt = self._assistant.model.chat_encoder.chat_format.chat_prompt(self.turns, asked)
        for answer in self._assistant.stream(self._encoded, prompt, **options):
            yield answer
        self.turns.append(Turn(asked, answer))


def _check(question: str) -> None:
    if IMAGE_PLACEHOLDER in question:
        raise ValueError(f"a question may not hold {IMAGE_PLACEHOLDER}: pictures are given beside it")
