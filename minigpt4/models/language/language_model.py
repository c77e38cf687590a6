"""A causal language model of transformers: frozen, with LoRA, trained on packed streams, answering from a KV cache."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, LogitsProcessorList
from transformers.utils import logging as transformers_logging

from minigpt4.common.dist_utils import is_main_process
from minigpt4.common.downloads import UnreachableError, from_hub, is_hub_id
from minigpt4.common.registry import did_you_mean
from minigpt4.common.weight_files import config_of, local_folder
from minigpt4.conversation.chat_format import ChatFormat
from minigpt4.conversation.conversation import Batch
from minigpt4.conversation.tokenizer import ByteTokenizer, Tokenizer, TransformersTokenizer
from minigpt4.models.attention import PACKED, register_packed_attention
from minigpt4.models.decoder import Decoder, ModelLock, SharedPrefix
from minigpt4.models.decoding import RepetitionPenalty, generate_tokens
from minigpt4.models.kv_cache import send
from minigpt4.models.lora import FusedLoraLinear, LowPrecisionCopies, merge_for_good, merged

_COMPILABLE = ("input_layernorm", "post_attention_layernorm", "mlp")
_UNSUPPORTED = ("attn_logit_softcapping", "final_logit_softcapping", "logits_scaling", "logit_scale")
"""Settings of a family that change attention or logits in a way that the packed attention and `head` do not follow."""


class LanguageModel(nn.Module):
    """The base of language models; a new family of transformers needs names alone.

    A subclass is registered, with its `chat_format` and its `model_type`, the name of the family in transformers.
    `random_sizes` are the sizes with `model.random_weights`; `model.llama_config` replaces some of them. A family with
    faster parts, or with weights of fewer bits, overrides `check_options`, `reading_options`, `adapt`, `join_weights`
    and `quantise`.

    A folder of `model.llama_model` must have one of the `tokenizer_files`, and the `sizes` in its config.json;
    `weights_url` is where a user downloads it.

    `model` is the causal language model of transformers, or peft's model around it. A thread holds `lock` while it
    computes with a KV cache or merges LoRA.

    Raises: ValueError when the family computes attention or logits in a way that is not supported.
    """

    chat_format: ClassVar[ChatFormat]
    model_type: ClassVar[str]
    model_class: ClassVar[Any] = AutoModelForCausalLM
    random_sizes: ClassVar[Mapping[str, Any]] = {}
    weights_url: ClassVar[str] = ""
    tokenizer_files: ClassVar[Sequence[str]] = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    sizes: ClassVar[Sequence[str]] = (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    )

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.cuda_graphs = False
        self._decoder: Decoder | None = None
        self._copies: LowPrecisionCopies | None = None
        self.is_merged_for_good = False
        """Whether LoRA has no weights apart any more."""
        self.lock = ModelLock()
        self._merging = contextlib.ExitStack()
        self._num_merged = 0
        for name in _UNSUPPORTED:
            if getattr(self.config, name, None) not in (None, 1, 1.0):
                raise ValueError(f"model.llama_model: models with {name} are not supported")

    @classmethod
    def load_tokenizer(cls, cfg: Any) -> Tokenizer:
        """Return the tokenizer of a `model` section; no weights are read.

        Raises: ValueError naming `model.llama_model` when it cannot be read.
        """
        return ByteTokenizer() if cfg.random_weights else TransformersTokenizer(str(cfg.llama_model))

    @classmethod
    def from_config(cls, cfg: Any, *, dtype: torch.dtype) -> LanguageModel:
        """Build from a `model` section: frozen in `dtype`, with float32 LoRA when `lora_r` > 0.

        Raises: ValueError naming the option when weights are missing, or this machine or family cannot do as it says.
        """
        cls.check_options(cfg)
        return cls._prepared(cls._random(cfg.llama_config, dtype) if cfg.random_weights else cls._read(cfg, dtype), cfg)

    @classmethod
    def without_weights(cls, cfg: Any) -> LanguageModel | None:
        """Return the model of a `model` section on the meta device; None when its config.json is not here yet.

        Raises: ValueError naming the option when there is no model of these sizes.
        """
        sizes: Mapping[str, Any] = cfg.llama_config
        if not cfg.random_weights:
            known = AutoConfig.for_model(cls.model_type).to_dict()
            content = config_of(local_folder(str(cfg.llama_model)))
            sizes = {name: value for name, value in content.items() if name in known and name != "model_type"}
        if not cfg.random_weights and not all(name in sizes for name in cls.sizes):
            return None
        with torch.device("meta"):
            return cls._prepared(cls._random(sizes, torch.float32), cfg)

    @classmethod
    def wrong_options(cls, cfg: Any) -> Iterator[str]:
        """Yield what is wrong with the options of a `model` section, before any file is read."""
        yield from ()

    @classmethod
    def _prepared(cls, model: Any, cfg: Any) -> LanguageModel:
        """Return a model of transformers, frozen and with LoRA."""
        if not model._supports_attention_backend:  # it would ignore the packed attention and mix the examples
            raise ValueError(f"model.llama_model: {type(model).__name__} of transformers takes no other attention")
        register_packed_attention()
        model.set_attn_implementation(PACKED)
        cls.adapt(model, cfg)
        # what the folder says of generation (Llama-2-chat samples) must not leak into ours
        model.generation_config = GenerationConfig()
        model.requires_grad_(False)
        if cfg.use_grad_checkpoint_llm:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return cls(_with_lora(model, cfg) if cfg.lora_r else model)

    @classmethod
    def check_options(cls, cfg: Any) -> None:
        """Check that the family supports the options. Raises: ValueError naming those that it does not."""
        for name in ("low_resource", "load_in_4bit"):
            if cfg[name]:
                raise ValueError(
                    f"model.{name}: {cls.__name__} has no weights of 8 or 4 bits; --options model.{name}=False"
                )
        if cfg.frozen_dtype != "auto":
            raise ValueError(f"model.frozen_dtype: auto for {cls.__name__}, not {cfg.frozen_dtype}")

    @classmethod
    def reading_options(cls, cfg: Any, dtype: torch.dtype) -> dict[str, Any]:
        """Return further options of `from_pretrained`."""
        return {}

    @classmethod
    def adapt(cls, model: Any, cfg: Any) -> None:
        """Change the parts of a causal language model before it is frozen and gets LoRA."""

    @property
    def causal_lm(self) -> Any:
        """The causal language model inside, whether or not it carries LoRA."""
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @property
    def config(self) -> Any:
        """The sizes and settings of the model in transformers."""
        return self.causal_lm.config

    @property
    def hidden_size(self) -> int:
        """The width of embeddings and hidden states."""
        return int(self.config.hidden_size)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The decoder layers."""
        layers: Sequence[nn.Module] = self.causal_lm.base_model.layers
        return layers

    @property
    def dtype(self) -> torch.dtype:
        """The type of the head's weights, which is that of all frozen weights unless some have 8 or 4 bits."""
        dtype: torch.dtype = self.causal_lm.get_output_embeddings().weight.dtype
        return dtype

    @property
    def decoder(self) -> Decoder:
        """What runs the model with a KV cache: new_cache, prefill, forward_packed and decode_step."""
        if self._decoder is None or self._decoder.cuda_graphs != self.cuda_graphs:
            self._decoder = Decoder(self.causal_lm, cuda_graphs=self.cuda_graphs)
        return self._decoder

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings (T, hidden) of ids (T,)."""
        embeds: Tensor = self.causal_lm.get_input_embeddings()(ids)
        return embeds

    def hidden(self, embeds: Tensor, batch: Batch) -> Tensor:
        """Return the hidden states (T, hidden) of a packed batch's embeddings (T, hidden).

        An example sees itself alone. Raises: ValueError when one is longer than a window that attention slides over.
        """
        self.decoder.check_window(max(batch.seq_lens))
        with self._low_precision_copies(embeds.device):
            return self.decoder.run_modules(embeds, batch.position_ids, sizes=batch.seq_lens, bounds=batch.cu_seqlens)

    def head(self, hidden: Tensor) -> Tensor:
        """Return the logits (N, vocabulary) of hidden states (N, hidden)."""
        return self.decoder.head(hidden)

    def generate(
        self,
        embeds: Sequence[Tensor],
        config: GenerationConfig,
        *,
        prefixes: Sequence[SharedPrefix] | None = None,
        repetition_penalty: float = 1,
    ) -> Tensor:
        """Return the new token ids (B, at most max_new_tokens) int64 that follow prompts (tokens, hidden)."""
        if (config.num_beams or 1) == 1:
            how: Any = {"prefixes": prefixes, "repetition_penalty": repetition_penalty}
            return torch.stack(list(generate_tokens(self.decoder, embeds, config, **how)), dim=1)
        padded = pad_sequence(list(embeds), batch_first=True, padding_side="left")
        lengths = send(torch.tensor([len(one) for one in embeds]), padded.device)
        mask = torch.arange(padded.shape[1], device=lengths.device) >= padded.shape[1] - lengths[:, None]
        processors = LogitsProcessorList()
        if repetition_penalty != 1:
            processors.append(RepetitionPenalty(float(repetition_penalty), bos_id=config.bos_token_id))
        ids: Tensor = self.causal_lm.generate(
            inputs_embeds=padded, attention_mask=mask.long(), generation_config=config, logits_processor=processors
        )
        return ids

    def shardable(self) -> list[nn.Module]:
        """Return the parts whose frozen weights may be spread, in the order of their use; some may share a weight."""
        return [self.causal_lm.get_input_embeddings(), *self.layers, self.causal_lm.get_output_embeddings()]

    def compilable(self) -> list[nn.Module]:
        """Return the MLPs and norms of the layers, for torch.compile."""
        return [getattr(layer, name) for layer in self.layers for name in _COMPILABLE if hasattr(layer, name)]

    def join_weights(self) -> None:
        """Lay end to end the frozen weights that one product can take; called once they are where they stay."""

    def quantise(self) -> None:
        """Keep the frozen weights of the layers in 8 bits, for training alone; see `check_options`."""

    @contextlib.contextmanager
    def merged(self) -> Iterator[None]:
        """Hold LoRA merged into the weights until the last of its users, who may be threads, leaves.

        See `lora.merged`.
        """
        with self.lock:
            if not self._num_merged:
                self._merging.enter_context(merged(self.model))
            self._num_merged += 1
        try:
            yield
        finally:
            with self.lock:
                self._num_merged -= 1
                if not self._num_merged:
                    self._merging.close()

    def merge_for_good(self) -> None:
        """Merge LoRA into the weights, after which the model answers and is not trained."""
        merge_for_good(self.model)
        self.is_merged_for_good = True

    def _low_precision_copies(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        """Return the context in which LoRA is computed from 16-bit copies, where the model has 16 bits."""
        dtype = self.dtype
        if dtype not in (torch.float16, torch.bfloat16):
            return contextlib.nullcontext()
        if self._copies is None or self._copies.device not in (None, device):
            self._copies = LowPrecisionCopies(self.model, dtype)
        return self._copies

    @classmethod
    def _random(cls, sizes: Mapping[str, Any], dtype: torch.dtype) -> Any:
        """Return a model of the family's random sizes, or of those given over them, that reads no file."""
        known = AutoConfig.for_model(cls.model_type).to_dict()
        for name in sizes:
            if name not in known:
                raise ValueError(f"model.llama_config.{name}: no such size{did_you_mean(name, known)}")
            if name in cls.sizes and not (isinstance(sizes[name], int) and sizes[name] > 0):
                raise ValueError(f"model.llama_config.{name}: expected at least 1, got {sizes[name]!r}")
        heads = {"num_key_value_heads": sizes["num_attention_heads"]} if "num_attention_heads" in sizes else {}
        try:
            config = AutoConfig.for_model(cls.model_type, **{**cls.random_sizes, **heads, **sizes})
        except Exception as error:  # what it raises depends on the release of transformers
            raise ValueError(f"model.llama_config: {dict(sizes)}: {' '.join(str(error).split())}") from error
        # weights are made in their dtype, where float32 ones might not fit first
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
        rotary = getattr(model.base_model, "rotary_emb", None)
        if rotary is not None and rotary.inv_freq.is_meta:  # weights can be drawn later, but frequencies are computed
            with torch.device("cpu"):
                model.base_model.rotary_emb = type(rotary)(config)
        return model

    @classmethod
    def _read(cls, cfg: Any, dtype: torch.dtype) -> Any:
        """Return the model of a folder or a hub id, from safetensors where there are any."""
        options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa", **cls.reading_options(cfg, dtype)}
        name = str(cfg.llama_model)

        def read(local_only: bool) -> Any:
            how = {**options, "output_loading_info": True, "local_files_only": local_only}
            with quiet_libraries():
                return cls.model_class.from_pretrained(name, **how)

        try:
            model, info = from_hub("model.llama_model", name, read) if is_hub_id(name) else read(True)
        except UnreachableError:
            raise
        except Exception as error:  # what a damaged folder raises depends on where it is damaged
            where = "" if Path(name).is_dir() else ", which is no folder here"
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"model.llama_model: cannot load {cfg.llama_model}{where}: {reason}") from error
        if info["missing_keys"]:  # transformers would have drawn them at random
            raise ValueError(f"model.llama_model: {cfg.llama_model} lacks {sorted(info['missing_keys'])}")
        if model.config.model_type != cls.model_type:
            raise ValueError(
                f"model.llama_model: {name} holds a {model.config.model_type}, but model.language_model="
                f"{cfg.language_model} loads a {cls.model_type}"
            )
        return model


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Hide progress bars in a file or of other ranks, and a warning that is meant for peft."""
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


def _with_lora(causal_lm: Any, cfg: Any) -> nn.Module:
    config = LoraConfig(
        r=cfg.lora_r,
        lora_alpha=cfg.lora_alpha,
        lora_dropout=cfg.lora_dropout,
        bias="none",
        target_modules=list(cfg.lora_target_modules),
        task_type="CAUSAL_LM",
    )
    if not getattr(causal_lm, "is_quantized", False):  # layers of 8 and 4 bits stay peft's
        config._register_custom_module({nn.Linear: FusedLoraLinear})
    with quiet_libraries():
        try:
            return get_peft_model(causal_lm, config, autocast_adapter_dtype=True)
        except ValueError as error:
            raise ValueError(f"model.lora_target_modules: {error}") from error
