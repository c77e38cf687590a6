"""The preview page: samples of every dataset as the model gets them, and the contents of a step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.conversation import IGNORE_INDEX, IMAGE_TOKEN
from minigpt4.conversation.encoder import ChatEncoder, Encoded
from minigpt4.conversation.tokenizer import Tokenizer
from minigpt4.datasets.base_dataset import InstructionDataset
from minigpt4.datasets.mixture import MixtureComponent, mixing_weights
from minigpt4.processors.blip_processors import CLIP_MEAN, CLIP_STD
from minigpt4.reports.preview_page import DatasetView, Sample, Token, write_preview_page

NUM_MEASURED = 32
"""Samples of each dataset that are measured."""


def write_preview(cfg: Config, datasets: Mapping[str, Mapping[str, Any]], *, num_samples: int) -> Path:
    """Write `run.output_dir`/preview.html with `num_samples` of each dataset; return its path."""
    path = Path(cfg.run_cfg.output_dir) / "preview.html"
    return write_preview_page(path, views_of(cfg, datasets, num_samples=num_samples))


def views_of(cfg: Config, datasets: Mapping[str, Mapping[str, Any]], *, num_samples: int) -> list[DatasetView]:
    """Return the view of each dataset."""
    encoder = registry.get_model_class(cfg.model_cfg.arch).chat_encoder_of(cfg.model_cfg)
    bodies = {str(name): body for name, body in cfg.datasets_cfg.items()}
    components = [
        MixtureComponent(name, None if one.is_stream else len(one), bodies[name].batch_size, bodies[name].sample_ratio)
        for name, one in ((name, splits["train"]) for name, splits in datasets.items())
    ]
    views = [
        DatasetView(
            name=one.name,
            num_rows=one.num_rows,
            batch_size=one.batch_size,
            ratio=one.ratio,
            share=float(share),
        )
        for one, share in zip(components, mixing_weights(components), strict=True)
    ]
    for view in views:
        name = view.name
        dataset = datasets[name]["train"]
        dataset.look_at_boxes()
        view.remarks = dataset.report.boxes(name, dataset.bad_boxes)
        processor = bodies[name].vis_processor.train
        scale = torch.tensor([processor.mean or CLIP_MEAN, processor.std or CLIP_STD])
        _look(view, dataset, encoder, scale, num_samples=num_samples, seed=cfg.run_cfg.seed)
    return views


def _look(
    view: DatasetView, dataset: InstructionDataset, encoder: ChatEncoder, scale: Tensor, *, num_samples: int, seed: int
) -> None:
    """Fetch samples as the first pass of the training would, and measure them."""
    name, num_rows = view.name, (1 << 20) if dataset.is_stream else len(dataset)
    rows = derive_rng(seed, "preview", name).sample(range(num_rows), min(max(num_samples, NUM_MEASURED), num_rows))
    num_image_tokens = 0
    for row in rows:
        try:
            encoded = encoder.encode_example(dataset.get(row, derive_rng(seed, name, 0, row)))
        except ValueError as error:  # SampleTooLong is one
            view.unusable.append(str(error))
            continue
        images = int((encoded.input_ids == IMAGE_TOKEN).sum())
        num_image_tokens += images
        view.text_lengths.append(len(encoded.input_ids) - images)
        view.num_trained.append(int((encoded.labels != IGNORE_INDEX).sum()))
        if len(view.samples) < num_samples:
            view.samples.append(_sample(encoded, encoder.tokenizer, scale))
    view.num_image_tokens = num_image_tokens / max(len(view.text_lengths), 1)


def _sample(encoded: Encoded, tokenizer: Tokenizer, scale: Tensor) -> Sample:
    mean, deviation = scale.view(2, 3, 1, 1)
    pictures = [(image * deviation + mean).mul(255).round().clamp(0, 255).byte() for image in encoded.example.images]
    return Sample(
        id=encoded.example.id,
        turns=[(turn.prompt, turn.answer) for turn in encoded.example.turns],
        pictures=pictures,
        tokens=_tokens(encoded, tokenizer),
        num_tokens=len(encoded.input_ids),
        num_trained=int((encoded.labels != IGNORE_INDEX).sum()),
    )


def _tokens(encoded: Encoded, tokenizer: Tokenizer) -> list[Token]:
    """Return the tokens as text; image tokens that follow each other are one entry."""
    anchor = tokenizer.encode("x")[-1]  # after it, a decoded piece keeps its leading blank
    before = len(tokenizer.decode([anchor]))
    named = {number: text for text, number in tokenizer.special.items()}
    tokens: list[Token] = []
    for number, label in zip(encoded.input_ids.tolist(), encoded.labels.tolist(), strict=True):
        trained = label != IGNORE_INDEX
        if number != IMAGE_TOKEN:
            text = named.get(number) or tokenizer.decode([anchor, number])[before:]
            tokens.append(Token(text or "(no text)", trained))
        elif tokens and tokens[-1].is_image:
            tokens[-1] = Token("image", trained, tokens[-1].count + 1, is_image=True)
        else:
            tokens.append(Token("image", trained, is_image=True))
    return tokens
