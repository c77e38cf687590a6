"""Time the data pipeline: drawn rows to packed batches, with JPEG files of a camera's size made for the purpose.

    python benchmarks/data_pipeline.py --image-size 448 --workers 1 2 4

Prints what one image costs a worker, step by step, and then one JSON object a number of workers: images/s and tokens/s
of the loader with nobody training behind it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.conversation.encoder import ChatEncoder
from minigpt4.conversation.tokenizer import ByteTokenizer
from minigpt4.datasets.base_dataset import InstructionDataset
from minigpt4.datasets.images import read_image
from minigpt4.datasets.mixture import MixtureComponent, MixtureDataset, MixtureSampler
from minigpt4.runners.loader import build_loader


def write_dataset(folder: Path, *, num_images: int) -> Path:
    """Write noisy 640x480 JPEG files and TextCaps annotations; return the YAML file that names them."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(num_images):
        coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
        picture.save(folder / "images" / f"{number}.jpg", quality=90)
    rows = [{"image_id": str(n), "caption_str": "a sign that says stop " * 3} for n in range(num_images)]
    (folder / "captions.json").write_text(json.dumps({"data": rows}))
    build_info = {"image_path": str(folder / "images"), "ann_path": str(folder / "captions.json")}
    path = folder / "data.yaml"
    path.write_text(OmegaConf.to_yaml({"datasets": {"textcaps_caption": {"build_info": build_info}}}))
    return path


def costs(dataset: InstructionDataset, encoder: ChatEncoder, *, image_size: int, num_samples: int) -> dict[str, Any]:
    """Return the milliseconds of each step of an image's way in one process, and their shares."""
    seconds = dict.fromkeys(("row", "decode", "resize", "normalise", "encode"), 0.0)
    marks: list[float] = []
    for index in range(num_samples):
        marks[:] = [time.perf_counter()]
        row = dataset.row(index % len(dataset))
        [name] = dataset.image_files(row)
        marks.append(time.perf_counter())
        image = read_image(dataset.images.find(name))
        marks.append(time.perf_counter())
        image.convert("RGB").resize((image_size, image_size), Image.Resampling.BICUBIC)
        marks.append(time.perf_counter())
        dataset.vis_processor(image)  # resizes again, then normalises
        marks.append(time.perf_counter())
        encoder.encode(dataset.turns({**row, "image_size": image.size}, random.Random(index)))
        marks.append(time.perf_counter())
        row_s, decode, resize, both, encode = np.diff(marks)
        for key, value in zip(seconds, (row_s, decode, resize, both - resize, encode), strict=True):
            seconds[key] += value
    total = sum(seconds.values())
    figures = {f"{key}_ms": round(value / num_samples * 1000, 2) for key, value in seconds.items()}
    shares = {key: round(value / total, 2) for key, value in seconds.items()}
    return {**figures, "total_ms": round(total / num_samples * 1000, 2), "shares": shares}


def main() -> None:
    """Time the steps of the way once, and the loader once for every number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=448)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=6)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = f"preprocess.vis_processor.train.image_size={args.image_size}"
        cfg = Config.load(write_dataset(Path(folder), num_images=args.num_images), [size])
        name, body = next(iter(cfg.datasets_cfg.items()))
        dataset = registry.get_builder_class(str(name))(body, name=name).build_datasets()["train"]
        num_image_tokens = (args.image_size // 14) ** 2 // 4
        encoder = ChatEncoder(ByteTokenizer(), num_image_tokens=num_image_tokens)
        component = MixtureComponent(name=dataset.name, num_rows=len(dataset), batch_size=args.batch_size, ratio=1.0)
        steps = costs(dataset, encoder, image_size=args.image_size, num_samples=4 * args.num_images)
        print(json.dumps({"one_image": steps, "cores": len(os.sched_getaffinity(0))}))
        for num_workers in args.workers:
            loader = build_loader(
                MixtureDataset({dataset.name: dataset}, seed=0),
                MixtureSampler([component], num_steps=args.steps, seed=0),
                encoder,
                num_workers=num_workers,
                prefetch_factor=2,
                pin_memory=False,
            )
            began = time.perf_counter()
            images = tokens = 0
            for [packed] in loader:
                images += len(packed.batch.images)
                tokens += len(packed.batch.input_ids)
            seconds = time.perf_counter() - began
            figures = {"images_per_s": round(images / seconds, 1), "tokens_per_s": round(tokens / seconds)}
            print(json.dumps({"workers": num_workers, "image_size": args.image_size, **figures}))


if __name__ == "__main__":
    main()
