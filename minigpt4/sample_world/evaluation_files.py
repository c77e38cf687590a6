"""Evaluation files: SEED-Bench and MMBench about scenes that no training file shows."""

from __future__ import annotations

import base64
import csv
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigpt4.common.seeds import derive_rng
from minigpt4.evaluation.choice import BY_LETTER
from minigpt4.sample_world.drawing import draw_scene
from minigpt4.sample_world.files import (
    JPEG_QUALITY,
    balanced_positions,
    one_question_each,
    write_json,
    write_json_lines,
    write_picture,
)
from minigpt4.sample_world.lessons import option_lines
from minigpt4.sample_world.questions import LETTERS, TYPE_NAMES, Question
from minigpt4.sample_world.scenes import Scene

MMBENCH_CATEGORIES = {
    1: ("image_scene", "coarse_perception"),
    2: ("object_identity", "finegrained_perception (instance-level)"),
    3: ("attribute_recognition", "finegrained_perception (instance-level)"),
    4: ("object_localization", "finegrained_perception (instance-level)"),
    5: ("object_counting", "finegrained_perception (instance-level)"),
    6: ("spatial_relationship", "finegrained_perception (cross-instance)"),
    7: ("physical_relation", "relation_reasoning"),
    8: ("attribute_comparison", "logic_reasoning"),
    9: ("ocr", "finegrained_perception (instance-level)"),
}


def write_seed(root: Path, scenes: Sequence[Scene], *, seed: int) -> None:
    """Write seed/SEED-Bench-image.json, seed/seed-bench-image.jsonl and the pictures, SEED-Bench-image/*."""
    rng = derive_rng(seed, "sample_world", "seed_bench")
    positions = balanced_positions(rng)
    annotations, lines = [], []
    for number, (scene, question) in enumerate(one_question_each(scenes, rng)):
        position = next(positions)
        options = question.options(position)
        data_id = f"{scene.number}_{number}"
        write_picture(root / "SEED-Bench-image" / data_id, scene)
        question_id = str(100000 + number)
        annotations.append(
            {
                "answer": LETTERS[position],
                **{f"choice_{letter.lower()}": option for letter, option in zip(LETTERS, options, strict=True)},
                "data_id": data_id,
                "data_type": "image",
                "question": question.text,
                "question_id": question_id,
                "question_type_id": question.qtype,
            }
        )
        text = "\n".join([question.text, *option_lines(options), BY_LETTER])
        image = f"SEED-Bench-image/{data_id}"
        lines.append({"image": image, "text": text, "question_id": question_id, "category": question.qtype})
    types = {name: number for number, name in TYPE_NAMES.items()}
    write_json(root / "seed/SEED-Bench-image.json", {"question_type": types, "questions": annotations})
    write_json_lines(root / "seed/seed-bench-image.jsonl", lines)


def write_mmbench(root: Path, scenes: Sequence[Scene], *, seed: int) -> None:
    """Write mmbench/mmbench_dev_20230712.tsv; some rows have a hint, some only two options."""
    rng = derive_rng(seed, "sample_world", "mmbench")
    positions = balanced_positions(rng)
    rows = [
        _mmbench_row(number, scene, question, next(positions), rng)
        for number, (scene, question) in enumerate(one_question_each(scenes, rng))
    ]
    path = root / "mmbench/mmbench_dev_20230712.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _mmbench_row(number: int, scene: Scene, question: Question, position: int, rng: random.Random) -> dict[str, Any]:
    options: Sequence[str] = question.options(position)
    if position < 2 and rng.random() < 0.2:
        options = options[:2]
    picture = io.BytesIO()
    draw_scene(scene).save(picture, format="JPEG", quality=JPEG_QUALITY)
    category, parent = MMBENCH_CATEGORIES[question.qtype]
    return {
        "index": number,
        "question": question.text,
        "hint": "The picture shows drawn objects." if rng.random() < 0.3 else "",
        **{letter: options[i] if i < len(options) else "" for i, letter in enumerate(LETTERS)},
        "answer": LETTERS[position],
        "category": category,
        "image": base64.b64encode(picture.getvalue()).decode(),
        "source": "sample_world",
        "l2-category": parent,
        "comment": "",
        "split": "dev",
    }
