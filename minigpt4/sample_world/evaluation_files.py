"""Evaluation files: all benchmarks, about scenes that no training file shows; here SEED-Bench and MMBench."""

from __future__ import annotations

import base64
import csv
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.prompt_templates import BY_LETTER
from minigpt4.evaluation.benchmarks.scorers import CIRCLE
from minigpt4.sample_world.drawing import draw_scene
from minigpt4.sample_world.exact_files import write_gqa_testdev, write_hateful_memes, write_iconqa, write_vsr
from minigpt4.sample_world.files import (
    JPEG_QUALITY,
    Scenes,
    Writer,
    balanced_positions,
    one_question_each,
    write_json,
    write_json_lines,
    write_picture,
)
from minigpt4.sample_world.people_files import write_okvqa, write_vizwiz
from minigpt4.sample_world.questions import LETTERS, TYPE_NAMES, Question, option_lines
from minigpt4.sample_world.refer_files import write_refer
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


def write_seed(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write seed/SEED-Bench-image.json, seed/seed-bench-image.jsonl and the pictures, SEED-Bench-image/*."""
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


def write_mmbench(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write mmbench/mmbench_dev_20230712.tsv: every question once for each rotation of its options.

    Some questions have a hint, some only two options. Rotation k of question i has the index i + k * 1,000,000.
    """
    positions = balanced_positions(rng)
    rows = [
        row
        for number, (scene, question) in enumerate(one_question_each(scenes, rng))
        for row in _mmbench_rows(number, scene, question, next(positions), rng)
    ]
    rows.sort(key=lambda row: row["index"])
    path = root / "mmbench/mmbench_dev_20230712.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _mmbench_rows(
    number: int, scene: Scene, question: Question, position: int, rng: random.Random
) -> list[dict[str, Any]]:
    options: Sequence[str] = question.options(position)
    if position < 2 and rng.random() < 0.2:
        options = options[:2]
    picture = io.BytesIO()
    draw_scene(scene).save(picture, format="JPEG", quality=JPEG_QUALITY)
    category, parent = MMBENCH_CATEGORIES[question.qtype]
    hint = "The picture shows drawn objects." if rng.random() < 0.3 else ""
    rows = []
    for k in range(len(options)):
        rotated = [*options[k:], *options[:k], "", ""]
        rows.append(
            {
                "index": number + k * CIRCLE,
                "question": question.text,
                "hint": hint,
                **dict(zip(LETTERS, rotated, strict=False)),
                "answer": LETTERS[rotated.index(question.answer)],
                "category": category,
                "image": base64.b64encode(picture.getvalue()).decode(),
                "source": "sample_world",
                "l2-category": parent,
                "comment": "",
                "split": "dev",
            }
        )
    return rows


WRITERS: tuple[tuple[float, Writer], ...] = (
    (0.07, write_mmbench),
    (0.105, write_okvqa),
    (0.105, write_vizwiz),
    (0.132, write_vsr),
    (0.105, write_gqa_testdev),
    (0.105, write_hateful_memes),
    (0.07, write_iconqa),
    (0.055, write_refer),
)
"""The benchmarks besides SEED: the share of the held-out scenes of each, and what writes it."""
MIN_SCENES = 12
"""The smallest number of scenes of a benchmark."""


def write_evaluation_files(root: Path, scenes: Scenes, *, seed: int) -> None:
    """Write all evaluation files below `root` (an `evaluation_dataset` folder); no two speak of the same scene."""
    start = 0
    for share, write in WRITERS:
        end = start + max(MIN_SCENES, round(share * len(scenes)))
        write(root, scenes[start:end], derive_rng(seed, "sample_world", write.__name__))
        start = end
    write_seed(root, scenes[start:], derive_rng(seed, "sample_world", "write_seed"))
