"""The options of every YAML section, each declared once: type, default, range or choices, and the help below it.

`minigpt4 train --help-options` and docs/options.md show all of it. `X | None` allows null; a default of None means that
the option is not set. `option(..)` adds a range or choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from minigpt4.common.option import Option, option, options_of

PICTURES = ("as_seen", "as_stored")
"""Upright by EXIF and transparent parts white, or the stored pixels without alpha."""
EVA_VIT_G_URL = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth"


@dataclass
class RunConfig:
    """The `run` section: how to train or evaluate."""

    plugins: list[str] = option([])
    """Python modules that register datasets, benchmarks, models and more. They lie in the working folder, beside the
    YAML file, or are installed. Their code runs with your rights."""
    task: str = option("image_text_pretrain", registered="task")
    """Task, which builds the datasets and the model."""
    runner: str = option("runner_base", registered="runner")
    """Runner, which holds the training loop."""
    name: str | None = None
    """Accepted and unused; published files carry it."""
    job_name: str = "minigptv2_finetune"
    """Name of the job. `resume_ckpt_path: auto` looks for jobs of this name, and Weights & Biases shows it."""
    job_id: str | None = None
    """Folder of this run below `output_dir`. Unset: a time stamp, or the job that `resume_ckpt_path: auto` finds."""
    output_dir: str = "output"
    """Folder for the folders of all runs, relative to the working directory."""
    seed: int = 42
    """Seed of the order of rows, the prompts, the dropout masks and the new weights."""

    lr_sched: str = option("linear_warmup_cosine_lr", registered="lr_scheduler")
    """Learning rate schedule. `linear_warmup_cosine_lr` falls on half a cosine from `init_lr` to `min_lr`.
    `linear_warmup_step_lr` multiplies the rate by `lr_decay_rate` after every epoch."""
    init_lr: float = option(1e-5, at_least=0)
    """Highest learning rate, reached after the warm-up."""
    min_lr: float = option(1e-6, at_least=0)
    """Lowest learning rate after the warm-up."""
    warmup_lr: float | None = None
    """Learning rate of the first step, which rises linearly to `init_lr`. Unset or negative: `init_lr`."""
    warmup_steps: int = option(0, at_least=0)
    """Number of warm-up steps; a step is one micro-batch. 0: no warm-up."""
    lr_decay_rate: float | None = option(at_least=0)
    """Factor on the learning rate after every epoch, for `linear_warmup_step_lr`. Unset: no decay."""
    weight_decay: float = option(0.05, at_least=0)
    """Weight decay of AdamW."""
    beta2: float = option(0.999, at_least=0, below=1)
    """Second beta of AdamW; the first is 0.9."""

    max_epoch: int = option(30, at_least=1)
    """Number of epochs. A checkpoint is written after each."""
    iters_per_epoch: int = option(1000, at_least=1)
    """Number of steps in an epoch. In a step, each rank takes one micro-batch of one dataset."""
    accum_grad_iters: int = option(1, at_least=1)
    """Number of micro-batches whose mean gradient makes one optimizer update."""
    max_tokens_per_forward: int | None = option(at_least=1)
    """Sends the micro-batches of an update through the model together, up to this many tokens in a forward pass.
    Unset: one micro-batch after the other."""
    compile: list[str] = option([], choices=("vit", "llm"))
    """Parts for torch.compile: the blocks of the frozen vision encoder, or the MLPs and norms of the language model.
    The first steps take longer."""
    look_ahead: bool = False
    """Encodes the next step's images on a second CUDA stream while this step computes its gradient."""
    cuda_graphs: bool | None = None
    """Replays training steps, and decode steps of an evaluation, from CUDA graphs. Unset: training uses graphs where
    they are possible and every GPU has 60 GiB or more; evaluation does not."""
    max_grad_norm: float | None = option(above=0)
    """Clips the whole gradient of an update to this norm. Unset: no clipping."""
    profile: int = option(0, at_least=0)
    """Writes a trace of this many updates to profile.json, after three updates without it. 0: no trace."""
    amp: bool = True
    """Computes in 16 bits on a GPU. A CPU always computes in 32 bits."""
    amp_dtype: str = option("auto", choices=("auto", "bfloat16", "float16"))
    """The 16-bit type of `amp`. auto: bfloat16 where the GPU has it, else float16."""
    num_workers: int = option(6, at_least=0)
    """Number of data loader processes of each rank. 0: the training process loads the data."""
    prefetch_factor: int = option(2, at_least=1)
    """Number of batches that each data loader process prepares ahead."""
    max_bad_samples: int = option(0, at_least=0)
    """Number of samples that a run may leave out because they cannot be read or used. One more ends the run."""
    bad_samples_report: str | None = None
    """Report of `minigpt4 check --full`. The samples that it names are left out. Unset: none."""
    max_skipped_steps: int = option(0, at_least=0)
    """Number of updates that may be skipped because their loss is not finite. 0: the first one ends the run."""
    save_every_steps: int | None = option(at_least=1)
    """Steps between further checkpoints. Unset: only the checkpoint after each epoch."""
    keep_last: int | None = option(at_least=1)
    """Number of newest checkpoints to keep; older ones are deleted, never the best. Unset: all are kept."""
    balance_ranks: bool = True
    """Shares the samples of all ranks' micro-batches by their tokens. The gradient stays that of separate ranks."""
    strategy: str = option("ddp", choices=("ddp", "fsdp"))
    """How processes share the model. ddp: every GPU holds all of it. fsdp: the frozen language model is sharded."""
    deterministic: bool = False
    """Makes runs on CUDA identical bit for bit. Some kernels are slower."""

    train_splits: list[str] = option(["train"])
    """Only `[train]` is possible; `build_info` names its files."""
    valid_splits: list[str] = option([])
    """Held-out splits (val, test) to compute the loss on after each epoch; the best checkpoint is kept. Their files
    are in `build_info.annotations`."""
    test_splits: list[str] = option([])
    """Further held-out splits for `evaluate`."""
    evaluate: bool = False
    """Computes the loss on `valid_splits` and `test_splits` and does not train."""
    resume_ckpt_path: str | None = None
    """Checkpoint to continue from. auto: the newest of this job, or a new run where there is none. Unset: a new run."""
    allow_changes: bool = False
    """Resumes a checkpoint of another mixture, seed or model. `run.json` lists the changes."""
    log_freq: int = option(50, at_least=1)
    """Steps between two lines of the log."""
    wandb_log: bool = False
    """Logs to Weights & Biases too, where wandb is installed."""

    device: str = option("cuda", kind="device")
    """Device of PyTorch to compute on."""
    distributed: bool = True
    """Joins the process group that torchrun announces. Without torchrun there is one process."""
    dist_url: str = "env://"
    """`init_method` of torch.distributed. `env://` takes the variables of torchrun."""
    timeout_seconds: float | None = option(120, at_least=10)
    """Seconds without a heartbeat after which a rank counts as lost and the job ends. Ranks send a heartbeat every 5
    seconds. null: nobody watches."""
    world_size: int = option(1, at_least=1)
    """Accepted and unused: torchrun says how many processes there are."""

    save_path: str = "evaluation_results"
    """Folder for the results of an evaluation."""


