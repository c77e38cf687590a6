"""Grounded Flickr30k: captions whose phrases carry boxes, in three tasks. Texts stay unchanged."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from minigpt4.conversation.conversation import Turn
from minigpt4.datasets import urls
from minigpt4.datasets.base_builder import dataset
from minigpt4.datasets.base_dataset import InstructionDataset, with_image
from minigpt4.datasets.boxes import text_fault
from minigpt4.datasets.lengths import chars_with_boxes, num_chars
from minigpt4.datasets.row_table import Row

FLICKR: dict[str, Any] = {
    "annotations_url": urls.FLICKR,
    "images_url": urls.FLICKR_IMAGES,
    "spellings": (("/filtered_flickr/images", "/flickr/flickr30k-images"), ("/filtered_flickr/", "/flickr/")),
}


class FlickrDataset(InstructionDataset):
    """The base of the three Flickr30k datasets: images by number, and one text with boxes."""

    boxed: ClassVar[str]
    """The key of that text."""

    def image_files(self, row: Row) -> list[str]:
        return [f"{row['image_id']}.jpg"]

    def box_fault(self, row: Row) -> int:
        return text_fault([row[self.boxed]])


@dataset("flickr_grounded_caption", **FLICKR)
class GroundedCaptionDataset(FlickrDataset):
    """Captions with a box after each phrase."""

    fields: ClassVar = {"image_id": (int, str), "grounded_caption": str}
    boxed = "grounded_caption"
    templates_name = "grounding"

    def text_chars(self, row: Row) -> tuple[int, int]:
        return 0, chars_with_boxes(row["grounded_caption"])

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        return [Turn(with_image(rng.choice(self.templates)), row["grounded_caption"])]


@dataset("flickr_CaptionToPhrase", **FLICKR)
class CaptionToPhraseDataset(FlickrDataset):
    """The question is a caption, the answer its phrases with their boxes."""

    fields: ClassVar = {"image_id": (int, str), "caption": str, "output": str}
    boxed = "output"

    def text_chars(self, row: Row) -> tuple[int, int]:
        return num_chars(row["caption"]), chars_with_boxes(row["output"])

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        return [Turn(with_image(f"[detection] {row['caption']}"), row["output"])]


@dataset("flickr_ObjectToPhrase", **FLICKR)
class ObjectToPhraseDataset(FlickrDataset):
    """The question is a phrase, the answer its boxes."""

    fields: ClassVar = {"image_id": (int, str), "phrase": str, "bbox": str}
    boxed = "bbox"

    def text_chars(self, row: Row) -> tuple[int, int]:
        return num_chars(row["phrase"]), num_chars(row["phrase"]) + chars_with_boxes(row["bbox"])

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        return [Turn(with_image(f"[detection] {row['phrase']}"), f"<p>{row['phrase']}</p> {row['bbox']}")]
