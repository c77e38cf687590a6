"""Questions for boxes and about boxes: RefCOCO, RefCOCO+, RefCOCOg, their inverses, Visual Genome regions."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from minigpt4.common.json_records import JsonRecords
from minigpt4.common.row_checks import NUMBER, require
from minigpt4.common.safe_pickle import load_plain
from minigpt4.conversation.box_text import box_text
from minigpt4.conversation.conversation import Turn
from minigpt4.conversation.prompt_templates import fill
from minigpt4.datasets import urls
from minigpt4.datasets.base_builder import BaseDatasetBuilder, DataPath, FolderBuilder, dataset
from minigpt4.datasets.base_dataset import InstructionDataset, with_image
from minigpt4.datasets.boxes import DROP, DROPPED, box_fault, checked_box, coco_boxes, stated_size
from minigpt4.datasets.images import Listings
from minigpt4.datasets.lengths import BOX_CHARS, mean_chars
from minigpt4.datasets.row_table import Row

SIDES = ("x", "y", "width", "height")
NO_SIZE = (0, 0)
MAX_REGION_AREA = 16384
"""Square pixels; larger regions of Visual Genome are left out."""


class ReferDataset(InstructionDataset):
    """Rows of {image, sentences: [..], box: [x, y, width, height]}: the question is a sentence, the answer its box.

    `stated_size` is the image's (width, height) if the annotation files state it.
    """

    fields: ClassVar = {"image": str, "sentences": list[str], "box": list}
    templates_name = "refer"

    def rows_of(self, record: Any) -> list[Row]:
        require(record, self.fields)
        checked_box(record["box"])
        return [record]

    def text_chars(self, row: Row) -> tuple[int, int]:
        return mean_chars(row["sentences"]), BOX_CHARS

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        sentence = self.text_processor(rng.choice(row["sentences"]))
        return [Turn(with_image(fill(rng.choice(self.templates), sentence)), self.box_of(row))]

    def box_fault(self, row: Row) -> int:
        return box_fault(row["box"], row.get("stated_size"))

    def box_fault_in(self, row: Row, image_size: tuple[int, int]) -> int:
        return box_fault(row["box"], image_size)

    def box_of(self, row: Row) -> str:
        """Return the text of the row's box. Raises: ValueError for a box that `bad_boxes: drop` missed."""
        box, size = row["box"], row["image_size"]
        if self.bad_boxes == DROP and box_fault(box, size) in DROPPED:
            raise ValueError(
                f"its box {box} lies outside its image of {size[0]} x {size[1]} pixels; "
                f"the annotation files say {row.get('stated_size')}"
            )
        return box_text(box, size)


class ReferBuilder(BaseDatasetBuilder):
    """Builds the six: `ann_path`/`dataset`/refs(`splitBy`).p, where `dataset` may begin with "inv"."""

    images_url = urls.COCO_IMAGES
    spellings = (("(umd)", "(und)"),)

    def annotation_paths(self) -> list[DataPath]:
        return [self._file(f"refs({self.option('splitBy')}).p")]

    def other_paths(self) -> list[DataPath]:
        return [self._file("instances.json")]

    def _file(self, name: str) -> DataPath:
        dataset = str(self.option("dataset")).removeprefix("inv")
        url = f"{urls.REFER}/{dataset}.zip"
        return self.data_path("ann_path", f"{self.option('ann_path')}/{dataset}/{name}", url)


