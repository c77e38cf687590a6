"""Time and weigh the building of all 25 datasets of the shipped YAML, at the real numbers of rows.

    python benchmarks/build_datasets.py --folder /data/rows            # writes 2 GB there once, then builds twice
    python benchmarks/build_datasets.py --folder /tmp/small --scale 0.01

The annotation files are made up, with the real layouts, numbers of rows and lengths; image files are empty, as only
folders are listed. Prints one JSON object for the first build, one for the second (which finds the indexes of the
first) and one with the cost of a sample without its image.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from made_up_rows import write_all  # it lies beside this script

SHIPPED = Path(__file__).resolve().parents[1] / "train_configs" / "minigptv2_finetune_dataengine.yaml"


def main() -> None:
    """Write the missing files, build twice in separate processes, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where train_dataset/ is written and kept")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the real numbers of rows and images")
    parser.add_argument("--build", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        measure(args.folder)
        return
    if not (args.folder / "train_dataset").exists():
        write_all(args.folder / "train_dataset", args.scale)
    for index in args.folder.rglob("*.index"):
        index.unlink()
    for _ in range(2):
        subprocess.run([sys.executable, __file__, "--folder", args.folder, "--build"], check=True)


def measure(folder: Path) -> None:
    """Build the datasets of the shipped YAML in this process; print seconds and peak memory, and a sample's cost."""
    from minigpt4.common.config import Config
    from minigpt4.common.registry import registry
    from minigpt4.datasets.images import Listings

    cfg = Config.load(SHIPPED)
    os.chdir(folder)
    before, listings = resource.getrusage(resource.RUSAGE_SELF), Listings()
    began, datasets, seconds = time.perf_counter(), {}, {}
    for name, body in cfg.datasets_cfg.items():
        start = time.perf_counter()
        builder = registry.get_builder_class(str(name))(body, name=name, listings=listings)
        datasets[str(name)] = builder.build_datasets()["train"]
        seconds[str(name)] = round(time.perf_counter() - start, 2)
    after = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "datasets": len(datasets),
        "rows": sum(map(len, datasets.values())),
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "peak_gib": round(after.ru_maxrss / 2**20, 2),
        "peak_gib_before": round(before.ru_maxrss / 2**20, 2),
        "pickled_mib": round(sum(len(pickle.dumps(dataset)) for dataset in datasets.values()) / 2**20, 1),
        "slowest": dict(sorted(seconds.items(), key=lambda item: -item[1])[:6]),
    }
    print(json.dumps(figures), flush=True)
    costs = {name: round(milliseconds_a_sample(dataset), 3) for name, dataset in datasets.items()}
    print(json.dumps({"ms_a_sample_without_image": costs, "most": max(costs.values())}), flush=True)


def milliseconds_a_sample(dataset: Any, *, num_samples: int = 300) -> float:
    """Return the mean time to get a row and its turns: everything but the image."""
    rng = random.Random(0)
    rows = [rng.randrange(len(dataset)) for _ in range(num_samples)]
    began = time.perf_counter()
    for index in rows:
        row = dataset.row(index)
        row["image_size"] = (640, 480)
        dataset.turns(row, rng)
    return (time.perf_counter() - began) / num_samples * 1000


if __name__ == "__main__":
    main()
