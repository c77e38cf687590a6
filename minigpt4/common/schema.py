"""The options of every YAML section: names, types, defaults, ranges and choices, written once.

`Optional` means that null is allowed; a value of None here is "not set". `option(..)` gives a range or choices to an
option; `minigpt4/common/ranges.py` compares the values with them.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, is_dataclass
from functools import cache
from typing import Any

PICTURES = ("as_seen", "as_stored")
"""Upright by EXIF and transparent parts white, or the stored pixels without alpha."""
EVA_VIT_G_URL = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth"


def option(
    default: Any = None,
    *,
    default_factory: Callable[[], Any] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: Sequence[str] = (),
    length: int | None = None,
    registered: str | None = None,
    kind: str | None = None,
) -> Any:
    """Return a dataclass field with what its values must fulfil; of a list of `length`, every element must.

    `registered` is a kind of the registry: the value is one of its names. `kind` is "device" for a device of torch, and
    "paths" for an option that takes one path or several.
    """
    numbers = {"at_least": at_least, "above": above, "at_most": at_most, "below": below, "length": length}
    rules: dict[str, Any] = {name: number for name, number in numbers.items() if number is not None}
    rules |= {"choices": tuple(choices)} if choices else {}
    rules |= {"registered": registered} if registered else {}
    rules |= {"kind": kind} if kind else {}
    if default_factory is not None:
        return field(default_factory=default_factory, metadata=rules)
    return field(default=default, metadata=rules)


@dataclass
class RunConfig:
    """The `run` section: how to train or evaluate."""

    # modules that register datasets, benchmarks, models ..: in the working folder, beside the YAML file, or installed
    plugins: list[str] = field(default_factory=list)
    task: str = option("image_text_pretrain", registered="task")
    runner: str = option("runner_base", registered="runner")
    name: str | None = None  # accepted and unused, as the published files carry it
    job_name: str = "minigptv2_finetune"
    job_id: str | None = None  # folder below output_dir; a time stamp when unset
    output_dir: str = "output"
    seed: int = 42

    lr_sched: str = option("linear_warmup_cosine_lr", registered="lr_scheduler")
    init_lr: float = option(1e-5, at_least=0)
    min_lr: float = option(1e-6, at_least=0)
    warmup_lr: float | None = None  # init_lr when unset or negative
    warmup_steps: int = option(0, at_least=0)
    lr_decay_rate: float | None = option(at_least=0)
    weight_decay: float = option(0.05, at_least=0)
    beta2: float = option(0.999, at_least=0, below=1)

    max_epoch: int = option(30, at_least=1)
    iters_per_epoch: int = option(1000, at_least=1)
    accum_grad_iters: int = option(1, at_least=1)
    max_tokens_per_forward: int | None = option(at_least=1)  # several micro-batches a forward, up to this many tokens
    compile: list[str] = option(default_factory=list, choices=("vit", "llm"))  # for torch.compile; slow to start
    look_ahead: bool = False  # encode the next images on a second CUDA stream while this step's gradient runs
    cuda_graphs: bool | None = None  # replay training steps from CUDA graphs; unset: on a GPU of 60 GiB where possible
    max_grad_norm: float | None = option(above=0)  # clip the whole gradient of an update to this norm; unset: never
    profile: int = option(0, at_least=0)  # write a trace of this many updates to profile.json, after three others
    amp: bool = True
    # auto: bfloat16 where the device has it, else float16
    amp_dtype: str = option("auto", choices=("auto", "bfloat16", "float16"))
    num_workers: int = option(6, at_least=0)
    prefetch_factor: int = option(2, at_least=1)
    max_bad_samples: int = option(0, at_least=0)
    bad_samples_report: str | None = None  # what `--check full` wrote: the samples that it names are left out
    max_skipped_steps: int = option(0, at_least=0)  # updates that may be left out because a loss is not finite
    save_every_steps: int | None = option(at_least=1)  # besides the checkpoint of every epoch
    keep_last: int | None = option(at_least=1)  # delete older checkpoints than these; all are kept when unset
    balance_ranks: bool = True  # share the samples of all ranks' draws evenly; the gradient stays theirs
    strategy: str = option("ddp", choices=("ddp", "fsdp"))  # or fsdp, which shards the frozen LLM
    deterministic: bool = False  # on CUDA: bit-identical runs, slower

    train_splits: list[str] = field(default_factory=lambda: ["train"])  # no other; build_info names its files
    valid_splits: list[str] = field(default_factory=list)
    test_splits: list[str] = field(default_factory=list)
    evaluate: bool = False
    resume_ckpt_path: str | None = None  # a checkpoint, or auto: the newest of this job, or a start where there is none
    allow_changes: bool = False  # resume a checkpoint of another mixture, seed or model; run.json lists the changes
    log_freq: int = option(50, at_least=1)
    wandb_log: bool = False

    device: str = option("cuda", kind="device")
    distributed: bool = True
    dist_url: str = "env://"
    # a rank silent for so long is lost and ends the job (heartbeats come every 5 s); null: nobody watches
    timeout_seconds: float | None = option(120, at_least=10)
    world_size: int = option(1, at_least=1)  # accepted and unused: torchrun says how many processes there are

    save_path: str = "evaluation_results"


@dataclass
class VitSize:
    """The size of an EVA vision transformer; the defaults are ViT-g/14."""

    embed_dim: int = option(1408, at_least=1)
    depth: int = option(39, at_least=1)
    num_heads: int = option(16, at_least=1)
    patch_size: int = option(14, at_least=1)
    mlp_ratio: float = option(4.3637, above=0)


@dataclass
class ModelConfig:
    """The `model` section: MiniGPT-v2."""

    arch: str = "minigpt_v2"
    model_type: str = "pretrain"  # accepted and unused
    prompt: str = ""  # accepted and unused
    image_size: int = option(448, at_least=1)
    pictures: str | None = option(choices=PICTURES)  # unset: as_seen for a user's own data alone

    vit_model: str = option("eva_clip_g", registered="vision_tower")
    vit_options: dict[str, Any] = field(default_factory=dict)  # options of a vision tower that a plugin adds
    vit_ckpt: str | None = EVA_VIT_G_URL  # a file or an address
    vit: VitSize = field(default_factory=VitSize)
    # fp32 keeps the ViT in float32; fp16 and bf16 follow the run
    vit_precision: str = option("fp16", choices=("fp16", "bf16", "fp32"))
    freeze_vit: bool = True
    drop_path_rate: float = option(0.0, at_least=0, below=1)
    use_grad_checkpoint: bool = False

    language_model: str = option("llama", registered="language_model")  # the family of llama_model
    llama_model: str = "meta-llama/Llama-2-7b-chat-hf"  # hub id or folder, of whatever family
    llama_config: dict[str, Any] = field(default_factory=dict)  # sizes for random_weights, over those of the family
    lora_r: int = option(64, at_least=0)
    lora_alpha: int = option(16, at_least=1)
    lora_dropout: float = option(0.05, at_least=0, at_most=1)
    lora_target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    use_grad_checkpoint_llm: bool = False
    low_resource: bool = False  # frozen weights of the language model in 8 bits
    # the GPU of low_resource in a process alone; of several processes each takes its own GPU
    device_8bit: int = option(0, at_least=0)
    load_in_4bit: bool = False  # frozen weights of the language model in 4 bits (NF4), on each process's own GPU
    # or float8, an experiment: training multiplies frozen weights in 8 bits (GPUs from 8.9)
    frozen_dtype: str = option("auto", choices=("auto", "float8"))
    random_weights: bool = False  # no weight file is read: for benchmarks and tests

    ckpt: str | None = None
    allow_mismatch: bool = False  # load a checkpoint that another base model, LoRA alpha, image size or prompt trained
    chat_template: bool | None = None  # training: single questions too go into prompt_template; false when unset
    prompt_template: str | None = None  # of the language model when unset: '[INST] {} [/INST]' of Llama-2
    max_txt_len: int = option(160, at_least=1)
    max_context_len: int = option(3800, at_least=1)
    end_sym: str | None = None  # of the language model when unset: a newline for Llama-2


@dataclass
class ProcessorConfig:
    """One image or text processor; what a processor does not use stays None."""

    name: str = option("???", registered="processor")
    image_size: int | None = option(at_least=1)
    mean: list[float] | None = option(length=3)
    std: list[float] | None = option(above=0, length=3)
    prompt: str | None = None
    max_words: int | None = option(at_least=1)
    options: dict[str, Any] | None = None  # free options of a processor that a plugin adds


@dataclass
class ProcessorsConfig:
    """The processors of the training and of the evaluation split."""

    train: ProcessorConfig | None = None
    eval: ProcessorConfig | None = None


@dataclass
class PreprocessConfig:
    """The `preprocess` section: processors of datasets that name none."""

    vis_processor: ProcessorsConfig = field(default_factory=ProcessorsConfig)
    text_processor: ProcessorsConfig = field(default_factory=ProcessorsConfig)


@dataclass
class StorageConfig:
    """Where one thing lies: a path or a list of paths, and its download URL."""

    storage: Any = option(kind="paths")
    url: Any = option(kind="paths")
    md5: Any = option(kind="paths")


@dataclass
class AnnotationsConfig:
    """The annotation files of each split."""

    train: StorageConfig | None = None
    val: StorageConfig | None = None
    test: StorageConfig | None = None


@dataclass
class BuildInfoConfig:
    """Where a dataset's files lie; each builder reads the keys that its published YAML has."""

    annotations: AnnotationsConfig | None = None
    images: StorageConfig | None = None
    image_path: str | None = None
    ann_path: str | None = None
    data_dir: str | None = None
    storage: Any = option(kind="paths")
    dataset: str | None = None
    splitBy: str | None = None
    options: dict[str, Any] | None = None  # free options of a dataset that a plugin adds


