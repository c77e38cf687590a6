"""A user's own data, by YAML alone: an entry of any name with `type: custom`.

A row of a JSON or JSONL file, or of a tar shard together with its image, has one of two forms. Texts stay unchanged:
    {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", "value": "A"}]}
    {"image": "a.jpg" or ["a.jpg", "b.jpg"] or absent, "question": "What?", "answer": "A" or ["A", "B"]}
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar

from minigpt4.common.registry import registry
from minigpt4.common.row_checks import require
from minigpt4.conversation.conversation import IMAGE_PLACEHOLDER, IMAGE_SPAN, Turn
from minigpt4.datasets.base_builder import BaseDatasetBuilder, DataPath
from minigpt4.datasets.base_dataset import InstructionDataset
from minigpt4.datasets.boxes import text_fault
from minigpt4.datasets.lengths import TURN_CHARS, mean_chars, num_chars
from minigpt4.datasets.row_table import Row
from minigpt4.datasets.streams import StreamBuilder, StreamDataset
from minigpt4.processors.pictures import AS_SEEN

TAG = "<image>"
"""Marks the position of an image in a question."""
IMAGE_KEYS = ("image", "images")
OTHER_KEYS = ("img", "img_path", "image_path", "image_file", "image_name", "file_name", "filename", "image_url")
"""Keys that other tools use for an image; we do not read them."""
SPEAKERS = (("human", "user"), ("gpt", "assistant"))


class _Conversations(InstructionDataset):
    """Rows of {images, turns: [(question, its possible answers), ..]}; a sample takes one answer at random."""

    def image_files(self, row: Row) -> list[str]:
        images: list[str] = row["images"]
        return images

    def box_fault(self, row: Row) -> int:
        return text_fault(text for question, answers in row["turns"] for text in (question, *answers))

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        """Keep the questions; images go where a question shows them, else before the first."""
        return ask(row["turns"], rng, num_images=len(row["images"]))


class CustomDataset(_Conversations):
    """Rows of JSON or JSONL files."""

    def rows_of(self, record: Any) -> list[Row]:
        require(record, {})
        given = [record[key] for key in IMAGE_KEYS if record.get(key) not in (None, "", [])]
        if len(given) > 1 and given[0] != given[1]:
            raise ValueError("it has both 'image' and 'images', and they differ")
        images: Any = given[0] if given else []
        images = [images] if isinstance(images, str) else images
        if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
            raise ValueError("'image' should be a file name or a list of them")
        return [{"images": images, "turns": read_turns(record, num_images=len(images))}]

    def remark(self, record: Any) -> str | None:
        """Remark on a row without an image that names one under another key."""
        if not isinstance(record, dict) or any(record.get(key) for key in IMAGE_KEYS):
            return None
        found = next((key for key in OTHER_KEYS if record.get(key)), None)
        return found and f"asked without an image: '{found}' is not read; name the image under 'image'"

    def text_chars(self, row: Row) -> tuple[int, int]:
        (question, answers), *later = row["turns"]
        rest = sum(num_chars(ask) + mean_chars(said) + TURN_CHARS for ask, said in later)
        return num_chars(question), mean_chars(answers) + rest


class CustomStream(_Conversations, StreamDataset):
    """The same rows in tar shards, each with one image."""

    fields: ClassVar = {}
    templates_name = None

    @classmethod
    def rows_of(cls, record: Any) -> list[Row]:
        return [{"images": ["in the shard"], "turns": read_turns(record, num_images=1)}]


def read_turns(record: Any, *, num_images: int) -> list[tuple[str, list[str]]]:
    """Return the questions of a record in either form, each with its possible answers.

    Raises: ValueError saying which key or which part of the conversation is wrong.
    """
    if isinstance(record, dict) and "conversations" in record:
        turns = _conversation(record)
    elif isinstance(record, dict) and "question" in record:
        require(record, {"question": str, "answer": (str, list)})
        answers = [record["answer"]] if isinstance(record["answer"], str) else record["answer"]
        require({"answer": answers}, {"answer": list[str]})
        turns = [(record["question"], answers)]
    else:
        require(record, {})
        raise ValueError(f"it needs 'conversations', or 'question' and 'answer' (there are {', '.join(record)})")
    shown = sum(question.count(TAG) for question, _ in turns)
    if shown not in (0, num_images):
        raise ValueError(f"its questions show {TAG} {shown} times but it has {num_images} images")
    for question, answers in turns:
        if IMAGE_PLACEHOLDER in question or any(IMAGE_PLACEHOLDER in answer for answer in answers):
            raise ValueError(f"its own text contains {IMAGE_PLACEHOLDER}, the placeholder of an image; write {TAG}")
        if not all(map(str.strip, answers)):
            raise ValueError("an answer is empty")
    return turns


def _conversation(record: Row) -> list[tuple[str, list[str]]]:
    require(record, {"conversations": list})
    said = record["conversations"]
    for number, part in enumerate(said):
        require(part, {"value": str}, what="part of a conversation")
        if part.get("from") not in (None, *SPEAKERS[number % 2]):
            expected = " or ".join(SPEAKERS[number % 2])
            raise ValueError(f"part {number + 1} of its conversation is from '{part['from']}' instead of {expected}")
    if len(said) < 2 or len(said) % 2:
        raise ValueError(f"a conversation should be questions with their answers, not {len(said)} parts")
    return [(ask["value"], [answer["value"]]) for ask, answer in zip(said[::2], said[1::2], strict=True)]


def ask(turns: Sequence[tuple[str, list[str]]], rng: random.Random, *, num_images: int) -> list[Turn]:
    """Return the turns for the model, with images where the questions show them.

    If no question shows an image, or the first question shows the only one, images come before the first question, as
    in all other datasets.
    """
    shown = sum(question.count(TAG) for question, _ in turns)
    in_front = num_images > 0 and (shown == 0 or (num_images == 1 and TAG in turns[0][0]))
    asked = []
    for number, (question, answers) in enumerate(turns):
        if number == 0 and in_front:
            for tag in (f"{TAG}\n", f"\n{TAG}", TAG):
                question = question.replace(tag, "")
            prompt = f"{' '.join([IMAGE_SPAN] * num_images)} {question.strip()} "
        else:
            text_only = number == 0 and num_images == 0
            prompt = question.replace(TAG, IMAGE_SPAN) + ("" if text_only else " ")
        asked.append(Turn(prompt, rng.choice(answers)))
    return asked


@registry.register_builder("custom")
class CustomBuilder(StreamBuilder):
    """custom: `ann_path` or `annotations.train.storage` with `image_path` or `images.storage`; or `storage`: shards.

    Without an image folder, image paths start at the folder of the first annotation file.
    """

    DATASET_CONFIG_DICT: ClassVar = {"default": "configs/datasets/custom.yaml"}
    annotations_url = ""
    has_images = True
    pictures = AS_SEEN

    def dataset_class(self) -> type[InstructionDataset]:
        return CustomStream if self.option("storage") else CustomDataset

    def annotation_paths(self) -> list[DataPath]:
        if self.option("storage"):
            return super().annotation_paths()
        if not self.option("annotations.train.storage") and not self.option("ann_path"):
            return [self.data_path("ann_path", None)]
        return BaseDatasetBuilder.annotation_paths(self)

    def remarks(self) -> list[str]:
        return super().remarks() if self.option("storage") else []

    def image_folder_path(self) -> DataPath | None:
        is_set = self.option("image_path") or self.option("images.storage")
        return BaseDatasetBuilder.image_folder_path(self) if is_set else None
