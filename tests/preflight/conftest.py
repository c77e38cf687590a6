"""The small world of the datasets' tests, in which all is well."""

from tests.datasets.conftest import load, world

__all__ = ["load", "world"]