@dataclass
class VitSize:
    """The sizes of an EVA vision transformer; the defaults are ViT-g/14."""

    embed_dim: int = option(1408, at_least=1)
    """Width of the vision transformer, a multiple of `num_heads`."""
    depth: int = option(39, at_least=1)
    """Number of blocks of the vision transformer."""
    num_heads: int = option(16, at_least=1)
    """Number of attention heads of each block."""
    patch_size: int = option(14, at_least=1)
    """Side of a patch in pixels."""
    mlp_ratio: float = option(4.3637, above=0)
    """Width of the MLP's hidden layer over `embed_dim`."""


@dataclass
class ModelConfig:
    """The `model` section: MiniGPT-v2, or a model of a plugin."""

    arch: str = option("minigpt_v2", registered="model")
    """Model class."""
    model_type: str = "pretrain"
    """Accepted and unused; published files carry it."""
    prompt: str = ""
    """Accepted and unused; published files carry it."""
    image_size: int = option(448, at_least=1)
    """Side in pixels of the square that every picture is resized to: a multiple of two patches of the vision tower."""
    pictures: str | None = option(choices=PICTURES)
    """as_seen: pictures upright by EXIF, transparent parts white. as_stored: the stored pixels without alpha. Unset:
    as_seen for your own data, chat and `load_model`, else as_stored."""

    vit_model: str = option("eva_clip_g", registered="vision_tower")
    """Vision tower."""
    vit_options: dict[str, Any] = field(default_factory=dict)
    """Options of a vision tower that a plugin adds."""
    vit_ckpt: str | None = EVA_VIT_G_URL
    """Weights of the vision tower: a file, or a URL that is downloaded once."""
    vit: VitSize = field(default_factory=VitSize)
    vit_precision: str = option("fp16", choices=("fp16", "bf16", "fp32"))
    """fp32 keeps the vision tower in 32 bits. fp16 and bf16 both use the type that the run computes in."""
    freeze_vit: bool = True
    """Does not train the vision tower."""
    drop_path_rate: float = option(0.0, at_least=0, below=1)
    """Highest rate of stochastic depth in the vision tower. 0: none."""
    use_grad_checkpoint: bool = False
    """Saves memory: backward computes the blocks of a trained vision tower again. A frozen one needs no backward."""

    language_model: str = option("llama", registered="language_model")
    """Family of the language model."""
    llama_model: str = "meta-llama/Llama-2-7b-chat-hf"
    """Language model of any family: a hub id, or a folder in the format of Hugging Face."""
    llama_config: dict[str, Any] = field(default_factory=dict)
    """Sizes of the language model for `random_weights`, such as `hidden_size`."""
    lora_r: int = option(64, at_least=0)
    """Rank of LoRA. 0: no LoRA."""
    lora_alpha: int = option(16, at_least=1)
    """Scale of LoRA: its product is multiplied by `lora_alpha / lora_r`."""
    lora_dropout: float = option(0.05, at_least=0, at_most=1)
    """Dropout rate on the input of LoRA."""
    lora_target_modules: list[str] = option(["q_proj", "v_proj"])
    """Names of the linear layers that get LoRA. Llama has q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and
    down_proj."""
    use_grad_checkpoint_llm: bool = False
    """Saves memory: backward computes the layers of the language model again. This takes about a third more work."""
    low_resource: bool = False
    """Keeps frozen weights of the language model in 8 bits; needs bitsandbytes and a GPU."""
    device_8bit: int = option(0, at_least=0)
    """Number of the GPU for `low_resource` in a single process. Of several processes each takes its own GPU."""
    load_in_4bit: bool = False
    """Keeps frozen weights of the language model in 4 bits (NF4); needs bitsandbytes and a GPU."""
    frozen_dtype: str = option("auto", choices=("auto", "float8"))
    """float8, an experiment: training multiplies frozen weights in 8 bits, on GPUs of compute capability 8.9 or more.
    auto: the run's 16-bit type."""
    random_weights: bool = False
    """Reads no weight file and draws all weights at random: for benchmarks and tests."""

    ckpt: str | None = None
    """Checkpoint of the trained weights to start from or to evaluate. Unset: new LoRA and projection."""
    allow_mismatch: bool = False
    """Loads a checkpoint although its base model, LoRA alpha, image size or prompt differ. Warnings list them."""
    chat_template: bool | None = None
    """Puts single training questions into `prompt_template`, as conversations always are. Unset: false."""
    prompt_template: str | None = None
    """Text around a question, with {} for the question. Unset: that of the language model, `[INST] {} [/INST]` for
    Llama-2."""
    max_txt_len: int = option(160, at_least=1)
    """Most tokens after the first question: answers and later questions. Longer texts are cut."""
    max_context_len: int = option(3800, at_least=1)
    """Most tokens of the first question with its image. Longer texts are cut, an image never."""
    end_sym: str | None = None
    """Text that ends an answer. Unset: that of the language model, a newline for Llama-2."""


