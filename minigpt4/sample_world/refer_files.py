"""Evaluation files of referring expressions: the splits of RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

from minigpt4.sample_world.files import Scenes, coco_name, write_json, write_picture
from minigpt4.sample_world.grounding_files import sentences
from minigpt4.sample_world.scenes import SHAPES, SIDE

KINDS = {"testA": SHAPES[:3], "testB": SHAPES[3:]}
"""RefCOCO's testA refers to people and testB to other objects; here they are two kinds of shapes."""


def write_refer(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write {name}/{name}/{name}_{split}.json of the three sets, and their pictures, which they share.

    A third of the scenes is for validation; of the others, RefCOCO's and RefCOCO+'s two tests share out the scenes by
    the kind of their first thing and ask for things of that kind alone.
    """
    for scene in scenes:
        write_picture(root / "coco2014_train" / coco_name(scene), scene)
    num_val = len(scenes) // 3
    val, rest = scenes[:num_val], scenes[num_val:]
    for name in ("refcoco", "refcoco+", "refcocog"):
        splits = {"val": _rows(name, val, SHAPES, rng)}
        if name == "refcocog":
            splits["test"] = _rows(name, rest, SHAPES, rng)
        else:
            for split, kind in KINDS.items():
                own = [scene for scene in rest if scene.things[0].shape in kind]
                splits[split] = _rows(name, own, kind, rng)
        for split, rows in splits.items():
            write_json(root / name / name / f"{name}_{split}.json", rows)


def _rows(name: str, scenes: Scenes, kind: Collection[str], rng: random.Random) -> list[dict[str, Any]]:
    """Return a row for each thing of a kind; an img_id names picture and object."""
    return [
        {
            "img_id": f"{Path(coco_name(scene)).stem}_{scene.number * 10 + i}",
            "sents": rng.choice(sentences(thing, name)),
            "bbox": list(thing.box),
            "height": SIDE,
            "width": SIDE,
        }
        for scene in scenes
        for i, thing in enumerate(scene.things)
        if thing.shape in kind
    ]
