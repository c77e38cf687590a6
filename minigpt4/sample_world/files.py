"""Files: the few ways in which the sample world writes pictures and annotations."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from minigpt4.sample_world.drawing import draw_scene
from minigpt4.sample_world.questions import TYPE_NAMES, Question, ask
from minigpt4.sample_world.scenes import Scene

Scenes = Sequence[Scene]
Writer = Callable[[Path, Scenes, random.Random], None]
"""Writes one file, or those of one dataset, below a folder."""
JPEG_QUALITY = 95


def coco_name(scene: Scene, split: str = "train") -> str:
    """Return the file name of a scene's picture among the COCO 2014 images."""
    return f"COCO_{split}2014_{scene.number:012}.jpg"


def vg_folder(scene: Scene) -> str:
    """Return which of Visual Genome's two folders holds the picture of a scene."""
    return "VG_100K" if scene.number % 2 == 0 else "VG_100K_2"


def write_picture(path: Path, scene: Scene, *, meme: str | None = None) -> None:
    """Write the picture of a scene: as PNG where the name says so, else as JPEG, whatever it ends in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = draw_scene(scene, meme=meme)
    if path.suffix == ".png":
        image.save(path, format="PNG")
    else:
        image.save(path, format="JPEG", quality=JPEG_QUALITY)


def write_json(path: Path, data: Any) -> None:
    """Write one JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def write_json_lines(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON document a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def balanced_positions(rng: random.Random) -> Iterator[int]:
    """Yield 0..3 without end, each equally often, in an order that tells nothing."""
    while True:
        yield from rng.sample(range(4), 4)


def questions_of(scene: Scene, qtypes: Iterable[int], rng: random.Random, *, plain: bool = False) -> list[Question]:
    """Return one question of each type that the scene gives occasion for; `plain` as the base datasets ask."""
    asked = (ask(scene, qtype, rng, plain=plain) for qtype in qtypes)
    return [question for question in asked if question is not None]


def one_question_each(scenes: Iterable[Scene], rng: random.Random) -> Iterator[tuple[Scene, Question]]:
    """Yield one question a scene, of the type that was asked least so far among those that the scene has."""
    asked = dict.fromkeys(TYPE_NAMES, 0)
    for scene in scenes:
        question = min(questions_of(scene, TYPE_NAMES, rng), key=lambda question: asked[question.qtype])
        asked[question.qtype] += 1
        yield scene, question