@dataclass
class ProcessorConfig:
    """One image or text processor."""

    name: str = option("???", registered="processor")
    """Processor: one for images under `vis_processor`, one for texts under `text_processor`."""
    image_size: int | None = option(at_least=1)
    """Side of the resized image in pixels. Unset: under `preprocess` that of the model, else 224."""
    mean: list[float] | None = option(length=3)
    """Mean of red, green and blue, subtracted from pixels in 0..1. Unset: CLIP's."""
    std: list[float] | None = option(above=0, length=3)
    """Deviation of red, green and blue, which divides pixels after `mean`. Unset: CLIP's."""
    prompt: str | None = None
    """Text in front of every caption. Unset: none."""
    max_words: int | None = option(at_least=1)
    """Most words of a caption; the rest is cut. Unset: 50."""
    options: dict[str, Any] | None = None
    """Options of a processor that a plugin adds."""


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
    """The place of files, and their download URL."""

    storage: Any = option(kind="paths")
    """Path of the file or folder; annotations may be several files."""
    url: Any = option(kind="paths")
    """Download URL, or one for each file. Messages about missing files name it; nothing is downloaded."""
    md5: Any = option(kind="paths")
    """Accepted and unused; published files carry it."""


@dataclass
class AnnotationsConfig:
    """The annotation files of each split."""

    train: StorageConfig | None = None
    val: StorageConfig | None = None
    test: StorageConfig | None = None


