"""The Llama language model: memory-efficient and fused parts, frozen weights of 8 and 4 bits."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from transformers import LlamaForCausalLM

from minigpt4.common.registry import did_you_mean, registry
from minigpt4.conversation.chat_format import LLAMA_2, ChatFormat
from minigpt4.conversation.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer
from minigpt4.models.language.language_model import LanguageModel
from minigpt4.models.language.llama_layers import join_weights, quantise_layers, use_memory_efficient_layers

FROZEN_DTYPES = ("auto", "float8")
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
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


@registry.register_language_model("llama")
class Llama(LanguageModel):
    """Llama-2-7b-chat, and models of its shape."""

    chat_format: ClassVar[ChatFormat] = LLAMA_2
    model_type: ClassVar[str] = "llama"
    model_class: ClassVar[Any] = LlamaForCausalLM
    random_sizes: ClassVar[Mapping[str, Any]] = LLAMA_2_7B
    weights_url: ClassVar[str] = "https://huggingface.co/meta-llama/Llama-2-7b-chat-hf"
    tokenizer_files: ClassVar[Sequence[str]] = ("tokenizer.model", "tokenizer.json")

    @classmethod
    def load_tokenizer(cls, cfg: Any) -> Tokenizer:
        return ByteTokenizer() if cfg.random_weights else load_tokenizer(cfg.llama_model)

    @classmethod
    def wrong_options(cls, cfg: Any) -> Iterator[str]:
        """Yield the layers of `lora_target_modules` that Llama does not have."""
        for name in cfg.lora_target_modules:
            if name.rpartition(".")[2] not in LINEAR_LAYERS:
                near = did_you_mean(name, LINEAR_LAYERS)
                yield f"model.lora_target_modules: Llama has no layer '{name}'{near} ({', '.join(LINEAR_LAYERS)})"

    @classmethod
    def check_options(cls, cfg: Any) -> None:
        if cfg.frozen_dtype not in FROZEN_DTYPES:
            raise ValueError(f"model.frozen_dtype: {' or '.join(FROZEN_DTYPES)}, not {cfg.frozen_dtype}")
        options = {"low_resource": 8, "load_in_4bit": 4}
        asked = {f"model.{name}": bits for name, bits in options.items() if getattr(cfg, name)}
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)}: weights have 8 bits or 4, not both")
        if asked and cfg.frozen_dtype == "float8":
            raise ValueError(
                f"model.frozen_dtype: float8 quantises 16-bit weights, and {next(iter(asked))} leaves none"
            )
        for name, bits in asked.items():
            if cfg.random_weights:
                raise ValueError(f"{name}: there is nothing to load in {bits} bits with model.random_weights")
            if not torch.cuda.is_available():
                raise ValueError(f"{name}: {bits}-bit weights need CUDA; --options {name}=False")
            try:
                import bitsandbytes  # noqa: F401
            except ImportError as error:
                raise ValueError(f"{name}: {bits}-bit weights need bitsandbytes: pip install bitsandbytes") from error

    @classmethod
    def reading_options(cls, cfg: Any, dtype: torch.dtype) -> dict[str, Any]:
        return _quantised(cfg, dtype) if cfg.low_resource or cfg.load_in_4bit else {}

    @classmethod
    def adapt(cls, model: Any, cfg: Any) -> None:
        # weights of 8 and 4 bits compute under autocast, which would widen a norm's output
        if not (cfg.low_resource or cfg.load_in_4bit):
            use_memory_efficient_layers(model)

    def join_weights(self) -> None:
        join_weights(self.model)

    def quantise(self) -> None:
        quantise_layers(self.causal_lm)


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
