"""A model to be asked about pictures: `load_model(yaml)`, then `model.generate(pictures, questions)`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from minigpt4.common import dist_utils
from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.common.seeds import seed_torch
from minigpt4.conversation.conversation import IMAGE_PLACEHOLDER, IMAGE_SPAN, ImageTokens, Turn
from minigpt4.evaluation.command import image_processor
from minigpt4.processors.pictures import AS_SEEN, decode_image

Picture = Image.Image | str | Path


def load_model(
    cfg_path: str | Path, *, options: Sequence[str] = (), ckpt: str | Path | None = None, device: str | None = None
) -> Assistant:
    """Return the model of a YAML file, as the evaluation scripts use it, ready to answer.

    `options` ("key=value") are laid over the YAML; `device` is a GPU where there is one and nothing else is said.
    Raises: ValueError when an option is wrong, or a device or a weight file is missing.
    """
    cfg = Config.load(cfg_path, options)
    if ckpt is not None:
        cfg.model_cfg.ckpt = str(ckpt)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    cfg.run_cfg.device = device or cfg.run_cfg.device
    cfg.check_values()
    where = dist_utils.pick_device(cfg.run_cfg)
    dtype = dist_utils.autocast_dtype(cfg.run_cfg, where)
    seed_torch(cfg.run_cfg.seed, "weights")
    model = build_model(cfg, where, dtype or torch.float32)
    return Assistant(model, image_processor(cfg), dtype=dtype, pictures=cfg.model_cfg.pictures or AS_SEEN)


def build_model(cfg: Config, device: torch.device, dtype: torch.dtype) -> Any:
    """Return the configured model in eval mode on its device, frozen weights in `dtype`.

    Raises: ValueError when CUDA graphs are asked for elsewhere, or as the model's `from_config`.
    """
    if cfg.run_cfg.cuda_graphs and device.type != "cuda":
        raise ValueError(f"run.cuda_graphs: {device.type} has no CUDA graphs; --options run.cuda_graphs=False")
    model = registry.get_model_class(cfg.model_cfg.arch).from_config(cfg.model_cfg, dtype=dtype)
    if cfg.run_cfg.cuda_graphs:
        model.use_cuda_graphs()
    return model.to(device).eval()


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

        A picture given more than once is looked at once; None asks without a picture. `options` as of
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
        places: dict[Any, int] = {}
        keys = [None if one is None else id(one) if isinstance(one, Image.Image) else str(one) for one in given]
        for key in keys:
            if key is not None:
                places.setdefault(key, len(places))
        encoded = self.encode([given[keys.index(key)] for key in places]) if places else None
        ask = self.model.chat_encoder.chat_format.generation_prompt
        prompts = [ask(text, has_image=key is not None) for text, key in zip(asked, keys, strict=True)]
        shown = [places[key] for key in keys if key is not None]
        with self._autocast():
            return self.model.generate(encoded, prompts, shown=shown, **options)

    def encode(self, pictures: Sequence[Any]) -> ImageTokens:
        """Return what the language model sees of pictures."""
        images = torch.stack([self.processor(open_picture(picture, self.pictures)) for picture in pictures])
        with torch.no_grad(), self._autocast():
            return self.model.encode_images(images.to(self.device))

    def chat(self, image: Picture | None = None) -> Chat:
        """Return a conversation, about a picture or about none."""
        return Chat(self, image)

    def stream(self, encoded: ImageTokens | None, prompt: str, **options: Any) -> Iterator[str]:
        """Yield the answer to a prompt as far as it is written."""
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
    """A conversation of several turns about one picture; the picture is looked at once."""

    def __init__(self, assistant: Assistant, image: Picture | None = None) -> None:
        self._assistant = assistant
        self._encoded = None if image is None else assistant.encode([image])
        self.turns: list[Turn] = []

    def ask(self, question: str, **options: Any) -> Iterator[str]:
        """Yield the answer as far as it is written; the turn counts once the answer has ended."""
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
