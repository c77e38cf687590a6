"""In which order questions are asked: those of one image together, long ones with long ones, the same for all ranks."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from minigpt4.evaluation.benchmark import Question


@dataclass(frozen=True, slots=True)
class ImageGroup:
    """Rows that one rank asks in batches, and the images they show, which no other group shows."""

    batches: tuple[tuple[int, ...], ...]
    images: tuple[Hashable, ...]


def make_batches(questions: Sequence[Question], batch_size: int) -> list[ImageGroup]:
    """Return all rows in groups of whole images, from the longest prompts to the shortest.

    A group is one batch, but for an image with more questions than a batch holds. Groups follow from the questions
    and the batch size alone, so that any number of ranks, and a run that is continued, ask the same batches.
    """
    rows_of: dict[Hashable, list[int]] = {}
    for row, question in enumerate(questions):
        rows_of.setdefault(row if question.image is None else question.image, []).append(row)
    lengths = [len(question.prompt) for question in questions]
    images = sorted(rows_of, key=lambda image: (-max(lengths[row] for row in rows_of[image]), rows_of[image][0]))
    groups: list[tuple[list[int], list[Hashable]]] = []
    for image in images:
        rows = sorted(rows_of[image], key=lambda row: (-lengths[row], row))
        if not groups or len(groups[-1][0]) + len(rows) > batch_size:
            groups.append(([], []))
        groups[-1][0].extend(rows)
        if not isinstance(image, int):  # a row: a question without an image
            groups[-1][1].append(image)
    return [
        ImageGroup(tuple(tuple(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size)), tuple(shown))
        for rows, shown in groups
    ]
