"""The name that LAVIS gives to the class of all dataset builders."""

from minigpt4.datasets.base_builder import BaseDatasetBuilder

__all__ = ["BaseDatasetBuilder"]
