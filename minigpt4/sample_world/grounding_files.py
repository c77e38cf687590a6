"""Training files about places: RefCOCO's three sets, Visual Genome's regions, and the grounded captions of Flickr."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

from minigpt4.conversation.box_text import box_text
from minigpt4.sample_world.captions import short_caption
from minigpt4.sample_world.files import Scenes, coco_name, vg_folder, write_json, write_picture
from minigpt4.sample_world.scenes import PLACES, SHAPES, SIDE, Scene, Thing

REF_FILES = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p"}
PICKLE_PROTOCOL = 2


def write_refcoco(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write refcoco/{refcoco,refcoco+,refcocog}: boxes in instances.json, sentences in pickled refs."""
    annotations = [
        {
            "id": scene.number * 10 + i,
            "image_id": scene.number,
            "category_id": SHAPES.index(thing.shape) + 1,
            "bbox": list(thing.box),
        }
        for scene in scenes
        for i, thing in enumerate(scene.things)
    ]
    instances = {
        "images": [{"id": s.number, "file_name": coco_name(s), "width": SIDE, "height": SIDE} for s in scenes],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": shape} for i, shape in enumerate(SHAPES)],
    }
    for name, file in REF_FILES.items():
        write_json(root / "refcoco" / name / "instances.json", instances)
        refs = [_ref(scene, i, sentences(thing, name)) for scene in scenes for i, thing in enumerate(scene.things)]
        (root / "refcoco" / name / file).write_bytes(pickle.dumps(refs, protocol=PICKLE_PROTOCOL))


def sentences(thing: Thing, name: str) -> list[str]:
    """Return what a thing is called; RefCOCO+ speaks of no places, RefCOCOg in longer sentences."""
    place = PLACES[thing.place]
    if name == "refcoco+":
        return [thing.name, f"{thing.size} {thing.name}"]
    if name == "refcocog":
        return [f"the {thing.size} {thing.name} that is in the {place}"]
    return [thing.name, f"{thing.name} {place}"]


def _ref(scene: Scene, index: int, sentences: list[str]) -> dict[str, Any]:
    """Return a ref; the things of every tenth scene belong to the validation split."""
    ref_id = scene.number * 10 + index
    sent_ids = [ref_id * 10 + i for i in range(len(sentences))]
    return {
        "ref_id": ref_id,
        "ann_id": ref_id,
        "image_id": scene.number,
        "category_id": SHAPES.index(scene.things[index].shape) + 1,
        "split": "val" if scene.number % 10 == 0 else "train",
        "file_name": coco_name(scene).replace(".jpg", f"_{ref_id}.jpg"),
        "sent_ids": sent_ids,
        "sentences": [
            {"sent_id": sent_id, "sent": text, "raw": text, "tokens": text.split()}
            for sent_id, text in zip(sent_ids, sentences, strict=True)
        ],
    }


def write_regions(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write Visual Genome's region_descriptions.json and image_data.json: a region a thing, and one of the whole."""
    regions, images = [], []
    for scene in scenes:
        boxes = [(f"{thing.size} {thing.name}", thing.box) for thing in scene.things]
        boxes.append((short_caption(scene), (0, 0, SIDE, SIDE)))
        rows = [
            {
                "region_id": scene.number * 10 + i,
                "image_id": scene.number,
                "phrase": phrase,
                **dict(zip(("x", "y", "width", "height"), box, strict=True)),
            }
            for i, (phrase, box) in enumerate(boxes)
        ]
        regions.append({"id": scene.number, "regions": rows})
        url = f"https://cs.stanford.edu/people/rak248/{vg_folder(scene)}/{scene.number}.jpg"
        images.append({"image_id": scene.number, "url": url, "width": SIDE, "height": SIDE, "coco_id": None})
    write_json(root / "vg/region_descriptions.json", regions)
    write_json(root / "vg/image_data.json", images)


def write_flickr(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write filtered_flickr: captions with a box for each phrase, and phrases with their boxes."""
    grounded, phrases, objects = [], [], []
    for scene in scenes:
        image_id = str(scene.number)
        write_picture(root / f"filtered_flickr/images/{image_id}.jpg", scene)
        names = [grounded_phrase(thing) for thing in scene.things]
        grounded.append({"image_id": image_id, "grounded_caption": f"{', '.join(names)} on {scene.ground}"})
        phrases.append({"image_id": image_id, "caption": short_caption(scene), "output": " ".join(names)})
        thing = rng.choice(scene.things)
        objects.append({"image_id": image_id, "phrase": thing.name, "bbox": thing_box(thing)})
    write_json(root / "filtered_flickr/groundedcaption.json", grounded)
    write_json(root / "filtered_flickr/captiontobbox.json", phrases)
    write_json(root / "filtered_flickr/phrasetobbox.json", objects)


def thing_box(thing: Thing) -> str:
    """Return the box of a thing as text."""
    return box_text(thing.box, (SIDE, SIDE))


def grounded_phrase(thing: Thing) -> str:
    """Return the name of a thing with its box."""
    return f"<p>{thing.name}</p> {thing_box(thing)}"
