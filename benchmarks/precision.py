"""Count how many answers 16 bits change: an evaluation file's benchmarks, asked in float32 and again in 16 bits.

    python benchmarks/precision.py --cfg-path sample_world/eval_configs/sample_world.yaml \\
        --ckpt output/sample_world_dataengine/demo/checkpoint_1.pth

Frozen weights are held in the 16-bit type and the rest runs under autocast, as `run.amp` has it on a GPU; on a CPU,
where `run.amp` changes nothing, the type is bfloat16. RefCOCO is asked once a question, without --resample.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from minigpt4.api import build_model
from minigpt4.common import dist_utils
from minigpt4.common.config import Config
from minigpt4.common.json_records import read_json
from minigpt4.common.tables import as_markdown, as_percent
from minigpt4.conversation.chat_format import chat_format_of
from minigpt4.evaluation.evaluator import Prepared, choose, image_processor, prepare
from minigpt4.evaluation.worker import InferenceWorker

AnswersByName = dict[str, tuple[list[Any], float | None]]
"""By benchmark: the entries of its result file, and the accuracy."""


def ask(cfg: Config, prepared: Sequence[Prepared], device: torch.device, dtype: torch.dtype) -> AnswersByName:
    """Return what a model in one precision answers to every benchmark."""
    model, asked = build_model(cfg, device, dtype), {}
    with tempfile.TemporaryDirectory() as folder:
        for benchmark, questions in ((item.benchmark, item.questions) for item in prepared):
            with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
                how: dict[str, Any] = {"device": device, "chat_format": chat_format_of(cfg.model_cfg)}
                processor = image_processor(cfg)
                worker = InferenceWorker(benchmark=benchmark, model=model, image_processor=processor, **how)
                predictions = worker.infer(questions, Path(folder))
            entries = read_json(Path(folder) / benchmark.result_file)
            asked[benchmark.name] = entries, benchmark.score(predictions)["accuracy"]
    return asked


def main() -> None:
    """Print a line a benchmark, and the sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg-path", required=True, help="YAML of an evaluation")
    parser.add_argument("--ckpt", help="overrides model.ckpt")
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="laid over the YAML")
    args = parser.parse_args()
    cfg = Config(args)
    cfg.model_cfg.ckpt = args.ckpt or cfg.model_cfg.ckpt
    device = dist_utils.pick_device(cfg.run_cfg)
    prepared = prepare(choose(cfg), save_path=Path(cfg.run_cfg.save_path))
    full, half = (ask(cfg, prepared, device, dtype) for dtype in (torch.float32, getattr(torch, args.dtype)))
    rows, sums = [["benchmark", "questions", "answers differ", "float32", args.dtype]], [0, 0]
    for name, (entries, accuracy) in full.items():
        counts = len(entries), sum(a != b for a, b in zip(entries, half[name][0], strict=True))
        sums = [before + count for before, count in zip(sums, counts, strict=True)]
        rows.append([name, *map(str, counts), as_percent(accuracy), as_percent(half[name][1])])
    print(as_markdown([*rows, ["all", *map(str, sums), "", ""]]))


if __name__ == "__main__":
    main()
