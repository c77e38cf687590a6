"""Evaluation files of questions that ten people answered: OKVQA and VizWiz."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from minigpt4.sample_world.files import Scenes, coco_name, questions_of, write_json, write_picture
from minigpt4.sample_world.questions import NUMBERS, UNANSWERABLE, ask_in_vain

NUM_PEOPLE = 10
NUM_AGREEING = (10, 10, 9, 8, 7)
"""Numbers of people who give the right answer; each question draws one."""
EVERY_UNANSWERABLE = 4
"""One of this many VizWiz questions has no answer in its picture."""
_HEAD = {
    "info": {"description": "sample world", "version": "1.0"},
    "task_type": "Open-Ended",
    "data_type": "mscoco",
    "data_subtype": "val2014",
    "license": {"url": "", "name": ""},
}


def write_okvqa(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write okvqa (questions, the same with a head, and people's answers) and coco2014_val."""
    asked, annotations = [], []
    for scene in scenes:
        write_picture(root / "coco2014_val" / coco_name(scene, "val"), scene)
        for question in questions_of(scene, (8,), rng):
            ids = {"image_id": scene.number, "question_id": scene.number * 10 + 5}
            asked.append({"question": question.text, **ids})
            kinds = {
                "question_type": " ".join(question.text.lower().split()[:2]),
                "answer_type": "number" if question.answer in NUMBERS else "other",
            }
            people = enumerate(_answers(question.answer, question.wrong, rng), start=1)
            answers = [
                {"answer_id": i, "answer": answer, "raw_answer": answer, "answer_confidence": confidence}
                for i, (answer, confidence) in people
            ]
            annotations.append({**ids, **kinds, "answers": answers, "confidence": 3})
    write_json(root / "okvqa/okvqa_test_split.json", asked)
    write_json(root / "okvqa/OpenEnded_mscoco_val2014_questions_clean.json", {**_HEAD, "questions": asked})
    write_json(root / "okvqa/mscoco_val2014_annotations_clean.json", {**_HEAD, "annotations": annotations})


def write_vizwiz(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write vizwiz/val.json and its pictures; some questions are about what the picture does not show."""
    rows: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes):
        image = f"VizWiz_val_{scene.number:08}.jpg"
        write_picture(root / "vizwiz/vizwiz_images" / image, scene)
        question = rng.choice(questions_of(scene, (2, 3, 5, 9), rng))
        text, answer = question.text, question.answer
        others: Sequence[str] = question.wrong
        kind = "number" if answer in NUMBERS else "other"
        if number % EVERY_UNANSWERABLE == 0:
            text, answer, others, kind = ask_in_vain(scene, rng), UNANSWERABLE, ("unsuitable",), UNANSWERABLE
        people = [{"answer_confidence": how, "answer": said} for said, how in _answers(answer, others, rng)]
        flags = {"answer_type": kind, "answerable": int(kind != UNANSWERABLE)}
        rows.append({"image": image, "question": text, "answers": people, **flags})
    write_json(root / "vizwiz/val.json", rows)


def _answers(answer: str, others: Sequence[str], rng: random.Random) -> list[tuple[str, str]]:
    """Return what each of ten people answers, and whether they are sure; a few say something else."""
    num_agreeing = rng.choice(NUM_AGREEING)
    said = [(answer, "yes")] * num_agreeing
    said += [(rng.choice(others), "maybe") for _ in range(NUM_PEOPLE - num_agreeing)]
    return rng.sample(said, NUM_PEOPLE)
