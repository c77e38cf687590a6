"""results.json: what was measured, how sure it is, and what it was measured with."""

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
from minigpt4.evaluation.benchmark import ID_KEYS, Benchmark, Prediction, Question
from minigpt4.processors.pictures import AS_STORED

RESULTS = "results.json"
ADDED_OPTIONS: dict[str, Any] = {"vit_options": {}, "language_model": "llama"}
"""Options of the model that earlier versions did not have, and the defaults that do as these did."""
PACKAGES = ("transformers", "peft", "timm", "sentencepiece", "pillow")


@cache
def file_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file, None where there is none."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_of(cfg: Config) -> dict[str, Any]:
    """Return what the answers depend on besides the questions: the model's options, and which checkpoint file it is."""
    file_hash.cache_clear()
    prompts = {"prompt_template": chat_format_of(cfg.model_cfg).template}
    model: Any = OmegaConf.to_container(OmegaConf.merge(cfg.model_cfg, prompts))
    for option, default in ADDED_OPTIONS.items():  # at their defaults they leave the names of older runs as they are
        if model[option] == default:
            del model[option]
    return {
        "model": model,
        "ckpt_sha256": file_hash(Path(cfg.model_cfg.ckpt or "")),
        "image_processor": OmegaConf.to_container(image_options(cfg)),
        "amp": [cfg.run_cfg.amp, cfg.run_cfg.amp_dtype, cfg.run_cfg.device],
    }


def _without_null(options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def image_options(cfg: Config) -> Any:
    """Return the image processor's options: of the first dataset, or the model's for evaluation where there is none."""
    first = next(iter(cfg.datasets_cfg.values()), None)
    options = (first and first.vis_processor.train) or cfg.preprocess_cfg.vis_processor.eval
    if options.options is None:  # evaluations that were begun before processors had such options go on
        return OmegaConf.masked_copy(options, [key for key in options if key != "options"])
    return options


def provenance(
    cfg: Config, benchmark: Benchmark, questions: Sequence[Question], *, dtype: torch.dtype | None, seconds: float
) -> dict[str, Any]:
    """Return what a result file was made with, and how long that took."""
    file = Path(cfg.run_cfg.save_path) / benchmark.result_file
    device, chat_format = str(cfg.run_cfg.device), chat_format_of(cfg.model_cfg)
    return {
        "seconds": round(seconds, 2),
        "result_file": benchmark.result_file,
        "result_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "ckpt": cfg.model_cfg.ckpt,
        "ckpt_sha256": file_hash(Path(cfg.model_cfg.ckpt or "")),
        "llama_model": cfg.model_cfg.llama_model,
        "lora": {"r": cfg.model_cfg.lora_r, "alpha": cfg.model_cfg.lora_alpha},
        "image_processor": _without_null(OmegaConf.to_container(image_options(cfg))),
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


def read_predictions(benchmark: Benchmark, questions: Sequence[Question], path: Path) -> list[Prediction]:
    """Return the questions with the answers of a result file, ours or another's, row by row.

    Raises: ValueError that names the file and the row which does not fit its question.
    """
    entries = read_json(path, any_text=True)
    if not isinstance(entries, list) or len(entries) != len(questions):
        held = len(entries) if isinstance(entries, list) else "no list of"
        raise ValueError(f"{benchmark.name}: {path} holds {held} answers to {len(questions)} questions")
    answered = []
    for row, (question, entry) in enumerate(zip(questions, entries, strict=True)):
        try:
            answer = benchmark.answer(entry)
            if not benchmark.is_valid(answer):
                raise TypeError(f"{answer} is no answer")
            expected = benchmark.export(question, answer)
        except (KeyError, StopIteration, TypeError, IndexError) as error:
            raise ValueError(f"{benchmark.name}: {path}, row {row}: no answer in {str(entry)[:100]}") from error
        odd = [key for key in ID_KEYS if key in entry and str(entry[key]) != str(expected.get(key))]
        if odd:
            raise ValueError(
                f"{benchmark.name}: {path}, row {row} answers another question: its {odd[0]} is {entry[odd[0]]}, "
                f"expected {expected.get(odd[0])}"
            )
        answered.append(Prediction(question, answer))
    return answered


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


def known_provenance(result_file: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what results.json says a result file was made with; nothing where the file is another one by now."""
    made_with = hashlib.sha256(result_file.read_bytes()).hexdigest()
    return dict(facts) if facts.get("result_sha256") == made_with else {}