@dataclass
class DatasetConfig:
    """One entry of `datasets`."""

    type: str | None = None  # the builder, where it is not the entry's own name: "custom" for a user's own data
    data_type: str = "images"  # accepted and unused
    build_info: BuildInfoConfig = field(default_factory=BuildInfoConfig)
    vis_processor: ProcessorsConfig | None = None
    text_processor: ProcessorsConfig | None = None
    batch_size: int = option(1, at_least=1)
    sample_ratio: float = option(1.0, at_least=0)
    pictures: str | None = option(choices=PICTURES)  # model.pictures when unset, else as_seen for custom alone
    # boxes that stick out, are empty or reversed: keep (unset), clip, or drop such rows
    bad_boxes: str | None = option(choices=("keep", "clip", "drop"))


@dataclass
class EvaluationDatasetConfig:
    """One entry of `evaluation_datasets`."""

    eval_file_path: str = "???"
    img_path: str | None = None
    batch_size: int = option(10, at_least=1)
    max_new_tokens: int = option(20, at_least=1)
    pictures: str | None = option(choices=PICTURES)  # model.pictures when unset, else as_stored
    only_ids: str | None = None  # a file with the ids of the questions to ask: one a line, or a JSON list


SECTIONS: dict[str, type] = {
    "run": RunConfig,
    "model": ModelConfig,
    "preprocess": PreprocessConfig,
    "datasets": DatasetConfig,
    "evaluation_datasets": EvaluationDatasetConfig,
}
NAMED_SECTIONS = ("datasets", "evaluation_datasets")
"""These hold names, each with the section's options."""


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """Return the types of a section's options."""
    return typing.get_type_hints(cls)


def inner_of(hint: Any) -> type | None:
    """Return the section that an option holds, or None for one that holds values."""
    return next((t for t in (hint, *typing.get_args(hint)) if isinstance(t, type) and is_dataclass(t)), None)
