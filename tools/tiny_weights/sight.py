"""Sight: the vision encoder's own pre-training, by naming what is in each quarter of a picture."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import torch
from timm.models.eva import Eva
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt4.models.projector import PATCHES_PER_TOKEN
from minigpt4.processors.blip_processors import BlipImageProcessor
from minigpt4.sample_world.drawing import draw_scene
from minigpt4.sample_world.scenes import COLOURS, GROUNDS, PLACES, SHAPES, SIDE, SIZES, WORDS, Scene, make_scene
from tools.tiny_weights.tiny_model import VIT

logger = logging.getLogger(__name__)

PAIRS = tuple((i, j) for i in range(len(PLACES)) for j in range(i + 1, len(PLACES)))
TOKENS_A_ROW = 2
ROWS_A_QUARTER = 3
"""The rows of tokens of an upper or lower half; what is left below shows the sign."""


class Sight(nn.Module):
    """Linear readings of the encoder's tokens: each quarter's shape, colour and size; ground, word and rope."""

    def __init__(self) -> None:
        super().__init__()
        width = PATCHES_PER_TOKEN * VIT.embed_dim
        self.quarter = nn.ModuleList(nn.Linear(width, 1 + len(names)) for names in (SHAPES, COLOURS, SIZES))
        self.whole = nn.ModuleList(nn.Linear(width, count) for count in (len(GROUNDS), 1 + len(WORDS), 1 + len(PAIRS)))

    def forward(self, patches: Tensor) -> list[Tensor]:
        """Return logits (N, classes) for every fact, in the order of `facts`; patches (N, patches, C)."""
        patches = F.layer_norm(patches.float(), patches.shape[-1:])
        grid = patches.reshape(len(patches), -1, TOKENS_A_ROW, PATCHES_PER_TOKEN * patches.shape[-1])
        readings = []
        for place in range(len(PLACES)):
            top = place // 2 * ROWS_A_QUARTER
            tokens = grid[:, top : top + ROWS_A_QUARTER, place % 2].mean(1)
            readings += [head(tokens) for head in self.quarter]
        ground, word, rope = self.whole
        scene = grid[:, : 2 * ROWS_A_QUARTER].mean((1, 2))
        return [*readings, ground(scene), word(grid[:, 2 * ROWS_A_QUARTER :].mean((1, 2))), rope(scene)]


def facts(scene: Scene) -> list[int]:
    """Return the class of every fact of a scene; 0 is nothing, except for the ground."""
    at = {thing.place: thing for thing in scene.things}
    classes: list[int] = []
    for place in range(len(PLACES)):
        thing = at.get(place)
        classes += (
            [0, 0, 0]
            if thing is None
            else [1 + SHAPES.index(thing.shape), 1 + COLOURS.index(thing.colour), 1 + SIZES.index(thing.size)]
        )
    first, second = sorted(scene.things[i].place for i in scene.rope) if scene.rope else (-1, -1)
    rope = 1 + PAIRS.index((first, second)) if scene.rope else 0
    return [*classes, GROUNDS.index(scene.ground), 1 + WORDS.index(scene.word) if scene.word else 0, rope]


def train_sight(vit: Eva, *, seed: int, num_steps: int, batch_size: int = 64, lr: float = 1.5e-3) -> None:
    """Train the encoder to show every fact of a scene to a linear reading."""
    sight, process = Sight(), BlipImageProcessor(SIDE)
    parameters = [*vit.parameters(), *sight.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=num_steps, pct_start=0.1)
    start = time.time()
    for step in range(num_steps):
        scenes = [make_scene(seed, "train", step * batch_size + i) for i in range(batch_size)]
        images = torch.stack([process(draw_scene(scene)) for scene in scenes])
        with torch.autocast("cpu", torch.bfloat16):
            readings = sight(vit.forward_features(images)[:, 1:])
        truths = torch.tensor([facts(scene) for scene in scenes]).T
        losses = [F.cross_entropy(r.float(), t) for r, t in zip(readings, truths, strict=True)]
        torch.stack(losses).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % 100 == 0:
            logger.info(
                "sight step %d: right %s, %.0f s", step + 1, _shares_right(readings, truths), time.time() - start
            )


def _shares_right(readings: Sequence[Tensor], truths: Tensor) -> str:
    right = [float((r.argmax(1) == t).float().mean()) for r, t in zip(readings, truths, strict=True)]
    num_places = len(PLACES)
    shares = [sum(right[i : 3 * num_places : 3]) / num_places for i in range(3)] + right[3 * num_places :]
    names = ("shape", "colour", "size", "ground", "word", "rope")
    return " ".join(f"{name} {share:.3f}" for name, share in zip(names, shares, strict=True))
