"""MiniGPT-v2: a frozen EVA ViT, four neighbouring patches to one token, a linear layer, Llama with LoRA."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from timm.models.eva import Eva
from torch import Tensor, nn

from minigpt4.common.checkpoint import read_checkpoint
from minigpt4.common.model_match import check_match, refuse_mismatch
from minigpt4.common.registry import registry
from minigpt4.common.schema import PATCHES_PER_TOKEN
from minigpt4.conversation.chat_format import LLAMA_2
from minigpt4.conversation.conversation import IMAGE_TOKEN, Batch, Losses
from minigpt4.conversation.encoder import ChatEncoder
from minigpt4.conversation.tokenizer import ByteTokenizer, load_tokenizer
from minigpt4.models import answering
from minigpt4.models.attention import PACKED, varlen_works
from minigpt4.models.base_model import BaseModel
from minigpt4.models.decoder import Decoder
from minigpt4.models.eva_vit import build_visual_encoder, vision_attention
from minigpt4.models.float8 import quantise_vit
from minigpt4.models.lean_layers import join_weights, quantise_layers
from minigpt4.models.llama import build_llama, causal_lm, language_autocast, without_autocast
from minigpt4.models.lora import LowPrecisionCopies
from minigpt4.models.losses import cross_entropy
from minigpt4.models.merged_lora import merge_for_good, merged


class Float32LayerNorm(nn.LayerNorm):
    """A LayerNorm over float32 values, whatever comes in."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input as float32."""
        return super().forward(input.float())


