"""`@dataset("gqa")`: registers the builder of a dataset class, so that a dataset is one declaration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from minigpt4.common.registry import registry
from minigpt4.datasets.base_builder import BaseDatasetBuilder
from minigpt4.datasets.base_dataset import InstructionDataset

C = TypeVar("C", bound=type[InstructionDataset])
DEFAULTS = "configs/datasets/{}.yaml"
"""Where this package has the defaults of its datasets, below minigpt4/."""


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
