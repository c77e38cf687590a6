"""The world as a whole: which scenes go where, and everything that is written below one folder."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from minigpt4.sample_world.configs import write_configs
from minigpt4.sample_world.evaluation_files import write_evaluation_files
from minigpt4.sample_world.scenes import Scene, Split, make_scene
from minigpt4.sample_world.train_files import write_train_files

ASSETS = Path(__file__).parent / "assets"
SHIPPED = ("llama_tiny", "eva_vit_tiny.pth", "checkpoint_stage2.pth")
"""The tiny model's files in it; tools/tiny_weights made them."""
SHARES = {"coco": 0.35, "vg": 0.3, "gqa": 0.1, "textcaps": 0.1, "ocrvqa": 0.1, "flickr": 0.02, "web": 0.03}
"""Sources of training pictures and their shares of the scenes."""
MIN_SCENES = {"num_train_scenes": 40, "num_eval_scenes": 150, "num_dev_scenes": 150}
"""The smallest number of scenes that fills every file; dev may have none."""


@dataclass(frozen=True, slots=True)
class WorldSize:
    """How many scenes are drawn for training, for evaluation, and for choices that evaluation must not decide.

    Raises: ValueError when a count is too small to fill every file.
    """

    num_train_scenes: int = 4000
    num_eval_scenes: int = 6400
    num_dev_scenes: int = 0

    def __post_init__(self) -> None:
        for name, least in MIN_SCENES.items():
            count = getattr(self, name)
            if count < least and not (name == "num_dev_scenes" and count == 0):
                raise ValueError(f"{name}: {count}; at least {least} are needed to fill every file")


def write_world(out: Path, size: WorldSize, *, seed: int) -> None:
    """Write data, tiny model and YAML files below `out`; the same arguments write the same files.

    Scenes for dev are in `dev_dataset`, in the layout of `evaluation_dataset`.
    """
    write_train_files(out / "train_dataset", train_scenes(size, seed), seed=seed)
    sizes: dict[Split, int] = {"evaluation": size.num_eval_scenes, "dev": size.num_dev_scenes}
    for split, count in sizes.items():
        if count:
            scenes = [make_scene(seed, split, number) for number in range(1, count + 1)]
            write_evaluation_files(out / f"{split}_dataset", scenes, seed=seed)
    copy_model(out)
    write_configs(out, dev=size.num_dev_scenes > 0)


def train_scenes(size: WorldSize, seed: int) -> dict[str, list[Scene]]:
    """Return the training scenes of each source of pictures; a scene's number is its image id."""
    scenes: dict[str, list[Scene]] = {}
    first = 1
    for source, share in SHARES.items():
        last = first + int(share * size.num_train_scenes)
        scenes[source] = [make_scene(seed, "train", number) for number in range(first, last)]
        first = last
    return scenes


def copy_model(out: Path) -> None:
    """Copy the tiny model: Llama folder, vision encoder and stage-2 checkpoint."""
    for name in SHIPPED:
        if (ASSETS / name).is_dir():
            shutil.copytree(ASSETS / name, out / name, dirs_exist_ok=True)
        else:
            shutil.copy(ASSETS / name, out / name)