@registry.register_model("minigpt_v2")
class MiniGPTv2(BaseModel):
    """The model; what is frozen stays in the dtype it was given, what is trained is float32."""

    DEFAULT_CONFIG = "configs/models/minigpt_v2.yaml"

    def __init__(
        self,
        *,
        llama_model: nn.Module,
        visual_encoder: Eva,
        chat_encoder: ChatEncoder,
        freeze_vit: bool = True,
        frozen_dtype: str = "auto",
    ) -> None:
        super().__init__()
        width = visual_encoder.embed_dim
        hidden_size = causal_lm(llama_model).config.hidden_size
        # the order decides the order of optimizer state in checkpoints
        self.llama_model = llama_model
        self.visual_encoder = visual_encoder
        self.ln_vision = Float32LayerNorm(width)
        self.llama_proj = nn.Linear(width * PATCHES_PER_TOKEN, hidden_size)
        self.chat_encoder = chat_encoder
        self.freeze_vit = freeze_vit
        self.frozen_dtype = frozen_dtype
        self._is_quantised = False
        self._copies: LowPrecisionCopies | None = None
        self._is_merged_for_good = False
        self.cuda_graphs = False
        self._decoder: Decoder | None = None
        self.visual_encoder.requires_grad_(not freeze_vit)
        self.ln_vision.requires_grad_(not freeze_vit)
        self.train()

    @classmethod
    def from_config(cls, cfg: Any, *, dtype: torch.dtype = torch.float32) -> MiniGPTv2:
        """Build from a `model` section, frozen weights in `dtype`, and load its `ckpt` when one is given.

        Nothing moves to a device: everything is made on torch's default one, which may be meta when `random_weights`.

        Raises: ValueError naming the option when sizes disagree, weights are missing or do not fit, or the checkpoint
        was trained with another model; see `check_match`.
        """
        num_patches = (cfg.image_size // cfg.vit.patch_size) ** 2
        if cfg.image_size % cfg.vit.patch_size or num_patches % PATCHES_PER_TOKEN:
            raise ValueError(
                f"model.image_size: {cfg.image_size} does not give a multiple of {PATCHES_PER_TOKEN} patches of "
                f"{cfg.vit.patch_size} pixels a side"
            )
        state = read_checkpoint(cfg.ckpt, mmap=True) if cfg.ckpt else None
        if state:
            refuse_mismatch(state, cfg, cfg.ckpt)
        chat_encoder = cls.chat_encoder_of(cfg)
        llama_model = build_llama(cfg, dtype=dtype)
        num_tokens, vocab_size = chat_encoder.tokenizer.vocab_size, causal_lm(llama_model).config.vocab_size
        if num_tokens > vocab_size:
            raise ValueError(f"model.llama_model: its tokenizer has {num_tokens} tokens, its weights {vocab_size}")
        model = cls(
            llama_model=llama_model,
            visual_encoder=build_visual_encoder(cfg, dtype),
            chat_encoder=chat_encoder,
            freeze_vit=cfg.freeze_vit,
            frozen_dtype=cfg.frozen_dtype,
        )
        if state:
            model.mismatches = check_match(state, cfg, cfg.ckpt)  # also with weights that were downloaded for it
            model.load_trainable_state(state["model"], source=cfg.ckpt)
        return model

    @classmethod
    def chat_encoder_of(cls, model_cfg: Any) -> ChatEncoder:
        """Return the encoder of a `model` section. The tokenizer is read, and no weights are."""
        tokenizer = ByteTokenizer() if model_cfg.random_weights else load_tokenizer(model_cfg.llama_model)
        num_image_tokens = (model_cfg.image_size // model_cfg.vit.patch_size) ** 2 // PATCHES_PER_TOKEN
        return ChatEncoder.from_config(
            model_cfg, tokenizer=tokenizer, chat_format=LLAMA_2, num_image_tokens=num_image_tokens
        )

    def shardable(self) -> list[nn.Module]:
        """Return the parts of the language model whose frozen weights may be spread, in the order of their use."""
        llama = causal_lm(self.llama_model)
        return [llama.get_input_embeddings(), *llama.model.layers, llama.lm_head]

    def compilable(self, part: str) -> list[nn.Module]:
        """Return for "vit" the blocks of a frozen vision encoder, for "llm" the MLPs and norms of the language model.

        Raises: ValueError for another part, or for "vit" where it is trained.
        """
        if part == "vit" and self.freeze_vit:
            return list(self.visual_encoder.blocks)
        if part == "llm":
            names = ("input_layernorm", "post_attention_layernorm", "mlp")
            return [getattr(layer, name) for layer in causal_lm(self.llama_model).model.layers for name in names]
        raise ValueError(f"run.compile: llm, or vit while model.freeze_vit is true, not {part}")

    def join_weights(self) -> None:
        """Lay end to end the frozen weights of the language model that one product can take."""
        join_weights(self.llama_model)

    def quantise_frozen(self) -> None:
        """Keep the frozen weights of the layers in 8 bits with `model.frozen_dtype: float8`, for training alone.

        Those of a vision encoder in float32 stay, as do embeddings, head and projection.
        """
        if self.frozen_dtype != "float8":
            return
        quantise_layers(causal_lm(self.llama_model))
        if self.freeze_vit and self.visual_encoder.patch_embed.proj.weight.dtype != torch.float32:
            quantise_vit(self.visual_encoder.blocks)
        self._is_quantised = True

    def graph_problems(self, dtype: torch.dtype, device: torch.device) -> list[str]:
        """Return why a padded batch cannot be computed: its examples would see each other without the varlen kernel."""
        return [] if varlen_works(dtype, device) else ["PyTorch's attention over packed examples fails here"]

    def train(self, mode: bool = True) -> MiniGPTv2:
        """Set the mode of what is trained; a frozen vision encoder is always in eval mode.

        Raises: ValueError when LoRA was merged for good and is to be trained.
        """
        if mode and self._is_merged_for_good:
            raise ValueError("LoRA was merged into this model's weights for good: it answers, but does not train")
        super().train(mode)
        if self.freeze_vit:
            self.visual_encoder.eval()
            self.ln_vision.eval()
        return self

    def forward(self, batch: Batch) -> Losses:
        """Return the cross-entropy of a batch's targets.

        Every trained parameter gets a gradient, of zero where the batch does not reach it, so that processes agree.
        """
        if not len(batch.input_ids):
            none = batch.input_ids
            return Losses(self._zero(""), none.float(), none)
        features = self.encode_vision(batch.images) if batch.vision_features is None else batch.vision_features
        image_tokens = self.project(features)
        embeds = self.embed(batch.input_ids, image_tokens, places=batch.image_positions)
        losses, places = self.target_losses(embeds, batch)
        loss = (losses * batch.weights).sum() / batch.divisor
        if not self.freeze_vit and not len(batch.images):
            loss = loss + self._zero("visual_encoder.") + self._zero("ln_vision.")
        return Losses(loss, losses.detach(), places)

    def encode_img(self, images: Tensor) -> Tensor:
        """Return the tokens (N, tokens, hidden) of images (N, 3, H, W).

        N may be 0: projecting no rows still gives the projection a gradient, of zero.
        Raises: ValueError for anything but images; `project` takes what `encode_vision` made of them.
        """
        if images.ndim != 4:
            raise ValueError(f"encode_img takes images (N, 3, H, W), not a tensor of shape {tuple(images.shape)}")
        return self.project(self.encode_vision(images))

    def project(self, patches: Tensor) -> Tensor:
        """Return the tokens (N, tokens, hidden) of patches (N, patches, width); neighbours become one token."""
        num_tokens = patches.shape[1] // PATCHES_PER_TOKEN
        return self.llama_proj(patches.reshape(len(patches), num_tokens, self.llama_proj.in_features))

    def encode_vision(self, images: Tensor) -> Tensor:
        """Return the patches (N, patches, width) float32 of images (N, 3, H, W). N may be 0."""
        if not len(images):  # timm fails on none
            return images.new_zeros(0, PATCHES_PER_TOKEN, self.visual_encoder.embed_dim, dtype=torch.float32)
        with torch.inference_mode() if self.freeze_vit else contextlib.nullcontext():
            seen = self._run_vit(images)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_vit):
            return self.ln_vision(seen)[:, 1:]

    def embed(self, input_ids: Tensor, image_tokens: Tensor, *, places: Tensor | None = None) -> Tensor:
        """Return input embeddings (T, hidden) of ids (T,), the image tokens (N, tokens, hidden) in their places.

        Without `places` these are looked for, which waits for the device.
        """
        llama = causal_lm(self.llama_model)
        embeds = llama.get_input_embeddings()(input_ids.clamp(min=0))
        places = (input_ids == IMAGE_TOKEN).nonzero().squeeze(1) if places is None else places
        return embeds.index_copy(0, places, image_tokens.flatten(0, 1).to(embeds.dtype))

    def target_losses(self, embeds: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of each target token, (num_targets,) float32, and where in the stream each stands.

        Logits are computed at these places alone. An example begins with an unlearnt BOS, so that none is predicted
        from the end of the example before.
        """
        llama = causal_lm(self.llama_model)
        assert llama.config._attn_implementation == PACKED, "another attention would mix the examples"
        with language_autocast(llama, embeds.device), self._low_precision_copies():
            hidden = llama.model(
                inputs_embeds=embeds[None],
                # of four dimensions, so that transformers makes none of its own; the packed attention needs none
                attention_mask=embeds.new_empty(1, 1, 1, 1),
                position_ids=batch.position_ids[None],
                use_cache=False,
                sizes=batch.sizes,
                bounds=batch.bounds,
            ).last_hidden_state[0]
            logits = llama.lm_head(hidden[batch.target_positions - 1])
        return cross_entropy(logits, batch.labels[batch.target_positions]), batch.target_positions

    @property
    def decoder(self) -> Decoder:
        """What runs the language model when it answers."""
        if self._decoder is None:
            self._decoder = Decoder(causal_lm(self.llama_model), cuda_graphs=self.cuda_graphs)
        return self._decoder

    def merged(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which LoRA is merged into the weights; see `merged_lora.merged`."""
        return merged(self)

    def merge_for_good(self) -> None:
        """Merge LoRA into the weights, after which the model answers and is not trained."""
        merge_for_good(self)
        self._is_merged_for_good = True

    def load_trainable_state(self, state: dict[str, Tensor], source: str = "x.pth") -> None:
        """Copy trained tensors into the model. Raises: ValueError as the base model's, or after `merge_for_good`."""
        if self._is_merged_for_good:
            raise ValueError(f"{source}: LoRA was merged into this model's weights for good; load it into a new model")
        super().load_trainable_state(state, source)

    def generate(self, images: Tensor | None, prompts: Sequence[str], **options: Any) -> list[str]:
        """Return an answer for each prompt; see `answering.generate`."""
        self._check_answers()
        return answering.generate(self, images, prompts, **options)

    def rank(
        self, images: Tensor | None, prompts: Sequence[str], choices: Sequence[Sequence[str]], **options: Any
    ) -> list[list[int]]:
        """Return the order of each prompt's choices, best first; see `answering.rank`."""
        self._check_answers()
        return answering.rank(self, images, prompts, choices, **options)

    def _check_answers(self) -> None:
        if self._is_quantised:
            raise ValueError("model.frozen_dtype: float8 is for training; a model answers that was not quantised")

    def _zero(self, prefix: str) -> Tensor:
        """Return zero as a function of all trained parameters whose name begins with `prefix`."""
        parts = [(parameter * 0).sum() for name, parameter in self.trainable() if name.startswith(prefix)]
        return torch.stack(parts).sum()

    def _low_precision_copies(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which LoRA is computed from 16-bit copies, where the language model has 16 bits."""
        dtype = causal_lm(self.llama_model).lm_head.weight.dtype
        if dtype not in (torch.float16, torch.bfloat16):
            return contextlib.nullcontext()
        if self._copies is None or self._copies.device not in (None, self.llama_proj.weight.device):
            self._copies = LowPrecisionCopies(self.llama_model, dtype)
        return self._copies

    def _run_vit(self, images: Tensor) -> Tensor:
        """Run the vision encoder. 16-bit weights run without autocast, which would widen its norms for nothing."""
        dtype = self.visual_encoder.patch_embed.proj.weight.dtype
        with vision_attention(images.device):
            if dtype == torch.float32:
                return self.visual_encoder(images)
            with without_autocast(images.device):
                return self.visual_encoder(images.to(dtype))
