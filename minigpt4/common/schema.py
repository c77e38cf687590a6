"""The options of every YAML section: names, types and defaults, written once.

`Optional` means that null is allowed; a value of None here is "not set".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

EVA_VIT_G_URL = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth"


@dataclass
class RunConfig:
    """The `run` section: how to train or evaluate."""

    task: str = "image_text_pretrain"
    runner: str = "runner_base"
    name: str | None = None  # accepted and unused, as the published files carry it
    job_name: str = "minigptv2_finetune"
    job_id: str | None = None  # folder below output_dir; a time stamp when unset
    output_dir: str = "output"
    seed: int = 42

    lr_sched: str = "linear_warmup_cosine_lr"
    init_lr: float = 1e-5
    min_lr: float = 1e-6
    warmup_lr: float | None = None  # init_lr when unset or negative
    warmup_steps: int = 0
    lr_decay_rate: float | None = None
    weight_decay: float = 0.05
    beta2: float = 0.999

    max_epoch: int = 30
    iters_per_epoch: int = 1000
    accum_grad_iters: int = 1
    max_tokens_per_forward: int | None = None  # several micro-batches a forward, up to this many tokens
    compile: list[str] = field(default_factory=list)  # vit, llm: parts for torch.compile, which takes its time first
    look_ahead: bool = False  # the ViT sees the next images on a CUDA stream of its own while this step's gradient runs
    cuda_graphs: bool | None = None  # replay training steps from CUDA graphs; unset: on a GPU of 60 GiB where possible
    amp: bool = True
    amp_dtype: str = "auto"  # auto: bfloat16 where the device has it, else float16
    num_workers: int = 6
    prefetch_factor: int = 2
    max_bad_samples: int = 0
    bad_samples_report: str | None = None  # what `--check full` wrote: the samples that it names are left out
    max_skipped_steps: int = 0  # updates that may be left out because a loss is not finite
    save_every_steps: int | None = None  # besides the checkpoint of every epoch
    keep_last: int | None = None  # delete older checkpoints than these; all are kept when unset
    balance_ranks: bool = True  # share the samples of all ranks' draws evenly; the gradient stays theirs
    strategy: str = "ddp"  # or fsdp, which shards the frozen LLM
    deterministic: bool = False  # on CUDA: bit-identical runs, slower

    train_splits: list[str] = field(default_factory=lambda: ["train"])
    valid_splits: list[str] = field(default_factory=list)
    test_splits: list[str] = field(default_factory=list)
    evaluate: bool = False
    resume_ckpt_path: str | None = None  # a checkpoint, or auto: the newest of this job, or a start where there is none
    log_freq: int = 50
    wandb_log: bool = False

    device: str = "cuda"
    distributed: bool = True
    dist_url: str = "env://"
    timeout_seconds: float | None = 120  # a rank silent for so long is lost and ends the job; null: nobody watches
    world_size: int = 1  # accepted and unused: torchrun says how many processes there are

    save_path: str = "evaluation_results"


@dataclass
class VitSize:
    """The size of an EVA vision transformer; the defaults are ViT-g/14."""

    embed_dim: int = 1408
    depth: int = 39
    num_heads: int = 16
    patch_size: int = 14
    mlp_ratio: float = 4.3637


@dataclass
class ModelConfig:
    """The `model` section: MiniGPT-v2."""

    arch: str = "minigpt_v2"
    model_type: str = "pretrain"  # accepted and unused
    prompt: str = ""  # accepted and unused
    image_size: int = 448

    vit_model: str = "eva_clip_g"
    vit_ckpt: str | None = EVA_VIT_G_URL  # a file or an address
    vit: VitSize = field(default_factory=VitSize)
    vit_precision: str = "fp16"  # fp32 keeps the ViT in float32; anything else follows the run
    freeze_vit: bool = True
    drop_path_rate: float = 0.0
    use_grad_checkpoint: bool = False

    llama_model: str = "meta-llama/Llama-2-7b-chat-hf"  # hub id or folder
    llama_config: dict[str, Any] = field(default_factory=dict)  # sizes for random_weights, over those of Llama-2-7b
    lora_r: int = 64
    lora_alpha: int = 16
    lora_dropout: float = 0.05
    lora_target_modules: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])
    use_grad_checkpoint_llm: bool = False
    low_resource: bool = False  # frozen weights of the language model in 8 bits
    device_8bit: int = 0  # the GPU of low_resource in a process alone; of several processes each takes its own GPU
    load_in_4bit: bool = False  # frozen weights of the language model in 4 bits (NF4), on each process's own GPU
    frozen_dtype: str = "auto"  # or float8, an experiment: training multiplies frozen weights in 8 bits (GPUs from 8.9)
    random_weights: bool = False  # no weight file is read: for benchmarks and tests

    ckpt: str | None = None
    chat_template: bool = False
    prompt_template: str = "[INST] {} [/INST]"
    max_txt_len: int = 160
    max_context_len: int = 3800
    end_sym: str | None = None  # a newline when unset


@dataclass
class ProcessorConfig:
    """One image or text processor; what a processor does not use stays None."""

    name: str = "???"
    image_size: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    prompt: str | None = None
    max_words: int | None = None


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
    """Where one thing lies: a path or a list of paths, and where it is to be had."""

    storage: Any = None
    url: Any = None
    md5: Any = None


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
    storage: Any = None
    dataset: str | None = None
    splitBy: str | None = None


@dataclass
class DatasetConfig:
    """One entry of `datasets`."""

    type: str | None = None  # the builder, where it is not the entry's own name: "custom" for a user's own data
    data_type: str = "images"  # accepted and unused
    build_info: BuildInfoConfig = field(default_factory=BuildInfoConfig)
    vis_processor: ProcessorsConfig | None = None
    text_processor: ProcessorsConfig | None = None
    batch_size: int = 1
    sample_ratio: float = 1.0


@dataclass
class EvaluationDatasetConfig:
    """One entry of `evaluation_datasets`."""

    eval_file_path: str = "???"
    img_path: str | None = None
    batch_size: int = 10
    max_new_tokens: int = 20
