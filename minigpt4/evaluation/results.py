"""results.json: what was measured, how sure it is, and what it was measured with."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from minigpt4.common import dist_utils
from minigpt4.common.config import Config
from minigpt4.common.files import write_text
from minigpt4.common.json_records import read_json
from minigpt4.common.row_checks import is_number
from minigpt4.conversation.chat_format import chat_format_of
from minigpt4.evaluation.benchmark import Benchmark, Question
from minigpt4.evaluation.run_name import file_hash, image_options
from minigpt4.processors.pictures import AS_STORED

RESULTS = "results.json"
PACKAGES = ("transformers", "peft", "timm", "sentencepiece", "pillow")


def provenance(
    cfg: Config, benchmark: Benchmark, questions: Sequence[Question], *, dtype: torch.dtype | None, seconds: float
) -> dict[str, Any]:
    """Return what a result file was made with, and how long that took."""
    file = Path(cfg.run_cfg.save_path) / benchmark.result_file
    device, chat_format = str(cfg.run_cfg.device), chat_format_of(cfg.model_cfg)
    processor: Any = OmegaConf.to_container(image_options(cfg))
    return {
        "seconds": round(seconds, 2),
        "result_file": benchmark.result_file,
        "result_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "ckpt": cfg.model_cfg.ckpt,
        "ckpt_sha256": file_hash(Path(cfg.model_cfg.ckpt or "")),
        "llama_model": cfg.model_cfg.llama_model,
        "lora": {"r": cfg.model_cfg.lora_r, "alpha": cfg.model_cfg.lora_alpha},
        "image_processor": {key: value for key, value in processor.items() if value is not None},
        "pictures": benchmark.cfg.get("pictures") or AS_STORED,
        "prompt_template": chat_format.generation_prompt("{}"),
        "first_prompt": chat_format.generation_prompt(questions[0].prompt) if questions else None,
        "decoding": {
            "do_sample": False,
            "num_beams": 1,
            "max_new_tokens": benchmark.cfg.max_new_tokens,
            "batch_size": benchmark.cfg.batch_size,
            "num_tries": benchmark.num_tries,
            "seed": cfg.run_cfg.seed,
            "dtype": str(dtype or torch.float32).removeprefix("torch."),
        },
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "num_processes": dist_utils.get_world_size(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
    }


def known_provenance(result_file: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what results.json says of a result file; nothing where the file is another one by now."""
    made_with = hashlib.sha256(result_file.read_bytes()).hexdigest()
    return facts if facts.get("result_sha256") == made_with else {}


def read_results(save_path: Path) -> dict[str, dict[str, Any]]:
    """Return what results.json holds, by benchmark. Raises: ValueError that names the file when it is not JSON."""
    path = save_path / RESULTS
    if not path.is_file():
        return {}
    try:
        results = read_json(path, any_text=True)
    except ValueError as error:
        raise ValueError(f"{error}; remove or mend this file") from error
    known = results.values() if isinstance(results, dict) else ()
    if not isinstance(results, dict) or not all(isinstance(facts, dict) for facts in known):
        raise ValueError(f"{path}: should hold an object for each benchmark; remove or mend this file")
    if not all(facts.get("accuracy") is None or is_number(facts["accuracy"]) for facts in known):
        raise ValueError(f"{path}: 'accuracy' should be a number or null; remove or mend this file")
    return results


def write_results(save_path: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Write results.json."""
    write_text(save_path / RESULTS, json.dumps(results, indent=2) + "\n")
