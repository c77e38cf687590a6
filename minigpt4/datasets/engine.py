"""The data that the engine made: open answers (engine_da), letters (engine_mc), shuffled letters (engine_mcp)."""

from __future__ import annotations

import os
import random
from string import ascii_uppercase as LETTERS
from typing import Any, ClassVar

from minigpt4.common.row_checks import require
from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.conversation import Turn
from minigpt4.conversation.prompt_templates import BY_LETTER, choice_question
from minigpt4.datasets import urls
from minigpt4.datasets.base_builder import BaseDatasetBuilder, dataset
from minigpt4.datasets.base_dataset import InstructionDataset, with_image
from minigpt4.datasets.lengths import cleaned_chars, num_chars
from minigpt4.datasets.row_table import Row


class EngineBuilder(BaseDatasetBuilder):
    """Builds the three: one annotation file, and images by their path below the parent folder of `vg`."""

    annotations_url = urls.DATA_ENGINE
    images_url = urls.VG_IMAGES

    def image_folder(self, found: str) -> str:
        """Return the parent of a folder `vg`, since the rows' paths begin with `vg`."""
        parent, name = os.path.split(os.path.normpath(found))
        return parent or "." if name == "vg" else found


@dataset("engine_da", builder=EngineBuilder)
class EngineDADataset(InstructionDataset):
    """Every item, answered in words; its `image` begins with the folder of its collection, such as vg/."""

    fields: ClassVar = {"image": str, "instruction": str, "answer": str}
    leaves_out_rows_without_image = True

    def text_chars(self, row: Row) -> tuple[int, int]:
        return cleaned_chars(row["instruction"]), cleaned_chars(row["answer"])

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        question = f"[vqa] {self.text_processor(row['instruction'])}"
        return [Turn(with_image(question), self.text_processor(row["answer"]))]


@dataset("engine_mc", builder=EngineBuilder)
class EngineMCDataset(EngineDADataset):
    """The items with a `choice_answer`, answered by the letter of an option."""

    fields: ClassVar = {"image": str, "instruction": str, "options": list[str], "choice_answer": str}

    def remark(self, record: Any) -> str | None:
        """Remark on misspelt choices."""
        misspelt = isinstance(record, dict) and "choide_answer" in record
        return "left out: 'choide_answer' is a misspelling of 'choice_answer'" if misspelt else None

    def rows_of(self, record: Any) -> list[Row]:
        """Leave out items without a choice."""
        require(record, {})
        if record.get("choice_answer") is None:
            return []
        require(record, self.fields)
        if len(record["options"]) > len(LETTERS):
            raise ValueError(f"'options' should be at most {len(LETTERS)}, not {len(record['options'])}")
        letter, letters = record["choice_answer"], LETTERS[: len(record["options"])]
        if len(letter) != 1 or letter not in letters:
            raise ValueError(f"'choice_answer' should be one of {', '.join(letters)}, not '{letter}'")
        return [record]

    def ordered(self, row: Row) -> tuple[list[str], str]:
        """Return the options in their order in the question, and the letter of the right one."""
        return row["options"], row["choice_answer"]

    def text_chars(self, row: Row) -> tuple[int, int]:
        return num_chars(row["instruction"]) + sum(num_chars(option) + 4 for option in row["options"]) + len(
            BY_LETTER
        ), 1

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        options, letter = self.ordered(row)
        question = choice_question(row["instruction"], dict(zip(LETTERS, options, strict=False)))
        return [Turn(with_image(question), self.text_processor(letter))]


@dataset("engine_mcp", builder=EngineBuilder)
class EngineMCPDataset(EngineMCDataset):
    """As engine_mc, with the options of every item shuffled once for the whole run."""

    def ordered(self, row: Row) -> tuple[list[str], str]:
        """Return an order that depends on (seed, dataset, row) only; of equal options the first is right."""
        options = list(row["options"])
        right = options[LETTERS.index(row["choice_answer"])]
        derive_rng(self.seed, self.name, "options", row["index"]).shuffle(options)
        return options, LETTERS[options.index(right)]
