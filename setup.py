"""Puts the YAML files of train_configs/ and eval_configs/ into the wheel; everything else stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("train_configs", "eval_configs")


class BuildWithConfigs(build_py):
    """Copies the YAML files into the package; an editable install finds them beside it."""

    def run(self) -> None:
        """Build the package, then copy."""
        super().run()
        for folder in () if self.editable_mode else FOLDERS:
            shutil.copytree(folder, Path(self.build_lib) / "minigpt4" / folder, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
