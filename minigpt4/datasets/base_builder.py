"""From a YAML entry to a dataset: finds the files, says what is missing, builds the processors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from minigpt4.common.registry import registry
from minigpt4.conversation.prompt_templates import load_pool
from minigpt4.datasets.base_dataset import InstructionDataset
from minigpt4.datasets.boxes import KEEP
from minigpt4.datasets.files import Place
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
    annotations_address: ClassVar[str] = ""
    """The download URL of the annotation files where no `url` says it."""
    images_address: ClassVar[str] = ""
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

    def annotation_places(self) -> list[Place]:
        """Return where the annotation files are looked for."""
        key = "ann_path" if self.option("ann_path") else "annotations.train.storage"
        return self._places_of(key, "annotations.train.url") or [self.place(key, None)]

    def held_out_places(self) -> dict[str, list[Place]]:
        """Return where the files of the held-out splits are looked for; `annotations.val` and `.test` name them."""
        keys = {split: f"annotations.{split}" for split in HELD_OUT}
        found = {split: self._places_of(f"{key}.storage", f"{key}.url") for split, key in keys.items()}
        return {split: places for split, places in found.items() if places}

    def _places_of(self, key: str, url: str) -> list[Place]:
        """Return the places of the files under a key; each has its own download URL where there are as many."""
        files, urls = self.paths(key), self._urls(url)
        urls = urls if len(urls) == len(files) else [" and ".join(urls)] * len(files)
        return [self.place(key, file, one or self.annotations_address) for file, one in zip(files, urls, strict=True)]

    def _urls(self, key: str) -> list[str]:
        """Return the URLs under a key; published files have placeholders there too."""
        return [url for url in self.paths(key) if "://" in url]

    def paths(self, key: str) -> list[str]:
        """Return the paths of an option that takes one or several."""
        value = self.option(key)
        return [value] if isinstance(value, str) else list(value or ())

    def image_place(self) -> Place | None:
        """Return where the images are looked for, None for a dataset of text only."""
        if not self.has_images:
            return None
        key = "image_path" if self.option("image_path") else "images.storage"
        folder, url = self.option(key), " and ".join(self._urls("images.url"))
        return self.place(key, folder and f"{folder}/{self.image_subfolder}", url or self.images_address, folder=True)

    def other_places(self) -> list[Place]:
        """Return where further files are looked for that the dataset reads."""
        return []

    def dataset_class(self) -> type[InstructionDataset]:
        """Return the class of the training split."""
        return self.train_dataset_cls

    def image_folder(self, found: str) -> str:
        """Return the folder that the rows' image paths start from, given the one that was found."""
        return found

    def places(self) -> list[Place]:
        """Return all files and folders that the dataset needs."""
        images = self.image_place()
        held_out = [place for places in self.held_out_places().values() for place in places]
        return [*self.annotation_places(), *held_out, *self.other_places(), *([images] if images else [])]

    def remarks(self) -> list[str]:
        """Return what the user should know about files that are there."""
        return []

    def problems(self) -> list[str]:
        """Return every missing file and folder, with the YAML key that sets it and its download URL."""
        return [problem for place in self.places() if (problem := place.problem())]

    def build_datasets(self) -> dict[str, InstructionDataset]:
        """Return the dataset of the training split as {"train": dataset}, and those of held-out splits that are set.

        Raises: ValueError with every missing path, or when no row can be used.
        """
        problems = self.problems()
        if problems:
            raise ValueError("\n".join(problems))
        splits = {"train": self.annotation_places(), **self.held_out_places()}
        return {split: self._build(places) for split, places in splits.items()}

    def _build(self, annotations: Sequence[Place]) -> InstructionDataset:
        images = self.image_place()
        folder = images.find() if images else None
        cls = self.dataset_class()
        return cls(
            name=self.name,
            annotations=[file for place in annotations if (file := place.find())],
            other_files=[file for place in self.other_places() if (file := place.find())],
            image_folder=self.image_folder(folder) if folder else None,
            vis_processor=self._processor("vis_processor"),
            text_processor=self._processor("text_processor"),
            pool=load_pool(cls.pool_name) if cls.pool_name else (),
            seed=self.seed,
            listings=self.listings,
            bad_samples=self.bad_samples,
            pictures=self.cfg.get("pictures") or self.pictures,
            bad_boxes=self.cfg.get("bad_boxes") or KEEP,
        )

    def place(self, key: str, path: str | None, address: str = "", *, folder: bool = False) -> Place:
        """Return the place of one configured path, with its other spellings."""
        paths = [path.rstrip("/")] if path else []
        pairs = [pair for one, other in self.spellings for pair in ((one, other), (other, one))]
        paths += [spelt.replace(one, other) for spelt in paths for one, other in pairs if one in spelt][:1]
        return Place(f"datasets.{self.name}.build_info.{key}", tuple(paths), address, folder)

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

    def annotation_places(self) -> list[Place]:
        """Return the one annotation file."""
        return [self._below(self.annotation_file)]

    def other_places(self) -> list[Place]:
        """Return the other file, if there is one."""
        return [self._below(self.other_file)] if self.other_file else []

    def image_place(self) -> Place:
        """Return the folder of the images."""
        folder = self.option(self.folder_key)
        path = folder and f"{folder}/{self.image_subfolder}"
        return self.place(self.folder_key, path, self.images_address, folder=True)

    def _below(self, name: str) -> Place:
        folder = self.option(self.folder_key)
        return self.place(self.folder_key, folder and f"{folder}/{name}", self.annotations_address)
