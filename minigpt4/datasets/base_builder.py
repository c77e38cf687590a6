"""From a YAML entry to a dataset: finds the files, says what is missing, builds the processors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from minigpt4.common.registry import registry
from minigpt4.conversation.prompt_templates import load_templates
from minigpt4.datasets.base_dataset import InstructionDataset
from minigpt4.datasets.boxes import KEEP
from minigpt4.datasets.data_path import DataPath
from minigpt4.datasets.images import Listings
from minigpt4.processors.pictures import AS_STORED

HELD_OUT = ("val", "test")


class BaseDatasetBuilder:
    """Builds the dataset class of one registered name.

    `DATASET_CONFIG_DICT["default"]` is a dictionary of its default options, or a YAML file that has them under
    `datasets.NAME`: absolute, beside the module of the class, or below minigpt4/. Paths are set in one of two ways:
    `annotations.train.storage` (one file or several) with `images.storage`, or `ann_path` with `image_path`.
    """

    train_dataset_cls: ClassVar[type[InstructionDataset]]
    DATASET_CONFIG_DICT: ClassVar[Mapping[str, Any]] = {}
    annotations_url: ClassVar[str] = ""
    """The download URL of the annotation files where no `url` says it."""
    images_url: ClassVar[str] = ""
    has_images: ClassVar[bool] = True
    """Whether there is a folder of images; text alone and shards have none."""
    image_subfolder: ClassVar[str] = ""
    """Where the images lie below the configured folder."""
    pictures: ClassVar[str] = AS_STORED
    """How pictures are shown where no option says it."""
    spellings: ClassVar[tuple[tuple[str, str], ...]] = ()
    """Parts of paths that are written in two ways: both are looked for; of several pairs the first that fits counts."""

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
        """Return where the annotation files are looked for."""
        key = "ann_path" if self.option("ann_path") else "annotations.train.storage"
        return self._paths_of_key(key, "annotations.train.url") or [self.data_path(key, None)]

    def held_out_paths(self) -> dict[str, list[DataPath]]:
        """Return where the files of the held-out splits are looked for; `annotations.val` and `.test` name them."""
        keys = {split: f"annotations.{split}" for split in HELD_OUT}
        found = {split: self._paths_of_key(f"{key}.storage", f"{key}.url") for split, key in keys.items()}
        return {split: places for split, places in found.items() if places}

    def _paths_of_key(self, key: str, url: str) -> list[DataPath]:
        """Return the places of the files under a key; each has its own download URL where there are as many."""
        files, urls = self.option_list(key), self._urls(url)
        urls = urls if len(urls) == len(files) else [" and ".join(urls)] * len(files)
        return [self.data_path(key, file, one or self.annotations_url) for file, one in zip(files, urls, strict=True)]

    def _urls(self, key: str) -> list[str]:
        """Return the URLs under a key; published files have placeholders there too."""
        return [url for url in self.option_list(key) if "://" in url]

    def option_list(self, key: str) -> list[str]:
        """Return the paths of an option that takes one or several."""
        value = self.option(key)
        return [value] if isinstance(value, str) else list(value or ())

    def image_folder_path(self) -> DataPath | None:
        """Return where the images are looked for, None for a dataset of text only."""
        if not self.has_images:
            return None
        key = "image_path" if self.option("image_path") else "images.storage"
        folder, url = self.option(key), " and ".join(self._urls("images.url"))
        return self.data_path(key, folder and f"{folder}/{self.image_subfolder}", url or self.images_url, folder=True)

    def other_paths(self) -> list[DataPath]:
        """Return where further files are looked for that the dataset reads."""
        return []

    def dataset_class(self) -> type[InstructionDataset]:
        """Return the class of the training split."""
        return self.train_dataset_cls

    def image_folder(self, found: str) -> str:
        """Return the folder that the rows' image paths start from, given the one that was found."""
        return found

    def data_paths(self) -> list[DataPath]:
        """Return all files and folders that the dataset needs."""
        images = self.image_folder_path()
        held_out = [place for places in self.held_out_paths().values() for place in places]
        return [*self.annotation_paths(), *held_out, *self.other_paths(), *([images] if images else [])]

    def remarks(self) -> list[str]:
        """Return what the user should know about files that are there."""
        return []

    def problems(self) -> list[str]:
        """Return every missing file and folder, with the YAML key that sets it and its download URL."""
        return [problem for place in self.data_paths() if (problem := place.problem())]

    def build_datasets(self) -> dict[str, InstructionDataset]:
        """Return the dataset of the training split as {"train": dataset}, and those of held-out splits that are set.

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
            annotations=[file for place in annotations if (file := place.find())],
            other_files=[file for place in self.other_paths() if (file := place.find())],
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

    def data_path(self, key: str, path: str | None, address: str = "", *, folder: bool = False) -> DataPath:
        """Return the place of one configured path, with its other spellings."""
        paths = [path.rstrip("/")] if path else []
        pairs = [pair for one, other in self.spellings for pair in ((one, other), (other, one))]
        paths += [spelt.replace(one, other) for spelt in paths for one, other in pairs if one in spelt][:1]
        return DataPath(f"datasets.{self.name}.build_info.{key}", tuple(paths), address, folder)

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
    """Builds a dataset whose files all lie in one folder, that of the option `folder_key`."""

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
