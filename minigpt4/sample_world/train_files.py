"""Training files, captions and questions: one writer a dataset, each in the layout that its download has."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt4.common.seeds import derive_rng
from minigpt4.evaluation.benchmarks.short_answer import VSR, HatefulMemes
from minigpt4.evaluation.benchmarks.vqa import VizWiz
from minigpt4.sample_world.captions import full_caption, short_caption, sign_caption
from minigpt4.sample_world.conversation_files import (
    write_align,
    write_llava,
    write_multitask,
    write_unnatural,
    write_web,
)
from minigpt4.sample_world.files import (
    Scenes,
    Writer,
    balanced_positions,
    coco_name,
    questions_of,
    vg_folder,
    write_json,
    write_picture,
)
from minigpt4.sample_world.grounding_files import write_flickr, write_refcoco, write_regions
from minigpt4.sample_world.questions import LETTERS, TYPE_NAMES, UNANSWERABLE, ask_in_vain
from minigpt4.sample_world.scenes import Scene
from minigpt4.sample_world.statements import claim, state

LIKE_VSR = VSR.template.removeprefix("[vqa] ")
LIKE_VIZWIZ = VizWiz.template.removeprefix("[vqa] ")
NUM_ANSWERS = 10
"""People who answer a question of COCO VQA."""


def write_coco(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write COCO2014/train and its captions, in the form of the Karpathy split."""
    rows = []
    for scene in scenes:
        name = coco_name(scene)
        write_picture(root / "COCO2014/train" / name, scene)
        captions = (short_caption(scene), full_caption(scene))
        rows += [{"caption": c, "image": f"train2014/{name}", "image_id": f"coco_{scene.number}"} for c in captions]
    write_json(root / "COCO2014/coco_karpathy_train.json", rows)


