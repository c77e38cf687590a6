"""Grounded Flickr30k: captions whose phrases carry boxes, asked in three ways. Texts are taken as they are."""

from __future__ import annotations

import random
from typing import ClassVar

from minigpt4.common.registry import registry
from minigpt4.conversation.conversation import Turn
from minigpt4.datasets import addresses
from minigpt4.datasets.base_dataset import InstructionDataset, Row, with_image
from minigpt4.datasets.boxes import text_fault
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.lengths import size, size_with_boxes


class FlickrDataset(InstructionDataset):
    """What the three Flickr30k datasets share: images by number."""

    def image_files(self, row: Row) -> list[str]:
        """Return the file of the row's number."""
        return [f"{row['image_id']}.jpg"]


class GroundedCaptionDataset(FlickrDataset):
    """Captions with a box behind each phrase."""

    fields: ClassVar = {"image_id": (int, str), "grounded_caption": str}
    pool_name = "grounding"

    def text_sizes(self, row: Row) -> tuple[int, int]:
        """Return the size of the caption with its boxes."""
        return 0, size_with_boxes(row["grounded_caption"])

    def box_fault(self, row: Row) -> int:
        """Return what is wrong with the caption's boxes."""
        return text_fault([row["grounded_caption"]])

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        """Ask for a grounded caption in one of the pool's wordings."""
        return [Turn(with_image(rng.choice(self.pool)), row["grounded_caption"])]


class CaptionToPhraseDataset(FlickrDataset):
    """A caption is asked, its phrases with their boxes are the answer."""

    fields: ClassVar = {"image_id": (int, str), "caption": str, "output": str}

    def text_sizes(self, row: Row) -> tuple[int, int]:
        """Return the sizes of the caption and of its phrases with their boxes."""
        return size(row["caption"]), size_with_boxes(row["output"])

    def box_fault(self, row: Row) -> int:
        """Return what is wrong with the boxes of the phrases."""
        return text_fault([row["output"]])

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        """Ask the caption as it is."""
        return [Turn(with_image(f"[detection] {row['caption']}"), row["output"])]


class ObjectToPhraseDataset(FlickrDataset):
    """A phrase is asked, its boxes are the answer."""

    fields: ClassVar = {"image_id": (int, str), "phrase": str, "bbox": str}

    def text_sizes(self, row: Row) -> tuple[int, int]:
        """Return the sizes of the phrase, and of the phrase with its boxes."""
        return size(row["phrase"]), size(row["phrase"]) + size_with_boxes(row["bbox"])

    def box_fault(self, row: Row) -> int:
        """Return what is wrong with the boxes of the phrase."""
        return text_fault([row["bbox"]])

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        """Ask the phrase as it is."""
        return [Turn(with_image(f"[detection] {row['phrase']}"), f"<p>{row['phrase']}</p> {row['bbox']}")]


class FlickrBuilder(BaseDatasetBuilder):
    """What the three share: one folder of images, the annotation files beside it."""

    annotations_address = addresses.FLICKR
    images_address = addresses.FLICKR_IMAGES
    spellings = (("/filtered_flickr/images", "/flickr/flickr30k-images"), ("/filtered_flickr/", "/flickr/"))


@registry.register_builder("flickr_grounded_caption")
class GroundedCaptionBuilder(FlickrBuilder):
    """flickr_grounded_caption."""

    train_dataset_cls = GroundedCaptionDataset
    DATASET_CONFIG_DICT: ClassVar = {"default": "configs/datasets/flickr_grounded_caption.yaml"}


@registry.register_builder("flickr_CaptionToPhrase")
class CaptionToPhraseBuilder(FlickrBuilder):
    """flickr_CaptionToPhrase."""

    train_dataset_cls = CaptionToPhraseDataset
    DATASET_CONFIG_DICT: ClassVar = {"default": "configs/datasets/flickr_CaptionToPhrase.yaml"}


@registry.register_builder("flickr_ObjectToPhrase")
class ObjectToPhraseBuilder(FlickrBuilder):
    """flickr_ObjectToPhrase."""

    train_dataset_cls = ObjectToPhraseDataset
    DATASET_CONFIG_DICT: ClassVar = {"default": "configs/datasets/flickr_ObjectToPhrase.yaml"}
