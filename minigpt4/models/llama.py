"""The Llama language model: loaded through transformers or drawn at random, frozen, with LoRA through peft."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.utils import logging as transformers_logging

from minigpt4.common.dist_utils import is_main_process
from minigpt4.common.downloads import UnreachableError, from_hub, is_hub_id
from minigpt4.common.llama_folder import SIZES
from minigpt4.common.registry import did_you_mean
from minigpt4.models.attention import PACKED, register_packed_attention
from minigpt4.models.lean_layers import make_lean
from minigpt4.models.lora import make_lora_lean

FROZEN_DTYPES = ("auto", "float8")
LLAMA_2_7B: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build_llama(cfg: Any, *, dtype: torch.dtype) -> nn.Module:
    """Return the language model of a `model` section: frozen in `dtype`, with float32 LoRA when `lora_r` > 0.

    Raises: ValueError naming the option when the weights are missing, or this machine cannot load 8 or 4 bits.
    """
    _check_quantised(cfg)
    llama = _random_llama(cfg.llama_config, dtype) if cfg.random_weights else _read_llama(cfg, dtype)
    register_packed_attention()
    llama.set_attn_implementation(PACKED)
    if not (cfg.low_resource or cfg.load_in_4bit):  # those run under autocast, which would widen a fused norm's output
        make_lean(llama)
    # what the folder says of generation (Llama-2-chat samples) must not leak into ours
    llama.generation_config = GenerationConfig()
    llama.requires_grad_(False)
    if cfg.use_grad_checkpoint_llm:
        llama.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return _add_lora(llama, cfg) if cfg.lora_r else llama


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep back what says nothing to a user: progress bars in a file or of other ranks, and a warning for peft."""
    shown = transformers_logging.is_progress_bar_enabled()
    if not (sys.stderr.isatty() and is_main_process()):
        transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def causal_lm(model: nn.Module) -> LlamaForCausalLM:
    """Return the causal language model inside, whether or not it carries LoRA."""
    return cast(LlamaForCausalLM, model.get_base_model() if isinstance(model, PeftModel) else model)


def language_autocast(llama: Any, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context of a language model: without autocast where all its weights have 16 bits."""
    if llama.lm_head.weight.dtype == torch.float32 or getattr(llama, "is_quantized", False):
        return contextlib.nullcontext()
    return without_autocast(device)


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context without autocast."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _random_llama(sizes: Mapping[str, Any], dtype: torch.dtype) -> LlamaForCausalLM:
    """Return a model of Llama-2-7b's sizes, or of those given over them, that reads no file."""
    known = LlamaConfig().to_dict()
    for name in sizes:
        if name not in known:
            raise ValueError(f"model.llama_config.{name}: no such size{did_you_mean(name, known)}")
        if name in SIZES and not (isinstance(sizes[name], int) and sizes[name] > 0):
            raise ValueError(f"model.llama_config.{name}: expected at least 1, got {sizes[name]!r}")
    heads = {"num_key_value_heads": sizes["num_attention_heads"]} if "num_attention_heads" in sizes else {}
    try:
        config = LlamaConfig(**{**LLAMA_2_7B, **heads, **sizes})
    except Exception as error:  # what it raises depends on the release of transformers
        raise ValueError(f"model.llama_config: {dict(sizes)}: {' '.join(str(error).split())}") from error
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # weights are made in their dtype, where float32 ones might not fit first
    try:
        llama = LlamaForCausalLM._from_config(config, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(default)
    if llama.lm_head.weight.is_meta:  # weights can be drawn later, but these frequencies are computed
        with torch.device("cpu"):
            llama.model.rotary_emb = LlamaRotaryEmbedding(config)
    return llama


def _read_llama(cfg: Any, dtype: torch.dtype) -> LlamaForCausalLM:
    """Return the model of a folder or a hub id, from safetensors where there are any."""
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    if cfg.low_resource or cfg.load_in_4bit:
        options |= _quantised(cfg, dtype)

    name = str(cfg.llama_model)

    def read(local_only: bool) -> Any:
        how = {**options, "output_loading_info": True, "local_files_only": local_only}
        with quiet_libraries():
            return LlamaForCausalLM.from_pretrained(name, **how)

    try:
        loaded = from_hub("model.llama_model", name, read) if is_hub_id(name) else read(True)
    except UnreachableError:
        raise
    except Exception as error:  # what a damaged folder raises depends on where it is damaged
        where = "" if Path(name).is_dir() else ", which is no folder here"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"model.llama_model: cannot load {cfg.llama_model}{where}: {reason}") from error
    llama, info = loaded
    if info["missing_keys"]:  # transformers would have drawn them at random
        raise ValueError(f"model.llama_model: {cfg.llama_model} lacks {sorted(info['missing_keys'])}")
    return llama


def _quantised(cfg: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Return how weights are read in 8 or 4 bits, onto this process's GPU.

    A process alone reads those of 8 bits onto the GPU of `device_8bit`.
    """
    from transformers import BitsAndBytesConfig

    if cfg.low_resource:
        alone = int(os.environ.get("WORLD_SIZE", 1)) == 1
        where = cfg.device_8bit if alone else torch.cuda.current_device()
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": {"": where}}
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": four_bits, "device_map": {"": torch.cuda.current_device()}}


def _check_quantised(cfg: Any) -> None:
    """Refuse 8-bit and 4-bit weights where they cannot be. Raises: ValueError saying what is missing."""
    if cfg.frozen_dtype not in FROZEN_DTYPES:
        raise ValueError(f"model.frozen_dtype: {' or '.join(FROZEN_DTYPES)}, not {cfg.frozen_dtype}")
    options = {"low_resource": 8, "load_in_4bit": 4}
    asked = {f"model.{name}": bits for name, bits in options.items() if getattr(cfg, name)}
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(asked)}: weights have 8 bits or 4, not both")
    if asked and cfg.frozen_dtype == "float8":
        raise ValueError(f"model.frozen_dtype: float8 quantises 16-bit weights, and {next(iter(asked))} leaves none")
    for name, bits in asked.items():
        if cfg.random_weights:
            raise ValueError(f"{name}: there is nothing to load in {bits} bits with model.random_weights")
        if not torch.cuda.is_available():
            raise ValueError(f"{name}: {bits}-bit weights need CUDA; --options {name}=False")
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise ValueError(f"{name}: {bits}-bit weights need bitsandbytes: pip install bitsandbytes") from error


def _add_lora(llama: LlamaForCausalLM, cfg: Any) -> nn.Module:
    config = LoraConfig(
        r=cfg.lora_r,
        lora_alpha=cfg.lora_alpha,
        lora_dropout=cfg.lora_dropout,
        bias="none",
        target_modules=list(cfg.lora_target_modules),
        task_type="CAUSAL_LM",
    )
    with quiet_libraries():
        model = get_peft_model(llama, config, autocast_adapter_dtype=True)
    make_lora_lean(model)
    return model
