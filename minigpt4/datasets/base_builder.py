"""Builds a dataset from its YAML entry: finds the files, reports missing ones, makes the processors.

`@dataset("gqa")` registers the builder of a dataset class, so that a dataset is one declaration.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from omegaconf import DictConfig, OmegaConf

from minigpt4.common.paths import wrong_path
from minigpt4.common.registry import registry
from minigpt4.conversation.prompt_templates import load_templates
from minigpt4.datasets.base_dataset import InstructionDataset
from minigpt4.datasets.boxes import KEEP
from minigpt4.datasets.images import Listings
from minigpt4.processors.pictures import AS_STORED

HELD_OUT = ("val", "test")

C = TypeVar("C", bound=type[InstructionDataset])
DEFAULTS = "configs/datasets/{}.yaml"
"""Where this package has the defaults of its datasets, below minigpt4/."""


@dataclass(frozen=True)
class DataPath:
    """One file or folder: its possible paths (the first that exists counts), and the YAML key that sets it."""

    key: str
    paths: Sequence[str]
    url: str = ""
    folder: bool = False

    def find(self) -> str | None:
        """Return the first path that exists, or None."""
        exists = os.path.isdir if self.folder else os.path.isfile
        return next((path for path in self.paths if exists(path)), None)

    def problem(self) -> str | None:
        """Return the message for the user if it is missing or unusable, else None."""
        there = next((path for path in self.paths if os.path.lexists(path)), None)
        if there is not None:
            wrong = wrong_path(self.find() or there, folder=self.folder)
            return f"{self.key}: {wrong}" if wrong else None
        kind = "folder" if self.folder else "file"
        where = " or ".join(self.paths) if self.paths else "is set"
        return f"{self.key}: no {kind} {where}" + (f"; download it from {self.url}" if self.url else "")


class BaseDatasetBuilder:
    """Builds the dataset class of one registered name.

    `DATASET_CONFIG_DICT["default"]` is a dictionary of its default options, or a YAML file that has them under
    `datasets.NAME`: absolute, in the folder of the class's module, or below minigpt4/. Users set paths in one of two
    ways: `annotations.train.storage` (one or more files) with `images.storage`, or `ann_path` with `image_path`.
    """

    train_dataset_cls: ClassVar[type[InstructionDataset]]
    DATASET_CONFIG_DICT: ClassVar[Mapping[str, Any]] = {}
    annotations_url: ClassVar[str] = ""
    """The download URL of the annotation files, unless `url` gives one."""
    images_url: ClassVar[str] = ""
    has_images: ClassVar[bool] = True
    """Whether the dataset has an image folder; text-only datasets and shards have none."""
    image_subfolder: ClassVar[str] = ""
    """The folder of the images, relative to the configured one."""
    pictures: ClassVar[str] = AS_STORED
    """How pictures are shown by default."""
    spellings: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Pairs of alternative parts of paths: both are tried. The first pair that occurs in a path counts."""

    def __init__(
        self,
        cfg: DictConfig,
        *,
        name: str,
        seed: int = 0,
        listings: Listings | None = None,
        bad_samples: Collection[str] = frozenset(),
    ) -> None:
        self.cfg, self.name, self.seed = cfg, name, seed
        self.listings, self.bad_samples = listings or Listings(), bad_samples

    def annotation_paths(self) -> list[DataPath]:
        """Return the paths of the annotation files."""
        key = "ann_path" if self.option("ann_path") else "annotations.train.storage"
        return self._paths_of_key(key, "annotations.train.url") or [self.data_path(key, None)]

    def held_out_paths(self) -> dict[str, list[DataPath]]:
        """Return the paths of the held-out splits, which `annotations.val` and `annotations.test` set."""
        keys = {split: f"annotations.{split}" for split in HELD_OUT}
        found = {split: self._paths_of_key(f"{key}.storage", f"{key}.url") for split, key in keys.items()}
        return {split: paths for split, paths in found.items() if paths}

    def _paths_of_key(self, key: str, url: str) -> list[DataPath]:
        """Return the paths under a key; each file has its own download URL if the numbers agree."""
        files, urls = self.option_list(key), self._urls(url)
        urls = urls if len(urls) == len(files) else [" and ".join(urls)] * len(files)
        return [self.data_path(key, file, one or self.annotations_url) for file, one in zip(files, urls, strict=True)]

    def _urls(self, key: str) -> list[str]:
        """Return the URLs under a key without the placeholders of published files."""
        return [url for url in self.option_list(key) if "://" in url]

    def option_list(self, key: str) -> list[str]:
        """Return the values of an option that takes one or a list."""
        value = self.option(key)
        return [value] if isinstance(value, str) else list(value or ())

    def image_folder_path(self) -> DataPath | None:
        """Return the path of the image folder, None for a text-only dataset."""
        if not self.has_images:
            return None
        key = "image_path" if self.option("image_path") else "images.storage"
        folder, url = self.option(key), " and ".join(self._urls("images.url"))
        return self.data_path(key, folder and f"{folder}/{self.image_subfolder}", url or self.images_url, folder=True)

    def other_paths(self) -> list[DataPath]:
        """Return the paths of further files that the dataset reads."""
        return []

    def dataset_class(self) -> type[InstructionDataset]:
        """Return the class of the training split."""
        return self.train_dataset_cls

    def image_folder(self, found: str) -> str:
        """Return the root of the rows' image paths, given the folder that was found."""
        return found

    def data_paths(self) -> list[DataPath]:
        """Return all files and folders that the dataset needs."""
        images = self.image_folder_path()
        held_out = [path for paths in self.held_out_paths().values() for path in paths]
        return [*self.annotation_paths(), *held_out, *self.other_paths(), *([images] if images else [])]

    def remarks(self) -> list[str]:
        """Return remarks for the user about files that exist."""
        return []

    def problems(self) -> list[str]:
        """Return every missing file and folder, with the YAML key that sets it and its download URL."""
        return [problem for path in self.data_paths() if (problem := path.problem())]

    def build_datasets(self) -> dict[str, InstructionDataset]:
        """Return the training dataset as {"train": dataset}, and one for each held-out split of the YAML.

        Raises: ValueError with every missing path, or when no row can be used.
        """
        problems = self.problems()
        if problems:
            raise ValueError("\n".join(problems))
        splits = {"train": self.annotation_paths(), **self.held_out_paths()}
        return {split: self._build(places) for split, places in splits.items()}

    def _build(self, annotations: Sequence[DataPath]) -> InstructionDataset:
        images = self.image_folder_path()
        folder = images.find() if images else None
        cls = self.dataset_class()
        return cls(
            name=self.name,
            annotations=[file for path in annotations if (file := path.find())],
            other_files=[file for path in self.other_paths() if (file := path.find())],
            image_folder=self.image_folder(folder) if folder else None,
            vis_processor=self._processor("vis_processor"),
            text_processor=self._processor("text_processor"),
            templates=load_templates(cls.templates_name) if cls.templates_name else (),
            seed=self.seed,
            listings=self.listings,
            bad_samples=self.bad_samples,
            pictures=self.cfg.get("pictures") or self.pictures,
            bad_boxes=self.cfg.get("bad_boxes") or KEEP,
        )

    def data_path(self, key: str, path: str | None, url: str = "", *, folder: bool = False) -> DataPath:
        """Return one configured path with its alternative spellings."""
        paths = [path.rstrip("/")] if path else []
        pairs = [pair for one, other in self.spellings for pair in ((one, other), (other, one))]
        paths += [spelt.replace(one, other) for spelt in paths for one, other in pairs if one in spelt][:1]
        return DataPath(f"datasets.{self.name}.build_info.{key}", tuple(paths), url, folder)

    def option(self, key: str) -> Any:
        """Return a value of `build_info` as plain containers, None where it is not set."""
        value = OmegaConf.select(self.cfg, f"build_info.{key}")
        return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value

    def _processor(self, kind: str) -> Callable[..., Any]:
        cfg = OmegaConf.select(self.cfg, f"{kind}.train")
        if cfg is None:
            raise ValueError(f"datasets.{self.name}.{kind}.train is not set")
        processor: Callable[..., Any] = registry.get_processor_class(cfg.name).from_config(cfg)
        return processor


