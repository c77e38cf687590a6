"""What on_gpu.py measures: every case with its settings, its group's process and how long it takes; no torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCALE = {"real": 1.0, "small": 0.5, "tiny": 0.2}
"""The seconds below are those of an H100 at real size; a smaller model takes this share of them."""
IMPORT = 15
"""Seconds until a process can begin, where no standby has done it before."""
LIMIT, SHORTEST_LIMIT = 3, 60
"""A case is ended after this many times its seconds, but not before SHORTEST_LIMIT."""


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: the function of gpu_worker.py that takes it, its settings, and its seconds at real size."""

    name: str
    group: str
    kind: str
    seconds: float
    settings: Mapping[str, Any] = field(default_factory=dict)

    def estimate(self, size: str) -> float:
        """Return the seconds that the case takes at a size."""
        return self.seconds * SCALE[size]

    def limit(self, size: str) -> float:
        """Return the seconds after which the case is ended."""
        return max(LIMIT * self.estimate(size), SHORTEST_LIMIT)


@dataclass(frozen=True, slots=True)
class Group:
    """Cases that share a process, its environment, and the seconds of building the model that they share."""

    name: str
    build: float
    env: Mapping[str, str] = field(default_factory=dict)


GROUPS: Sequence[Group] = (
    Group("numerics", 3),
    Group("published", 12),
    Group("train", 12),
    Group("answers", 12),
    Group("segments", 12, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
    Group("same", 3, {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}),
    Group("float16", 12),
    Group("quantised", 3),
    Group("compile", 12),
)
"""In the order in which they are run. A standby process imports while the one before measures."""

IDEAS = ("packing", "logits", "loss", "lora", "norm", "mlp", "joint", "triton", "inference", "fused")
NO_GRAPHS = ("run.cuda_graphs=False",)
PROFILED: Mapping[str, Any] = {"steps": 24, "warmup": 48}
TOGETHER: Mapping[str, Any] = {"accum": 8, "max_tokens": 8192, "steps": 6, "warmup": 6, "fresh": True}
LONG: Mapping[str, Any] = {"cycle": False, "steps": 100, "warmup": 150}


def _train(name: str, seconds: float = 18, group: str = "train", **settings: Any) -> Case:
    return Case(name, group, "train", seconds, settings)


CASES: Sequence[Case] = (
    Case("ceiling", "numerics", "ceiling", 5),
    Case("numerics attention", "numerics", "attention", 10),
    Case("numerics parts", "numerics", "parts", 15),
    Case("golden training float32", "numerics", "golden", 10, {"dtype": "float32"}),
    Case("golden training bfloat16", "numerics", "golden", 10, {"dtype": "bfloat16"}),
    Case("golden training float16", "numerics", "golden", 10, {"dtype": "float16"}),
    Case("golden answers", "numerics", "golden_answers", 10),
    Case("published", "published", "published", 35),
    _train("ours", 25, fresh=True),
    _train("ours, no graphs", 20, options=NO_GRAPHS),
    Case("profile", "train", "profile", 20, PROFILED),
    Case("host alone", "train", "host_alone", 8),
    _train("together", 30, **TOGETHER),
    _train("ours, all batches new", 60, **LONG),
    _train("cudnn on", 30, cudnn=True, options=NO_GRAPHS),
    _train("with recompute", 25, with_=["recompute"]),
    _train("with float8", 25, options=["model.frozen_dtype=float8"], rebuild=True),
    _train("together, float8", 30, rebuild=True, **{**TOGETHER, "options": ["model.frozen_dtype=float8"]}),
    *(_train(f"without {idea}", without=[idea]) for idea in IDEAS),
    _train("without attention, no graphs", 20, without=["attention"], options=NO_GRAPHS),
    _train("with look_ahead", with_=["look_ahead"]),
    _train("together, recompute", 36, with_=["recompute"], **{**TOGETHER, "max_tokens": 32768}),
    Case("profile, no graphs", "train", "profile", 25, {"options": NO_GRAPHS, **PROFILED}),
    Case("evaluation, published way", "answers", "evaluation", 30, {"way": "published"}),
    Case("evaluation, batches of 10", "answers", "evaluation", 30, {"batch_size": 10}),
    Case("evaluation, batches of 32", "answers", "evaluation", 20, {"batch_size": 32}),
    Case("decoding, 1 prompt", "answers", "decoding", 8, {"prompts": 1}),
    Case("decoding, 1 prompt, graphs", "answers", "decoding", 8, {"prompts": 1, "graphs": True}),
    Case("decoding, 32 prompts", "answers", "decoding", 10, {"prompts": 32}),
    Case("decoding, 32 prompts, graphs", "answers", "decoding", 10, {"prompts": 32, "graphs": True}),
    Case("evaluation, batches of 32, graphs", "answers", "evaluation", 20, {"batch_size": 32, "graphs": True}),
    Case("evaluation, cudnn on", "answers", "evaluation", 60, {"batch_size": 10, "cudnn": True}),
    _train("ours, expandable", 25, "segments", fresh=True),
    _train("together, expandable", 30, "segments", **TOGETHER),
    Case("the same twice, deterministic", "same", "same", 15, {"deterministic": True}),
    Case("the same twice", "same", "same", 15, {"deterministic": False}),
    Case("resumed, deterministic", "same", "same", 15, {"deterministic": True, "resumed": True}),
    Case("resumed", "same", "same", 15, {"deterministic": False, "resumed": True}),
    _train("ours, float16", 30, "float16", dtype="float16", options=["run.amp_dtype=float16"]),
    Case("golden training 4 bits", "quantised", "golden", 15, {"dtype": "bfloat16", "bits": 4}),
    Case("golden training 8 bits", "quantised", "golden", 15, {"dtype": "float16", "bits": 8}),
    _train("with compile_llm", 90, "compile", with_=["compile_llm"]),
    _train("with compile_vit", 90, "compile", with_=["compile_vit"]),
)
"""In the order of their value within a group."""


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return what a folder's results.jsonl holds, the newest of each case, in the order of CASES."""
    path = folder / "results.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    newest = {result["case"]: result for result in map(json.loads, lines)}
    order = {case.name: number for number, case in enumerate(CASES)}
    return sorted(newest.values(), key=lambda result: order.get(result["case"], len(order)))


def write_result(folder: Path, result: Mapping[str, Any]) -> None:
    """Append a result to a folder's results.jsonl."""
    with (folder / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")


def due(folder: Path, *, only: Sequence[str] = (), retry: bool = False) -> list[Case]:
    """Return the cases that are to be run: all without a result, with `retry` also failed ones, or those of `only`.

    Raises: ValueError for a name that is no case's or group's.
    """
    known = {case.name for case in CASES} | {group.name for group in GROUPS}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ValueError(f"--only: no case or group is named {', '.join(unknown)}; --list names them")
    if only:
        return [case for case in CASES if case.name in only or case.group in only]
    settled = ("ok",) if retry else ("ok", "error", "absent")  # and not "cut", by the end of a budget
    done = {result["case"] for result in read_results(folder) if result["status"] in settled}
    return [case for case in CASES if case.name not in done]
