"""Captions of whole images: asked with the caption pool, answered with the caption."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import Any, ClassVar

from minigpt4.common.registry import registry
from minigpt4.conversation.conversation import Turn
from minigpt4.datasets import addresses
from minigpt4.datasets.base_dataset import InstructionDataset, Row, with_image
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.files import Place
from minigpt4.datasets.lengths import cleaned_size
from minigpt4.datasets.rows import JsonRecords, require


class CaptionDataset(InstructionDataset):
    """Rows of {image, caption}."""

    fields: ClassVar = {"image": str, "caption": str}
    pool_name = "caption"

    def image_files(self, row: Row) -> list[str]:
        """Return the row's `image`."""
        return [row["image"]]

    def text_sizes(self, row: Row) -> tuple[int, int]:
        """Return the size of the caption."""
        return 0, cleaned_size(row["caption"])

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        """Ask for a caption in one of the pool's wordings."""
        return [Turn(with_image(rng.choice(self.pool)), self.text_processor(row["caption"]))]


class COCOCaptionDataset(CaptionDataset):
    """COCO captions of the Karpathy split; rows count as train when "train" stands anywhere in their path."""

    def rows_of(self, record: Any) -> list[Row]:
        """Leave out what is not of the training split."""
        require(record, self.fields)
        return [record] if "train" in record["image"] else []

    def image_files(self, row: Row) -> list[str]:
        """Return the file, which lies in the image folder whatever folder the row names."""
        return [os.path.basename(row["image"])]


class TextCapsDataset(CaptionDataset):
    """TextCaps: captions that read the text in the image."""

    def load_rows(self, path: str) -> Iterable[Any]:
        """Return the records under "data"."""
        return JsonRecords(path, key="data")

    def rows_of(self, record: Any) -> list[Row]:
        """Name the keys as all caption rows do."""
        require(record, {"image_id": str, "caption_str": str})
        return [{"image": f"{record['image_id']}.jpg", "caption": record["caption_str"]}]


class CCSBUAlignDataset(CaptionDataset):
    """The curated captions of MiniGPT-4's second stage, answered as they are."""

    def load_rows(self, path: str) -> Iterable[Any]:
        """Return the records under "annotations", or of the list alone."""
        return JsonRecords(path, key="annotations")

    def rows_of(self, record: Any) -> list[Row]:
        """Name the keys as all caption rows do."""
        require(record, {"image_id": (int, str), "caption": str})
        return [{"image": f"{record['image_id']}.jpg", "caption": record["caption"]}]

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        """Ask for a caption in one of the pool's wordings."""
        return [Turn(with_image(rng.choice(self.pool)), row["caption"])]


@registry.register_builder("coco_caption")
class COCOCaptionBuilder(BaseDatasetBuilder):
    """coco_caption."""

    train_dataset_cls = COCOCaptionDataset
    DATASET_CONFIG_DICT: ClassVar = {"default": "configs/datasets/coco_caption.yaml"}
    annotations_address = addresses.COCO_CAPTIONS
    images_address = addresses.COCO_IMAGES
    image_subfolder = "train"


@registry.register_builder("textcaps_caption")
class TextCapsBuilder(BaseDatasetBuilder):
    """textcaps_caption."""

    train_dataset_cls = TextCapsDataset
    DATASET_CONFIG_DICT: ClassVar = {"default": "configs/datasets/textcaps_caption.yaml"}
    annotations_address = addresses.TEXTCAPS
    images_address = addresses.TEXTCAPS_IMAGES


@registry.register_builder("cc_sbu_align")
class CCSBUAlignBuilder(BaseDatasetBuilder):
    """cc_sbu_align: `storage` holds filter_cap.json and the folder image."""

    train_dataset_cls = CCSBUAlignDataset
    DATASET_CONFIG_DICT: ClassVar = {"default": "configs/datasets/cc_sbu_align.yaml"}
    annotations_address = images_address = addresses.CC_SBU_ALIGN

    def annotation_places(self) -> list[Place]:
        """Return where the captions are looked for."""
        folder = self._option("storage")
        return [self.place("storage", folder and f"{folder}/filter_cap.json", self.annotations_address)]

    def image_place(self) -> Place:
        """Return where the images are looked for."""
        folder = self._option("storage")
        return self.place("storage", folder and f"{folder}/image", self.images_address, folder=True)
