"""Captions of whole images: a prompt template asks, the caption answers."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import Any, ClassVar

from minigpt4.common.json_records import JsonRecords
from minigpt4.common.row_checks import require
from minigpt4.conversation.conversation import Turn
from minigpt4.datasets import urls
from minigpt4.datasets.base_builder import FolderBuilder, dataset
from minigpt4.datasets.base_dataset import InstructionDataset, with_image
from minigpt4.datasets.lengths import cleaned_chars
from minigpt4.datasets.row_table import Row


class CaptionDataset(InstructionDataset):
    """Rows of {image, caption}."""

    fields: ClassVar = {"image": str, "caption": str}
    templates_name = "caption"

    def text_chars(self, row: Row) -> tuple[int, int]:
        return 0, cleaned_chars(row["caption"])

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        return [Turn(with_image(rng.choice(self.templates)), self.text_processor(row["caption"]))]


@dataset("coco_caption", images_url=urls.COCO_IMAGES, image_subfolder="train")
class COCOCaptionDataset(CaptionDataset):
    """COCO captions of the Karpathy split; a row belongs to train if its path contains "train"."""

    def rows_of(self, record: Any) -> list[Row]:
        """Leave out rows of other splits."""
        require(record, self.fields)
        return [record] if "train" in record["image"] else []

    def image_files(self, row: Row) -> list[str]:
        """Return the file name; the row's folder does not matter."""
        return [os.path.basename(row["image"])]


@dataset("textcaps_caption", annotations_url=urls.TEXTCAPS, images_url=urls.TEXTCAPS_IMAGES)
class TextCapsDataset(CaptionDataset):
    """TextCaps: captions that read the text in the image."""

    def load_rows(self, path: str) -> Iterable[Any]:
        return JsonRecords(path, key="data")

    def rows_of(self, record: Any) -> list[Row]:
        """Name the keys as all caption rows do."""
        require(record, {"image_id": str, "caption_str": str})
        return [{"image": f"{record['image_id']}.jpg", "caption": record["caption_str"]}]


@dataset(
    "cc_sbu_align",
    builder=FolderBuilder,
    folder_key="storage",
    annotation_file="filter_cap.json",
    image_subfolder="image",
    annotations_url=urls.CC_SBU_ALIGN,
    images_url=urls.CC_SBU_ALIGN,
)
class CCSBUAlignDataset(CaptionDataset):
    """The curated captions of MiniGPT-4's second stage, answered as they are."""

    def load_rows(self, path: str) -> Iterable[Any]:
        return JsonRecords(path, key="annotations")

    def rows_of(self, record: Any) -> list[Row]:
        """Name the keys as all caption rows do."""
        require(record, {"image_id": (int, str), "caption": str})
        return [{"image": f"{record['image_id']}.jpg", "caption": record["caption"]}]

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        return [Turn(with_image(rng.choice(self.templates)), row["caption"])]
