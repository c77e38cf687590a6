"""The YAML files of the sample world: the baseline mixture, the same with the engine's data, and the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from minigpt4.common.registry import registry
from minigpt4.sample_world.scenes import SIDE
from minigpt4.sample_world.tiny_model import LORA, VIT

PACKAGE = Path(__file__).resolve().parents[1]

BASELINE = {
    "coco_caption": 10,
    "textcaps_caption": 30,
    "coco_vqa": 15,
    "ok_vqa": 8,
    "aok_vqa": 12,
    "gqa": 50,
    "ocrvqa": 30,
}
"""Datasets and their sample_ratio, as in the real training file."""
ENGINE = {"engine_da": 40, "engine_mc": 40, "engine_mcp": 40}
FURTHER = {
    "multitask_conversation": 50,
    "llava_conversation": 30,
    "unnatural_instruction": 10,
    "refvg": 40,
    "llava_detail": 20,
    "llava_reason": 80,
    "flickr_grounded_caption": 80,
    "flickr_CaptionToPhrase": 80,
    "flickr_ObjectToPhrase": 80,
    "refcoco": 25,
    "refcocop": 25,
    "refcocog": 25,
    "invrefcoco": 10,
    "invrefcocop": 10,
    "invrefcocog": 10,
}
"""What the real training file has besides; the demo, which has little time, leaves it out."""

BENCHMARKS = {
    "seed": ("seed/seed-bench-image.jsonl", "SEED-Bench-image"),
    "mmbench": ("mmbench/mmbench_dev_20230712.tsv", None),
    "okvqa": ("okvqa", "coco2014_val"),
    "vizwiz": ("vizwiz/val.json", "vizwiz/vizwiz_images"),
    "vsr": ("vsr/test.jsonl", "vsr/vsr_images"),
    "gqa": ("gqa/testdev_balanced_questions.json", "gqa/gqa_images"),
    "hm": ("hateful_meme/dev.jsonl", "hateful_meme/hm_images"),
    "iconvqa": ("iconvqa/choose_text_val.json", "iconvqa/iconvqa_images"),
    "refcoco": ("refcoco", "coco2014_train"),
    "refcoco+": ("refcoco+", "coco2014_train"),
    "refcocog": ("refcocog", "coco2014_train"),
}
"""The benchmarks with their eval_file_path and img_path, as the shipped evaluation file has them."""

_MODEL = """\
model:
  arch: minigpt_v2
  image_size: {side}
  vit: {{embed_dim: {vit.embed_dim}, depth: {vit.depth}, num_heads: {vit.num_heads}}}
  vit_precision: fp32
  vit_ckpt: {root}/eva_vit_tiny.pth
  llama_model: {root}/llama_tiny
  ckpt: {root}/checkpoint_stage2.pth
  lora_r: {lora_r}
  lora_alpha: {lora_alpha}
  end_sym: "</s>"
  chat_template: True
  max_txt_len: {max_txt_len}

preprocess:
  vis_processor: {{train: {{image_size: {side}}}, eval: {{image_size: {side}}}}}
"""

_TRAIN = """\
# {title}
# The sample world lies in {root}; make it with: python -m minigpt4.sample_world --out {root}
{model}
# Each step, each rank draws one dataset with probability sample_ratio / sum and takes batch_size samples of it.
datasets:
{datasets}
run:
  task: image_text_pretrain
  lr_sched: linear_warmup_cosine_lr
  init_lr: 2e-3
  min_lr: 1e-4
  warmup_lr: 1e-4
  warmup_steps: 50
  weight_decay: 0.05
  max_epoch: 2
  iters_per_epoch: 1000
  num_workers: 1
  seed: 42
  output_dir: output/{job}
  amp: False
  device: cpu
  log_freq: 25
  job_name: {job}
"""

_EVALUATION = """\
# All benchmarks of the sample world; model.ckpt is the checkpoint to look at.
# The sample world lies in {root}; make it with: python -m minigpt4.sample_world --out {root}
{model}
evaluation_datasets:
{datasets}
run:
  task: image_text_pretrain
  device: cpu
  amp: False
  save_path: evaluation_results
"""


def config_texts(root: str) -> dict[str, str]:
    """Return the text of every YAML file, by its path, for a world that lies in `root`."""
    baseline = "Stage 3 on the sample world without the engine's data: the row None (baseline) of the results table."
    engine = "Stage 3 on the sample world with the engine's data added."
    everything = "Stage 3 on the sample world with every dataset of the real training file."
    trainings = {
        "sample_world": (baseline, BASELINE),
        "sample_world_dataengine": (engine, ENGINE | BASELINE),
        "sample_world_all": (everything, ENGINE | FURTHER | BASELINE),
    }
    return {
        **{f"train_configs/{job}.yaml": _train_text(root, *what, job) for job, what in trainings.items()},
        "eval_configs/sample_world.yaml": _evaluation_text(root),
    }


def _evaluation_text(root: str) -> str:
    """Return the evaluation file; eval_ref.py evaluates RefCOCO's three sets, eval_vqa.py the others."""
    lines = []
    for name, (file, pictures) in BENCHMARKS.items():
        paths = {"eval_file_path": f"{root}/evaluation_dataset/{file}"}
        if pictures:
            paths["img_path"] = f"{root}/evaluation_dataset/{pictures}"
        options = {**paths, "batch_size": 30, "max_new_tokens": 20}
        lines += [f"  {name}:\n", *(f"    {key}: {value}\n" for key, value in options.items())]
    model = _model_text(root, max_txt_len=500)
    return _EVALUATION.format(root=root, model=model, datasets="".join(lines))


def write_configs(out: Path) -> None:
    """Write the YAML files below `out`, with paths into it."""
    for name, text in config_texts(out.as_posix()).items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _train_text(root: str, title: str, ratios: Mapping[str, int], job: str) -> str:
    lines = [f"  {name}: {_dataset_line(root, name, ratio)}" for name, ratio in ratios.items()]
    model = _model_text(root, max_txt_len=1024)
    return _TRAIN.format(root=root, title=title, model=model, datasets="".join(lines), job=job)


def _model_text(root: str, *, max_txt_len: int) -> str:
    return _MODEL.format(root=root, max_txt_len=max_txt_len, side=SIDE, vit=VIT, **LORA)


def _dataset_line(root: str, name: str, ratio: int) -> str:
    """Return a dataset's options: the builder's own, with its files looked for below `root`."""
    path = PACKAGE / registry.get_builder_class(name).DATASET_CONFIG_DICT["default"]
    build_info = yaml.safe_load(path.read_text(encoding="utf-8"))["datasets"][name]["build_info"]
    options = {"batch_size": 8, "sample_ratio": ratio, "build_info": _below(root, build_info)}
    return yaml.safe_dump(options, default_flow_style=True, sort_keys=False, width=10**6)


def _below(root: str, value: Any) -> Any:
    """Return a build_info with paths from the working directory put below `root`, addresses and checksums left out."""
    if isinstance(value, dict):
        return {key: _below(root, item) for key, item in value.items() if key not in ("url", "md5")}
    if isinstance(value, list):
        return [_below(root, item) for item in value]
    if isinstance(value, str) and value.startswith("./"):
        return f"{root}/{value[2:]}"
    return value
