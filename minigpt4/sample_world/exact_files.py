"""Evaluation files of questions with one right word or choice: VSR, GQA, Hateful Memes and IconQA."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from minigpt4.sample_world.files import (
    Scenes,
    one_question_each,
    questions_of,
    write_json,
    write_json_lines,
    write_picture,
)
from minigpt4.sample_world.statements import claim, state


def write_vsr(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write vsr/test.jsonl and its pictures: statements about two things, every other one true."""
    rows: list[dict[str, Any]] = []
    for scene in scenes:
        statement = state(scene, rng, is_true=len(rows) % 2 == 0)
        if statement is None:
            continue
        image = f"{scene.number:012}.jpg"
        write_picture(root / "vsr/vsr_images" / image, scene)
        rows.append(
            {
                "image": image,
                "image_link": f"http://images.example/{image}",
                "caption": statement.text,
                "label": int(statement.is_true),
                "relation": statement.phrase,
                "subj": statement.subject,
                "obj": statement.object,
                "annotator_id": 1,
                "vote_true_validator_id": "[]",
                "vote_false_validator_id": "[]",
            }
        )
    write_json_lines(root / "vsr/test.jsonl", rows)


def write_gqa_testdev(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write gqa/testdev_balanced_questions.json and its pictures: attributes, places, relations, yes or no."""
    rows = []
    for number, scene in enumerate(scenes):
        asked = [
            (question.text, question.answer, question.sentence) for question in questions_of(scene, (3, 4, 6), rng)
        ]
        statement = state(scene, rng, is_true=rng.random() < 0.5)
        if statement is not None:
            asked.append((statement.question, statement.answer, statement.answer))
        text, answer, sentence = asked[number % len(asked)]
        image = f"n{scene.number}.jpg"
        write_picture(root / "gqa/gqa_images" / image, scene)
        ids = {"image": image, "question_id": f"{20_000_000 + scene.number}"}
        rows.append({**ids, "question": text, "answer": answer, "fullAnswer": sentence})
    write_json(root / "gqa/testdev_balanced_questions.json", rows)


def write_hateful_memes(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write hateful_meme/dev.jsonl and its pictures, in the layout of Hateful Memes and without anything hateful.

    The text of a meme is two words, which the picture shows too. The label is 1 where they contradict the picture:
    nothing in it has that color and that shape.
    """
    rows = []
    for number, scene in enumerate(scenes):
        label = number % 2
        text = claim(scene, rng, is_true=label == 0)
        image = f"img/{scene.number:05}.png"
        write_picture(root / "hateful_meme/hm_images" / image, scene, meme=text)
        rows.append({"id": scene.number, "img": image, "label": label, "text": text})
    write_json_lines(root / "hateful_meme/dev.jsonl", rows)


def write_iconqa(root: Path, scenes: Scenes, rng: random.Random) -> None:
    """Write iconvqa/choose_text_val.json and its pictures: questions of all types with two to four choices."""
    rows = []
    for number, (scene, question) in enumerate(one_question_each(scenes, rng)):
        choices = rng.sample(question.wrong, 1 + number % 3)
        position = rng.randrange(len(choices) + 1)
        image_id = str(scene.number)
        write_picture(root / "iconvqa/iconvqa_images" / image_id / "image.png", scene)
        row = {"image_id": image_id, "question": question.text, "answer": position, "ques_type": "choose_txt"}
        choices.insert(position, question.answer)
        rows.append({**row, "choices": choices, "grade": "grade1", "label": f"type {question.qtype}"})
    write_json(root / "iconvqa/choose_text_val.json", rows)