@dataset("refcoco", builder=ReferBuilder)
@dataset("refcocop", builder=ReferBuilder)
@dataset("refcocog", builder=ReferBuilder)
class RefCOCODataset(ReferDataset):
    """The training refs of a file of RefCOCO's kind; the first of `other_files`, instances.json, has the boxes."""

    def load_rows(self, path: str) -> Iterator[Row]:
        boxes, sizes = coco_boxes(self.other_files[0])
        refs = load_plain(path)
        if not isinstance(refs, list):
            raise ValueError(f"{path}: should hold a list of refs, not {type(refs).__name__}")
        for number, ref in enumerate(refs, 1):
            try:
                require(ref, {"split": str, "image_id": int, "ann_id": int, "sentences": list}, what="ref")
                for sentence in ref["sentences"]:
                    require(sentence, {"raw": str}, what="sentence")
                if ref["ann_id"] not in boxes:
                    raise ValueError(f"instances.json has no annotation {ref['ann_id']}")
                box = checked_box(boxes[ref["ann_id"]])
            except ValueError as error:
                raise ValueError(f"{path}: ref {number}: {error}") from error
            if ref["split"] == "train":
                image = f"COCO_train2014_{ref['image_id']:012}.jpg"
                sentences = [sentence["raw"] for sentence in ref["sentences"]]
                size = sizes.get(ref["image_id"])
                yield {"image": image, "sentences": sentences, "box": box, "stated_size": size}


@dataset("invrefcoco", builder=ReferBuilder)
@dataset("invrefcocop", builder=ReferBuilder)
@dataset("invrefcocog", builder=ReferBuilder)
class InvRefCOCODataset(RefCOCODataset):
    """The inverse: the question is the box, the answer one of its sentences."""

    templates_name = "identify"

    def turns(self, row: Row, rng: random.Random) -> list[Turn]:
        sentence = self.text_processor(rng.choice(row["sentences"]))
        return [Turn(with_image(fill(rng.choice(self.templates), self.box_of(row))), sentence)]


@dataset(
    "refvg",
    builder=FolderBuilder,
    annotation_file="region_descriptions.json",
    other_file="image_data.json",
    annotations_url=urls.VG_REGIONS,
    images_url=urls.VG_IMAGES,
)
class RefVGDataset(ReferDataset):
    """The regions of Visual Genome below MAX_REGION_AREA; `other_files` begins with image_data.json."""

    fields: ClassVar = {}  # rows_of has checked the regions already

    def build(self, annotations: Sequence[str], listings: Listings, bad_samples: Collection[str]) -> None:
        """Read the file name of each image, then select the regions; a record is an image with its regions."""
        known = []
        for number, image in enumerate(JsonRecords(self.other_files[0]), 1):
            try:
                require(image, {"image_id": int, "url": str})
            except ValueError as error:
                raise ValueError(f"{self.other_files[0]}: record {number}: {error}") from error
            size = stated_size(image) or NO_SIZE
            known.append((image["image_id"], "/".join(image["url"].split("/")[-2:]), size))
        known.sort()
        self._ids = np.array([number for number, _, _ in known], np.int64)
        self._files = np.array([file.encode() for _, file, _ in known], np.bytes_)
        self._sizes = np.array([size for _, _, size in known], np.int32).reshape(-1, 2)
        super().build(annotations, listings, bad_samples)

    def rows_of(self, record: Any) -> list[Row]:
        require(record, {"id": int, "regions": list}, what="record")
        position = int(np.searchsorted(self._ids, record["id"]))
        if position == len(self._ids) or self._ids[position] != record["id"]:
            raise ValueError(f"image_data.json has no image {record['id']}")
        image, regions = self._files[position].decode(), record["regions"]
        width, height = self._sizes[position].tolist()
        size = (width, height) if (width, height) != NO_SIZE else None
        if not _are_regions(regions):
            for region in regions:
                require(region, {"phrase": str, **dict.fromkeys(SIDES, NUMBER)}, what="region")
        return [
            {
                "image": image,
                "sentences": [region["phrase"]],
                "box": [region[side] for side in SIDES],
                "stated_size": size,
            }
            for region in regions
            if region["width"] * region["height"] < MAX_REGION_AREA
        ]


def _are_regions(regions: list[Any]) -> bool:
    """Return whether all regions have the right keys and types; `require` is too slow for millions."""
    try:
        sides = [region[side] for region in regions for side in SIDES]
        are_numbers = set(map(type, sides)) <= {int, float} and math.isfinite(sum(sides))
        return are_numbers and {type(region["phrase"]) for region in regions} <= {str}
    except (KeyError, TypeError, OverflowError):
        return False
