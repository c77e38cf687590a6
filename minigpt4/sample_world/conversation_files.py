"""Training files of free text: LLaVA's three sets, mixed tasks, instructions without picture, and web captions."""

from __future__ import annotations

import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

from minigpt4.sample_world.captions import full_caption, short_caption
from minigpt4.sample_world.drawing import draw_scene
from minigpt4.sample_world.files import JPEG_QUALITY, Scenes, questions_of, write_json, write_picture
from minigpt4.sample_world.grounding_files import grounded_phrase, thing_box
from minigpt4.sample_world.questions import TYPE_NAMES
from minigpt4.sample_world.scenes import Scene

NUM_SHARDS = 2
WEB_SETS = {"cc_sbu": "cc_sbu_dataset", "laion": "laion_dataset"}


def write_llava(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write llava: detailed descriptions, reasoning, and conversations of several turns."""
    details, reasons, conversations = [], [], []
    for scene in scenes:
        details.append(
            _conversation(scene, [("Describe the following image.\n<image>", f"There is {full_caption(scene)}.")])
        )
        for question in questions_of(scene, (8,), rng, plain=True):
            reasons.append(_conversation(scene, [(f"<image>\n{question.text}", f"{question.sentence.capitalize()}.")]))
        asked = questions_of(scene, rng.sample(sorted(TYPE_NAMES), 4), rng, plain=True)
        turns = [(question.text, f"{question.sentence.capitalize()}.") for question in asked]
        if turns:
            conversations.append(_conversation(scene, [(f"{turns[0][0]}\n<image>", turns[0][1]), *turns[1:]]))
    write_json(root / "llava/detail_23k.json", details)
    write_json(root / "llava/complex_reasoning_77k.json", reasons)
    write_json(root / "llava/conversation_58k.json", conversations)


def write_multitask(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write multitask_conversation: one conversation a picture, every turn another task."""
    rows = []
    for scene in scenes:
        thing = rng.choice(scene.things)
        question = questions_of(scene, (1,), rng, plain=True)[0]
        turns = [
            ("<image>\n[caption] Briefly describe this image.", short_caption(scene)),
            (f"[refer] {thing.name}", thing_box(thing)),
            (f"[detection] {thing.name}", grounded_phrase(thing)),
            (f"[vqa] {question.text}", question.answer),
        ]
        rows.append(_conversation(scene, turns))
    write_json(root / "multitask_conversation/multitask_conversation.json", rows)


def write_unnatural(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write unnatural_instructions: questions about a described scene, answered without seeing it."""
    rows = []
    for scene in scenes:
        for question in questions_of(scene, (5,), rng, plain=True):
            text = f"Read this and answer the question. {full_caption(scene)}. {question.text}"
            constraints = rng.choice((None, "Answer in one word."))
            instance = {"instruction_with_input": text, "input": "", "constraints": constraints}
            rows.append({"instruction": "answer", "instances": [{**instance, "output": question.answer}]})
    write_json(root / "unnatural_instructions/filtered_unnatural_instruction.json", rows)


def write_align(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write cc_sbu_align: curated long captions."""
    rows = []
    for scene in scenes:
        write_picture(root / f"cc_sbu_align/image/{scene.number}.jpg", scene)
        rows.append({"image_id": str(scene.number), "caption": f"The picture shows {full_caption(scene)}."})
    write_json(root / "cc_sbu_align/filter_cap.json", {"annotations": rows})


def write_web(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write cc_sbu and laion: shards of pictures with their captions."""
    for folder in WEB_SETS.values():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(NUM_SHARDS):
            with tarfile.open(root / folder / f"{number:05}.tar", "w") as shard:
                for scene in scenes[number::NUM_SHARDS]:
                    _add_sample(shard, scene)


def _add_sample(shard: tarfile.TarFile, scene: Scene) -> None:
    picture = io.BytesIO()
    draw_scene(scene).save(picture, format="JPEG", quality=JPEG_QUALITY)
    about = json.dumps({"caption": short_caption(scene), "key": f"{scene.number:09}"}).encode()
    for suffix, content in (("jpg", picture.getvalue()), ("json", about)):
        member = tarfile.TarInfo(f"{scene.number:09}.{suffix}")
        member.size = len(content)
        shard.addfile(member, io.BytesIO(content))


def _conversation(scene: Scene, turns: list[tuple[str, str]]) -> dict[str, Any]:
    values = [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]
    image_id = f"{scene.number:012}"
    return {"id": image_id, "image": f"{image_id}.jpg", "conversations": values}