def write_textcaps(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write textcaps: captions that read the sign, of the scenes that have one."""
    rows = []
    for scene in scenes:
        if scene.word is None:
            continue
        image_id = f"{scene.number:016x}"
        write_picture(root / f"textcaps/train_images/{image_id}.jpg", scene)
        rows.append({"image_id": image_id, "image_path": f"train/{image_id}.jpg", "caption_str": sign_caption(scene)})
    write_json(root / "textcaps/TextCaps_0.1_train.json", {"dataset_name": "textcaps", "data": rows})


def write_coco_vqa(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write vqav2; the pictures of its validation half are not there, as in the real one."""
    rows: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for scene in scenes:
        split = "val" if scene.number % 20 == 0 else "train"
        image = f"{split}2014/{coco_name(scene, split)}"
        for i, (text, answer) in enumerate(_coco_questions(scene, rng)):
            row = {"question_id": scene.number * 1000 + i, "dataset": "vqa"}
            rows[split].append({**row, **_asked(text, answer, image)})
    for split, half in rows.items():
        write_json(root / f"vqav2/vqa_{split}.json", half)


def write_ok_vqa(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write okvqa: questions that need some reasoning."""
    rows = []
    for scene in scenes:
        for question in questions_of(scene, (8,), rng, plain=True):
            image = f"train2014/{coco_name(scene)}"
            row = {"question_id": f"{scene.number}5", "dataset": "okvqa"}
            rows.append({**row, **_asked(question.text, question.answer, image)})
    write_json(root / "okvqa/okvqa_train.json", rows)


def write_aok_vqa(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write aokvqa: relations, with choices and direct answers."""
    rows, positions = [], balanced_positions(rng)
    for scene in scenes:
        for question in questions_of(scene, (6, 7), rng, plain=True):
            position = next(positions)
            rows.append(
                {
                    "split": "train",
                    "image_id": scene.number,
                    "question_id": f"world{scene.number:08}{question.qtype}",
                    "question": question.text,
                    "choices": list(question.options(position)),
                    "correct_choice_idx": position,
                    "direct_answers": [question.answer] * NUM_ANSWERS,
                    "rationales": [question.sentence],
                }
            )
    write_json(root / "aokvqa/aokvqa_v1p0_train.json", rows)


def write_gqa(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write gqa: attributes, places and relations, with one answer, and relations to be confirmed."""
    rows = []
    for scene in scenes:
        image = f"{scene.number}.jpg"
        write_picture(root / "gqa/images" / image, scene)
        for question in questions_of(scene, (3, 4, 6), rng, plain=True):
            row = {"image": image, "question": question.text, "answer": question.answer}
            rows.append({**row, "question_id": f"{scene.number}{question.qtype}", "fullAnswer": question.sentence})
        statement = state(scene, rng, is_true=rng.random() < 0.5, plain=True)
        if statement is not None:
            row = {"image": image, "question": statement.question, "answer": statement.answer}
            rows.append({**row, "question_id": f"{scene.number}0", "fullAnswer": statement.answer})
    write_json(root / "gqa/train_balanced_questions.json", rows)


def write_ocrvqa(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write ocrvqa: what a sign says; every tenth picture belongs to a split that is not trained on."""
    rows = {}
    for scene in scenes:
        questions = questions_of(scene, (9, 1), rng, plain=True)
        key = f"{scene.number:010}"
        write_picture(root / f"ocrvqa/images/{key}.jpg", scene)
        rows[key] = {
            "imageURL": f"http://images.example/{key}.jpg",
            "questions": [question.text for question in questions],
            "answers": [question.answer for question in questions],
            "title": scene.word or "",
            "genre": "signs",
            "split": 2 if scene.number % 10 == 0 else 1,
        }
    write_json(root / "ocrvqa/dataset.json", rows)


def write_engine(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write data_engine: questions of all nine types on Visual Genome's pictures, with options and the right letter."""
    rows, positions = [], balanced_positions(rng)
    for scene in scenes:
        image = f"vg/{vg_folder(scene)}/{scene.number}.jpg"
        questions = questions_of(scene, [*TYPE_NAMES, *TYPE_NAMES], rng)
        for question in {question.text: question for question in questions}.values():
            position = next(positions)
            rows.append(
                {
                    "instruction": question.text,
                    "answer": question.sentence,
                    "short_answer": question.answer,
                    "options": list(question.options(position)),
                    "choice_answer": LETTERS[position],
                    "image": image,
                    "qtype": question.qtype,
                }
            )
    write_json(root / "data_engine/dataengine_minigpt4.json", rows)


def write_vg(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write the pictures of Visual Genome."""
    for scene in scenes:
        write_picture(root / "vg" / vg_folder(scene) / f"{scene.number}.jpg", scene)


WRITERS: tuple[tuple[str, Writer], ...] = (
    ("coco", write_coco),
    ("coco", write_coco_vqa),
    ("coco", write_ok_vqa),
    ("coco", write_aok_vqa),
    ("textcaps", write_textcaps),
    ("gqa", write_gqa),
    ("ocrvqa", write_ocrvqa),
    ("vg", write_vg),
    ("vg", write_engine),
    ("vg", write_regions),
    ("coco", write_refcoco),
    ("coco", write_llava),
    ("coco", write_multitask),
    ("flickr", write_flickr),
    ("web", write_align),
    ("web", write_web),
    ("web", write_unnatural),
)
"""Every training file: whose pictures it speaks of, and what writes it."""


def write_train_files(root: Path, scenes: Mapping[str, Scenes], *, seed: int) -> None:
    """Write all training files below `root` (a `train_dataset` folder); `scenes` by source of pictures."""
    for source, write in WRITERS:
        write(root, scenes[source], derive_rng(seed, "sample_world", write.__name__))


def _coco_questions(scene: Scene, rng: random.Random) -> list[tuple[str, str]]:
    """Return questions with their answers, and where the scene gives occasion a statement that is true or false.

    They borrow the wordings of VizWiz, Hateful Memes and VSR: a tiny model understands none that it has not met.
    """
    asked = [(question.text, question.answer) for question in questions_of(scene, (1, 2, 3, 5), rng, plain=True)]
    like_vizwiz = [*rng.sample(asked, 2), (ask_in_vain(scene, rng), UNANSWERABLE)]
    asked += [(LIKE_VIZWIZ.format(text), answer) for text, answer in like_vizwiz]
    contradicts = rng.random() < 0.5
    meme = HatefulMemes.template.format(claim(scene, rng, is_true=not contradicts))
    asked.append((meme, "yes" if contradicts else "no"))
    statement = state(scene, rng, is_true=rng.random() < 0.5, plain=True)
    if statement is not None:
        asked.append((LIKE_VSR.format(statement.text), statement.truth))
    return asked


def _asked(text: str, answer: str, image: str) -> dict[str, Any]:
    return {"question": text, "answer": [answer] * NUM_ANSWERS, "image": image}