@dataclass
class BuildInfoConfig:
    """Where a dataset's files are; each builder reads the keys that its published YAML has."""

    annotations: AnnotationsConfig | None = None
    images: StorageConfig | None = None
    image_path: str | None = None
    """Folder of the images; overrides `images.storage`."""
    ann_path: str | None = None
    """Annotation file, or for RefCOCO the folder above its annotations; overrides `annotations.train.storage`."""
    data_dir: str | None = None
    """Folder with annotations and images together, for refvg."""
    storage: Any = option(kind="paths")
    """Folder of cc_sbu_align; or WebDataset shards, such as `{00000..00099}.tar`, of streams and your own data."""
    dataset: str | None = None
    """RefCOCO's name of the dataset: refcoco, refcoco+ or refcocog, with `inv` in front for the inverse task."""
    splitBy: str | None = None
    """RefCOCO's name of the split, as unc in `refs(unc).p`."""
    options: dict[str, Any] | None = None
    """Options of a dataset that a plugin adds."""


@dataclass
class DatasetConfig:
    """One entry of `datasets`; its key NAME is a registered dataset, or any name with `type`."""

    type: str | None = option(registered="builder")
    """Dataset builder, such as `custom` for your own data. Unset: the one that is registered as NAME."""
    data_type: str = "images"
    """Accepted and unused; published files carry it."""
    build_info: BuildInfoConfig = field(default_factory=BuildInfoConfig)
    vis_processor: ProcessorsConfig | None = None
    text_processor: ProcessorsConfig | None = None
    batch_size: int = option(1, at_least=1)
    """Number of samples in a micro-batch of this dataset."""
    sample_ratio: float = option(1.0, at_least=0)
    """Weight of the dataset in the mixture. A step takes it with probability `sample_ratio` over the sum of all."""
    pictures: str | None = option(choices=PICTURES)
    """Overrides `model.pictures`. If both are unset: as_seen for `type: custom`, else as_stored."""
    bad_boxes: str | None = option(choices=("keep", "clip", "drop"))
    """Boxes outside their image, empty or reversed: keep them as published, clip them to the image, or drop their rows.
    Unset: keep."""


@dataclass
class EvaluationDatasetConfig:
    """One entry of `evaluation_datasets`; its key NAME is a registered benchmark."""

    eval_file_path: str = "???"
    """File or folder with the questions."""
    img_path: str | None = None
    """Folder of the images. Unset: the working directory."""
    batch_size: int = option(10, at_least=1)
    """Number of questions that are answered together."""
    max_new_tokens: int = option(20, at_least=1)
    """Most tokens of an answer."""
    pictures: str | None = option(choices=PICTURES)
    """Overrides `model.pictures`. If both are unset: as_stored."""
    only_ids: str | None = None
    """File with the ids of the questions to ask, one a line or a JSON list. Unset: all questions."""


SECTIONS: dict[str, type] = {
    "run": RunConfig,
    "model": ModelConfig,
    "preprocess": PreprocessConfig,
    "datasets": DatasetConfig,
    "evaluation_datasets": EvaluationDatasetConfig,
}
NAMED_SECTIONS = ("datasets", "evaluation_datasets")
"""These hold names, each with the section's options."""


def option_at(path: Sequence[str]) -> Option | None:
    """Return the option at a path such as ("run", "seed"), or None where the schema declares no option."""
    section, found = SECTIONS.get(path[0]) if path else None, None
    for key in path[2 if path and path[0] in NAMED_SECTIONS else 1 :]:
        found = options_of(section).get(key) if section else None
        section = found.section if found else None
    return found
