"""Sight: the vision encoder's own pre-training. Each token learns to show what there is to know about its region.

A token covers four patches in a row: half the picture's width and one patch of its height. Three rows of tokens cover
the upper places, three the lower ones, and the last two the sign.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minigpt4.conversation.box_text import corners_of
from minigpt4.models.projector import PATCHES_PER_TOKEN
from minigpt4.processors.blip_processors import BlipImageProcessor
from minigpt4.sample_world.drawing import draw_scene
from minigpt4.sample_world.scenes import COLOURS, GROUNDS, PLACES, SHAPES, SIDE, SIZES, WORDS, Scene, Thing
from minigpt4.sample_world.statements import claim
from tools.tiny_weights.tiny_model import VIT

TOKENS_A_ROW = 2
ROWS_A_PLACE = 3
MEMES = 0.4
"""The share of pictures without a sign that show a meme's two words in its place."""
NOTHING = -100
"""The class of a fact that a region does not have; no loss falls on it."""
OF_THINGS = {
    "place": len(PLACES),
    "shape": 1 + len(SHAPES),
    "color": 1 + len(COLOURS),
    "size": 1 + len(SIZES),
    "tied color": 1 + len(COLOURS),
    "tied shape": 1 + len(SHAPES),
    "same color": 5,
    "same shape": 5,
    **{f"{edge} {digit}": 11 for edge in ("left", "top", "right", "bottom") for digit in ("tens", "ones")},
}
"""What the tokens of a place show, and in how many classes; class 0 of shape, color and size is an empty place."""
OF_SIGN = {"ground": len(GROUNDS), "word": 1 + len(WORDS), "total": 5}
"""What the tokens of the sign show."""


class Sight(nn.Module):
    """Linear readings of the encoder's tokens."""

    def __init__(self) -> None:
        super().__init__()
        width = PATCHES_PER_TOKEN * VIT.embed_dim
        self.things = nn.Linear(width, sum(OF_THINGS.values()))
        self.sign = nn.Linear(width, sum(OF_SIGN.values()))

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the tokens of places, (N, 4, 3, classes), and of the sign, (N, 4, classes).

        Args:
            patches: the encoder's output, (N, patches, C)
        """
        patches = F.layer_norm(patches.float(), patches.shape[-1:])
        grid = patches.reshape(len(patches), -1, TOKENS_A_ROW, PATCHES_PER_TOKEN * patches.shape[-1])
        upper, lower = grid[:, :ROWS_A_PLACE], grid[:, ROWS_A_PLACE : 2 * ROWS_A_PLACE]
        places = torch.cat([upper.transpose(1, 2), lower.transpose(1, 2)], dim=1)
        return self.things(places), self.sign(grid[:, 2 * ROWS_A_PLACE :].flatten(1, 2))


def loss_of(things: Tensor, sign: Tensor, scenes: Sequence[Scene]) -> tuple[Tensor, dict[str, float]]:
    """Return the sum of the cross-entropies of all facts, and the share of right readings of each fact."""
    of_things = torch.tensor([[place_facts(scene, place) for place in range(len(PLACES))] for scene in scenes])
    of_sign = torch.tensor([sign_facts(scene) for scene in scenes])
    shares: dict[str, float] = {}
    losses = [
        *_losses(things, of_things[:, :, None].expand(-1, -1, ROWS_A_PLACE, -1), OF_THINGS, shares),
        *_losses(sign, of_sign[:, None].expand(-1, sign.shape[1], -1), OF_SIGN, shares),
    ]
    return torch.stack(losses).sum(), shares


def _losses(logits: Tensor, truths: Tensor, facts: dict[str, int], shares: dict[str, float]) -> list[Tensor]:
    losses = []
    parts = logits.flatten(0, -2).split(list(facts.values()), dim=-1)
    for name, part, truth in zip(facts, parts, truths.flatten(0, -2).T, strict=True):
        losses.append(F.cross_entropy(part, truth, ignore_index=NOTHING))
        known = truth != NOTHING
        shares[name] = float((part.argmax(-1) == truth)[known].float().mean())
    return losses


def place_facts(scene: Scene, place: int) -> list[int]:
    """Return the class of each fact of OF_THINGS about one place."""
    thing = next((thing for thing in scene.things if thing.place == place), None)
    if thing is None:
        return [place, 0, 0, 0, *[NOTHING] * (len(OF_THINGS) - 4)]
    looks = 1 + SHAPES.index(thing.shape), 1 + COLOURS.index(thing.colour), 1 + SIZES.index(thing.size)
    tied = _tied(scene, thing)
    partner = (0, 0) if tied is None else (1 + COLOURS.index(tied.colour), 1 + SHAPES.index(tied.shape))
    same = scene.count("colour")[thing.colour], scene.count("shape")[thing.shape]
    edges = corners_of(thing.box, (SIDE, SIDE))
    return [place, *looks, *partner, *same, *(part for edge in edges for part in divmod(edge, 10))]


def _tied(scene: Scene, thing: Thing) -> Thing | None:
    pair = [scene.things[i] for i in scene.rope or ()]
    return next((other for other in pair if other is not thing), None) if thing in pair else None


def sign_facts(scene: Scene) -> list[int]:
    """Return the class of each fact of OF_SIGN."""
    word = 0 if scene.word is None else 1 + WORDS.index(scene.word)
    return [GROUNDS.index(scene.ground), word, len(scene.things)]


def pictures(scenes: Sequence[Scene], process: BlipImageProcessor, rng: random.Random) -> Tensor:
    """Return the pictures of scenes, (N, 3, SIDE, SIDE); a few scenes without a sign show a meme's words."""
    images = []
    for scene in scenes:
        is_meme = scene.word is None and rng.random() < MEMES
        words = claim(scene, rng, is_true=rng.random() < 0.5) if is_meme else None
        images.append(process(draw_scene(scene, meme=words)))
    return torch.stack(images)
