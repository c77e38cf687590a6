"""Conversations: LLaVA's three files, the multi-task conversations, and instructions without an image."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from minigpt4.common.row_checks import require
from minigpt4.conversation.conversation import Turn
from minigpt4.datasets import urls
from minigpt4.datasets.base_builder import dataset
from minigpt4.datasets.base_dataset import InstructionDataset, with_image
from minigpt4.datasets.boxes import text_fault
from minigpt4.datasets.lengths import TURN_CHARS, cleaned_chars, num_chars
from minigpt4.datasets.row_table import Row

COCO: dict[str, Any] = {"images_url": urls.COCO_IMAGES}


@dataset("llava_conversation", annotations_url=urls.LLAVA_CONVERSATION, **COCO)
@dataset("multitask_conversation", annotations_url=urls.MULTITASK, **COCO)
class ConversationDataset(InstructionDataset):
    """Rows of {id, conversations: [{from, value}, ..]}, alternately a question and its answer, whatever `from` says."""

    fields: ClassVar = {"id": str, "conversations": list}

    def rows_of(self, record: Any) -> list[Row]:
        """Pair questions and answers; a last question without an answer is left out."""
        require(record, self.fields)
        said = record["conversations"]
        for part in said:
            require(part, {"value": str}, what="part of a conversation")
        if len(said) < 2:
            raise ValueError("a conversation should have a question and an answer")
        pairs = zip(said[0::2], said[1::2], strict=False)
        return [{**record, "turns": [(question["value"], answer["value"]) for question, answer in pairs]}]

    def image_files(self, row: Row) -> list[str]:
        """Return the COCO file of the row's number, which has its leading zeros already."""
        return [f"COCO_train2014_{row['id']}.jpg"]

    def text_chars(self, row: Row) -> tuple[int, int]:
        (question, answer), *later = row["turns"]
        return num_chars(question), num_chars(answer) + sum(
            num_chars(ask) + num_chars(said) + TURN_CHARS for ask, said in later
        )

    def box_fault(self, row: Row) -> int:
        return text_fault(text for turn in row["turns"] for text in turn)

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        (question, answer), *later = row["turns"]
        first = Turn(with_image(without_image_tag(question)), answer)
        return [first, *(Turn(f"{question} ", answer) for question, answer in later)]


@dataset("llava_detail", annotations_url=urls.LLAVA_DETAIL, **COCO)
@dataset("llava_reason", annotations_url=urls.LLAVA_REASON, **COCO)
class FirstTurnDataset(ConversationDataset):
    """Of each conversation the first question, cleaned as captions are, and its answer."""

    def text_chars(self, row: Row) -> tuple[int, int]:
        question, answer = row["turns"][0]
        return cleaned_chars(question), num_chars(answer)

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        question, answer = row["turns"][0]
        return [Turn(with_image(self.text_processor(without_image_tag(question))), answer)]


@dataset(
    "unnatural_instruction",
    annotations_url=urls.UNNATURAL,
    has_images=False,
    spellings=(("/unnatural_instructions/", "/nlp/"),),
)
class UnnaturalDataset(InstructionDataset):
    """Instructions without an image: of each record the first instance."""

    fields: ClassVar = {"instruction_with_input": str, "output": str}

    def rows_of(self, record: Any) -> list[Row]:
        """Return the first instance."""
        require(record, {"instances": list})
        if not record["instances"]:
            raise ValueError("'instances' is empty")
        instance = record["instances"][0]
        require(instance, self.fields)
        if instance.get("constraints") is not None:
            require(instance, {"constraints": str})
        return [instance]

    def image_files(self, row: Row) -> list[str]:
        return []

    def text_chars(self, row: Row) -> tuple[int, int]:
        question = f"{row['instruction_with_input']} {row.get('constraints') or ''}"
        return cleaned_chars(question), cleaned_chars(row["output"])

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        constraints = row.get("constraints")
        question = row["instruction_with_input"] + ("" if constraints is None else f" {constraints}")
        return [Turn(self.text_processor(question), self.text_processor(row["output"]))]


def without_image_tag(question: str) -> str:
    """Return the question without `<image>`, line breaks and outer blanks; nothing replaces them."""
    return question.replace("<image>", "").replace("\n", "").strip()