class FolderBuilder(BaseDatasetBuilder):
    """Builds a dataset whose files all lie in one folder; the option `folder_key` names it."""

    folder_key: ClassVar[str] = "data_dir"
    annotation_file: ClassVar[str]
    other_file: ClassVar[str | None] = None

    def annotation_paths(self) -> list[DataPath]:
        """Return the one annotation file."""
        return [self._below(self.annotation_file)]

    def other_paths(self) -> list[DataPath]:
        """Return the other file, if there is one."""
        return [self._below(self.other_file)] if self.other_file else []

    def image_folder_path(self) -> DataPath:
        """Return the folder of the images."""
        folder = self.option(self.folder_key)
        path = folder and f"{folder}/{self.image_subfolder}"
        return self.data_path(self.folder_key, path, self.images_url, folder=True)

    def _below(self, name: str) -> DataPath:
        folder = self.option(self.folder_key)
        return self.data_path(self.folder_key, folder and f"{folder}/{name}", self.annotations_url)


def dataset(
    name: str,
    defaults: str | Mapping[str, Any] | None = None,
    *,
    builder: type[BaseDatasetBuilder] = BaseDatasetBuilder,
    **attributes: Any,
) -> Callable[[C], C]:
    """Register a builder of this name for the class below; a class may have several names.

    `defaults` are the options of its YAML entry, or a YAML file that has them. `attributes` are those of `builder`,
    such as `annotations_url`. Raises: ValueError when the class lacks the method `turns`.
    """
    if defaults is None and (Path(__file__).parents[1] / DEFAULTS.format(name)).is_file():
        defaults = DEFAULTS.format(name)

    def wrap(cls: C) -> C:
        if cls.turns is InstructionDataset.turns:
            raise ValueError(f"dataset '{name}': {cls.__name__} lacks the method turns")
        body = {"train_dataset_cls": cls, "DATASET_CONFIG_DICT": {"default": defaults or {}}, **attributes}
        body |= {"__module__": cls.__module__, "__doc__": f"Builds {name}."}
        registry.register_builder(name)(type(f"{cls.__name__.removesuffix('Dataset')}Builder", (builder,), body))
        return cls

    return wrap
