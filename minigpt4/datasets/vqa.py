"""Questions about an image with short answers: COCO VQA, OK-VQA, A-OKVQA, GQA, OCR-VQA."""

from __future__ import annotations

import os
import random
from typing import Any, ClassVar

from minigpt4.common.row_checks import require
from minigpt4.conversation.conversation import Turn
from minigpt4.conversation.prompt_templates import fill
from minigpt4.datasets import urls
from minigpt4.datasets.base_builder import dataset
from minigpt4.datasets.base_dataset import InstructionDataset, with_image
from minigpt4.datasets.lengths import mean_chars, num_chars
from minigpt4.datasets.row_table import Row

COCO: dict[str, Any] = {"images_url": urls.COCO_IMAGES, "image_subfolder": "train"}


class VQADataset(InstructionDataset):
    """Rows of {image, question, answer: [..]}; a sample draws one of the answers, so frequent ones come often."""

    fields: ClassVar = {"image": str, "question": str, "answer": list[str]}
    templates_name = "vqa"

    def text_chars(self, row: Row) -> tuple[int, int]:
        return num_chars(row["question"]), mean_chars(row["answer"])

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        question = fill(rng.choice(self.templates), self.text_processor(row["question"]))
        return [Turn(with_image(question), self.text_processor(rng.choice(row["answer"])))]


@dataset("coco_vqa", **COCO)
@dataset("ok_vqa", **COCO)
class COCOVQADataset(VQADataset):
    """COCO VQA and OK-VQA: many rows are about images of the validation split, which the builder leaves out."""

    leaves_out_rows_without_image = True

    def image_files(self, row: Row) -> list[str]:
        """Return the file name; the row's folder does not matter."""
        return [os.path.basename(row["image"])]


@dataset("aok_vqa", **COCO)
class AOKVQADataset(COCOVQADataset):
    """A-OKVQA, as LAVIS publishes it (with `image`) or as its makers do (with `image_id`)."""

    fields: ClassVar = {"question": str, "answer": list[str]}
    image_spelling = ("COCO_train2014_", "COCO_val2014_")

    def rows_of(self, record: Any) -> list[Row]:
        """Name the keys as all VQA rows do."""
        require(record, {"direct_answers": list[str]})
        require(record, {"image": str} if "image" in record else {"image_id": int})
        return [{**record, "answer": record["direct_answers"]}]

    def image_files(self, row: Row) -> list[str]:
        return super().image_files(row) if "image" in row else [f"COCO_train2014_{row['image_id']:012}.jpg"]


@dataset("gqa", images_url=urls.GQA_IMAGES)
class GQADataset(VQADataset):
    """GQA: one answer a question; images in the folder itself or in its subfolder `train`."""

    fields: ClassVar = {"image": str, "question": str, "answer": str}
    image_spelling = ("", "train/")

    def text_chars(self, row: Row) -> tuple[int, int]:
        return num_chars(row["question"]), num_chars(row["answer"])

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        """Ask the question; its only answer is the answer."""
        return super().turns({**row, "answer": [row["answer"]]}, rng)


@dataset("ocrvqa", annotations_url=urls.OCRVQA, images_url=urls.OCRVQA_IMAGES)
class OCRVQADataset(VQADataset):
    """OCR-VQA: book covers with several questions each; split 1 is for training."""

    fields: ClassVar = {"image": str, "question": str, "answer": list[str]}

    def rows_of(self, record: Any) -> list[Row]:
        """Return one row a question."""
        if not isinstance(record, dict) or len(record) != 1:
            raise ValueError("a record should be one book under its key")
        [(key, book)] = record.items()
        require(book, {"split": int, "imageURL": str, "questions": list, "answers": list}, what=f"book {key}")
        if book["split"] != 1:
            return []
        if len(book["questions"]) != len(book["answers"]):
            counts = f"{len(book['questions'])} questions but {len(book['answers'])} answers"
            raise ValueError(f"book {key} has {counts}")
        image = key + os.path.splitext(book["imageURL"])[1]
        pairs = zip(book["questions"], book["answers"], strict=True)
        return [{"image": image, "question": question, "answer": [answer]} for question, answer in pairs]
