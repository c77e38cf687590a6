"""results.json: scores and the settings of their run. Answers are reused by a run of the same settings alone."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
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
from minigpt4.processors.pictures import AS_STORED

RESULTS = "results.json"
ADDED_OPTIONS: dict[str, Any] = {"vit_options": {}, "language_model": "llama"}
"""Options of the model that earlier versions did not have, and the defaults that change nothing."""
PACKAGES = ("transformers", "peft", "timm", "sentencepiece", "pillow")


def settings_of(cfg: Config) -> dict[str, Any]:
    """Return all that the answers depend on besides the questions: the model's options, and the checkpoint's hash."""
    file_hash.cache_clear()
    prompts = {"prompt_template": chat_format_of(cfg.model_cfg).template}
    model: Any = OmegaConf.to_container(OmegaConf.merge(cfg.model_cfg, prompts))
    for option, default in ADDED_OPTIONS.items():  # at their defaults, so that older runs keep their names
        if model[option] == default:
            del model[option]
    return {
        "model": model,
        "ckpt_sha256": file_hash(Path(cfg.model_cfg.ckpt or "")),
        "image_processor": OmegaConf.to_container(image_options(cfg)),
        "amp": [cfg.run_cfg.amp, cfg.run_cfg.amp_dtype, cfg.run_cfg.device],
    }


def image_options(cfg: Config) -> Any:
    """Return the image processor's options: of the first dataset, or the model's for evaluation where there is none."""
    first = next(iter(cfg.datasets_cfg.values()), None)
    options = (first and first.vis_processor.train) or cfg.preprocess_cfg.vis_processor.eval
    if options.options is None:  # runs that began before processors had such options keep their name
        return OmegaConf.masked_copy(options, [key for key in options if key != "options"])
    return options


@cache
def file_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file, None where there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_name(model: Any) -> str | None:
    """Return a short name of the trainable weights of a model, None where it has none."""
    named = model.named_parameters() if isinstance(model, torch.nn.Module) else ()
    trained = sorted((name, weight.detach()) for name, weight in named if weight.requires_grad)
    digest = hashlib.blake2b(digest_size=12)
    for name, weight in trained:
        local = weight.to_local() if hasattr(weight, "to_local") else weight  # a shard of this rank
        digest.update(f"{name} {local.dtype} {tuple(local.shape)}".encode())
        digest.update(local.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest() if trained else None


def provenance(
    cfg: Config, benchmark: Benchmark, questions: Sequence[Question], *, dtype: torch.dtype | None, seconds: float
) -> dict[str, Any]:
    """Return the settings that a result file was made with, and the seconds that it took."""
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


def read_results(save_path: Path) -> dict[str, dict[str, Any]]:
    """Return the content of results.json, by benchmark. Raises: ValueError that names the file when it is not JSON."""
    path = save_path / RESULTS
    if not path.is_file():
        return {}
    try:
        results = read_json(path, any_text=True)
        if not isinstance(results, dict) or not all(isinstance(facts, dict) for facts in results.values()):
            raise ValueError(f"{path}: should hold an object for each benchmark")
        if not all(facts.get("accuracy") is None or is_number(facts["accuracy"]) for facts in results.values()):
            raise ValueError(f"{path}: 'accuracy' should be a number or null")
    except ValueError as error:
        raise ValueError(f"{error}; remove or mend this file") from error
    return results


def write_results(save_path: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Write results.json."""
    write_text(save_path / RESULTS, json.dumps(results, indent=2) + "\n")
