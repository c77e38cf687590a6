"""MiniGPT-v2: a vision tower, four neighbouring patches to one token, a linear layer, a language model with LoRA."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from minigpt4.common.checkpoint import read_checkpoint
from minigpt4.common.model_match import check_match, refuse_mismatch
from minigpt4.common.registry import registry
from minigpt4.conversation.conversation import IMAGE_TOKEN, Batch, ImageTokens, Losses
from minigpt4.conversation.encoder import ChatEncoder
from minigpt4.models.attention import varlen_works
from minigpt4.models.base_model import BaseModel
from minigpt4.models.checkpoint_fit import checkpoint_misfits
from minigpt4.models.decoder import ModelLock, SharedPrefix
from minigpt4.models.decoding import checked_images, decoding_config, generate_tokens, seeded, shared_prefixes
from minigpt4.models.kv_cache import send
from minigpt4.models.language.language_model import LanguageModel
from minigpt4.models.losses import cross_entropy
from minigpt4.models.projector import Projector
from minigpt4.models.scoring import score_choices
from minigpt4.models.vision.vision_tower import VisionTower


@registry.register_model("minigpt_v2")
class MiniGPTv2(BaseModel):
    """The model; frozen weights keep the dtype that they were given, trained ones are float32."""

    checkpoint_url: ClassVar[str] = "https://drive.google.com/file/d/1Vi_E7ZtZXRAQcyz4f8E6LtLh2UXABCmu/view?usp=sharing"
    DEFAULT_CONFIG = "configs/models/minigpt_v2.yaml"

    def __init__(
        self,
        *,
        language_model: LanguageModel,
        vision_tower: VisionTower,
        projector: Projector,
        chat_encoder: ChatEncoder,
        frozen_dtype: str = "auto",
    ) -> None:
        super().__init__()
        # the order decides the order of optimizer state in checkpoints
        self.language_model = language_model
        self.vision_tower = vision_tower
        self.projector = projector
        self.chat_encoder = chat_encoder
        self.freeze_vit = vision_tower.is_frozen
        self.frozen_dtype = frozen_dtype
        self._is_quantised = False
        vision_tower.requires_grad_(not vision_tower.is_frozen)
        self.train()

    @classmethod
    def from_config(cls, cfg: Any, *, dtype: torch.dtype = torch.float32) -> MiniGPTv2:
        """Build from a `model` section, frozen weights in `dtype`, and load its `ckpt` when one is given.

        Nothing moves to a device: everything is made on torch's default one, which may be meta when `random_weights`.

        Raises: ValueError naming the option when sizes disagree, weights are missing or do not fit, or the checkpoint
        was trained with another model; see `check_match`.
        """
        cls._count_image_tokens(cfg)
        state = read_checkpoint(cfg.ckpt, mmap=True) if cfg.ckpt else None
        if state:
            refuse_mismatch(state, cfg, cfg.ckpt)
        chat_encoder = cls.chat_encoder_of(cfg)
        language_model = registry.get_language_model_class(cfg.language_model).from_config(cfg, dtype=dtype)
        num_tokens, vocab_size = chat_encoder.tokenizer.vocab_size, language_model.config.vocab_size
        if num_tokens > vocab_size:
            raise ValueError(f"model.llama_model: its tokenizer has {num_tokens} tokens, its weights {vocab_size}")
        vision_tower = registry.get_vision_tower_class(cfg.vit_model).from_config(cfg, dtype=dtype)
        model = cls(
            language_model=language_model,
            vision_tower=vision_tower,
            projector=Projector(vision_tower.width, language_model.hidden_size),
            chat_encoder=chat_encoder,
            frozen_dtype=cfg.frozen_dtype,
        )
        if state:
            # once more, with the weights that were downloaded for it
            model.mismatches = check_match(state, cfg, cfg.ckpt, is_built=True)
            model.load_trainable_state(state["model"], source=cfg.ckpt)
        return model

    @classmethod
    def chat_encoder_of(cls, model_cfg: Any) -> ChatEncoder:
        """Return the encoder of a `model` section. The tokenizer is read, and no weights are."""
        language_model = registry.get_language_model_class(model_cfg.language_model)
        return ChatEncoder.from_config(
            model_cfg,
            tokenizer=language_model.load_tokenizer(model_cfg),
            chat_format=language_model.chat_format,
            num_image_tokens=cls._count_image_tokens(model_cfg),
        )

    @classmethod
    def checkpoint_misfits(cls, tensors: Mapping[str, Tensor], model_cfg: Any, name: str) -> list[str]:
        """Return why a checkpoint's tensors cannot be loaded: LoRA, widths, names and shapes that differ."""
        return checkpoint_misfits(cls, tensors, model_cfg, name)

    @staticmethod
    def _count_image_tokens(cfg: Any) -> int:
        num_patches = registry.get_vision_tower_class(cfg.vit_model).count_patches(cfg)
        return Projector.count_tokens(num_patches, image_size=cfg.image_size)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.projector.linear.weight.device

    def shardable(self) -> list[torch.nn.Module]:
        """Return the parts of the language model whose frozen weights may be spread, in the order of their use."""
        return self.language_model.shardable()

    def compilable(self, part: str) -> list[torch.nn.Module]:
        """Return for "vit" the blocks of a frozen vision tower, for "llm" the MLPs and norms of the language model.

        Raises: ValueError for another part, or for "vit" where it is trained.
        """
        if part == "vit" and self.freeze_vit:
            return list(self.vision_tower.blocks)
        if part == "llm":
            return self.language_model.compilable()
        raise ValueError(f"run.compile: llm, or vit while model.freeze_vit is true, not {part}")

    def join_weights(self) -> None:
        """Lay end to end the frozen weights of the language model that one product can take."""
        self.language_model.join_weights()

    def quantise_frozen(self) -> None:
        """Keep the frozen weights of the layers in 8 bits with `model.frozen_dtype: float8`, for training alone.

        Those of a vision tower in float32 stay, as do embeddings, head and projection.
        """
        if self.frozen_dtype == "float8":
            self.language_model.quantise()
            self.vision_tower.quantise()
            self._is_quantised = True

    def graph_problems(self, dtype: torch.dtype, device: torch.device) -> list[str]:
        """Return why a padded batch cannot be computed: its examples would see each other without the varlen kernel."""
        return [] if varlen_works(dtype, device) else ["PyTorch's attention over packed examples fails here"]

    def train(self, mode: bool = True) -> MiniGPTv2:
        """Set the mode of the trained parts. Raises: ValueError for training mode after `merge_for_good`."""
        if mode and self.language_model.is_merged_for_good:
            raise ValueError("LoRA was merged into this model's weights for good: it answers, but does not train")
        super().train(mode)
        return self

    def forward(self, batch: Batch) -> Losses:
        """Return the cross-entropy of a batch's targets.

        Every trained parameter gets a gradient, of zero where the batch does not reach it, so that processes agree.
        """
        if not len(batch.input_ids):
            none = batch.input_ids
            return Losses(_zero(self), none.float(), none)
        patches = self.encode_vision(batch.images) if batch.vision_features is None else batch.vision_features
        embeds = self.embed(batch.input_ids, self.projector(patches), positions=batch.image_positions)
        losses = self.target_losses(embeds, batch)
        loss = (losses * batch.weights).sum() / batch.divisor
        if not self.freeze_vit and not len(batch.images):
            loss = loss + _zero(self.vision_tower)
        return Losses(loss, losses.detach(), batch.target_positions)

    def encode_vision(self, images: Tensor) -> Tensor:
        """Return the patches (N, patches, width) float32 of images (N, 3, H, W). N may be 0."""
        patches: Tensor = self.vision_tower(images)
        return patches

    def encode_images(self, images: Tensor) -> ImageTokens:
        """Return the tokens of images (N, 3, H, W). Raises: ValueError for anything but images."""
        if images.ndim != 4:
            raise ValueError(f"encode_images takes images (N, 3, H, W), not a tensor of shape {tuple(images.shape)}")
        return ImageTokens(self.projector(self.encode_vision(images)))

    def embed(self, input_ids: Tensor, image_tokens: Tensor, *, positions: Tensor) -> Tensor:
        """Return input embeddings (T, hidden) of ids (T,), the image tokens (N, tokens, hidden) at their positions."""
        embeds = self.language_model.embed(input_ids.clamp(min=0))
        return embeds.index_copy(0, positions, image_tokens.flatten(0, 1).to(embeds.dtype))

    def target_losses(self, embeds: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each target token, (num_targets,) float32, of input embeddings (T, hidden).

        Logits are computed at these places alone. An example begins with an unlearnt BOS, so that none is predicted
        from the end of the example before.
        """
        targets = batch.target_positions
        hidden = self.language_model.hidden(embeds, batch)
        return cross_entropy(self.language_model.head(hidden[targets - 1]), batch.labels[targets])

    def use_cuda_graphs(self) -> None:
        """Run decode steps from CUDA graphs from now on."""
        self.language_model.cuda_graphs = True

    def merged(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which LoRA is merged into the weights; see `lora.merged`."""
        return self.language_model.merged()

    def merge_for_good(self) -> None:
        """Merge LoRA into the weights, after which the model answers and is not trained."""
        self.language_model.merge_for_good()

    def load_trainable_state(self, state: dict[str, Tensor], source: str = "x.pth") -> None:
        """Copy trained tensors into the model. Raises: ValueError as the base model's, or after `merge_for_good`."""
        if self.language_model.is_merged_for_good:
            raise ValueError(f"{source}: LoRA was merged into this model's weights for good; load it into a new model")
        super().load_trainable_state(state, source)

    @torch.no_grad()
    def generate(
        self,
        images: ImageTokens | Tensor | None,
        prompts: Sequence[str],
        *,
        shown: Sequence[int] | None = None,
        seed: int | None = None,
        repetition_penalty: float = 1,
        **options: Any,
    ) -> list[str]:
        """Return the answer to each prompt.

        `images` are pictures (N, 3, H, W) or what `encode_images` made of them; `shown` says which of them each
        placeholder shows, over all prompts (default: each of them once, in order). Prompts that begin with the same
        image have it read once. `options` are those of `decoding_config`; `seed` makes sampling repeatable and leaves
        torch's generators as they were.

        One thread at a time answers. Raises: ValueError when images and placeholders differ in number, or when the
        model is in training mode and some part would drop out.
        """
        encoder = self.chat_encoder
        config = decoding_config(encoder.tokenizer, end_ids=encoder.end_ids, **options)
        if not prompts:
            return []
        with self._answering(), self.merged():  # merging costs less than LoRA's products in the prefill alone
            embeds, prefixes = self._prepared(images, prompts, shown)
            with seeded(seed, embeds[0].device):
                new_ids = self.language_model.generate(
                    embeds, config, prefixes=prefixes, repetition_penalty=repetition_penalty
                )
        return [encoder.answer(ids) for ids in new_ids.tolist()]

    @torch.no_grad()
    def stream(self, images: ImageTokens | Tensor | None, prompt: str, **options: Any) -> Iterator[str]:
        """Yield the answer to one prompt so far, after every token; `options` of `decoding_config`.

        LoRA is merged only where the caller or `merge_for_good` did it. Other answers may begin between two tokens;
        with CUDA graphs the rest of this one is then computed without them. `images` as in `generate`.
        Raises: ValueError as `generate`.
        """
        encoder = self.chat_encoder
        config = decoding_config(encoder.tokenizer, end_ids=encoder.end_ids, **options)
        with self._answering():
            self._refuse_dropout()
            embeds = self.embed_prompts(images, [prompt])
            tokens = generate_tokens(self.language_model.decoder, embeds, config)
        ids: list[int] = []
        while True:
            with self.language_model.lock:
                token = next(tokens, None)
            if token is None:
                return
            ids.append(int(token))
            yield encoder.answer(ids)

    @torch.no_grad()
    def rank(
        self,
        images: ImageTokens | Tensor | None,
        prompts: Sequence[str],
        choices: Sequence[Sequence[str]],
        *,
        shown: Sequence[int] | None = None,
    ) -> list[list[int]]:
        """Return for each prompt the indices of its choices, most likely first, ties in the order given.

        A choice's score is the sum of the losses of its tokens, end_sym included, over one less than the tokens of its
        whole sequence. It does not depend on what else is ranked in the same call. `images`, `shown` as in `generate`.

        Raises: ValueError as `generate`, or when prompts and choices differ in number.
        """
        encoder = self.chat_encoder
        if len(prompts) != len(choices):
            raise ValueError(f"{len(prompts)} prompts but {len(choices)} lists of choices")
        ids = [[encoder.tokenizer.encode(choice + encoder.chat_format.end) for choice in row] for row in choices]
        with self._answering(), self.merged():
            embeds, prefixes = self._prepared(images, prompts, shown)
            scores = score_choices(self.language_model, embeds, ids, prefixes=prefixes)
        return [sorted(range(len(row)), key=row.__getitem__) for row in scores]

    def embed_prompts(
        self,
        images: ImageTokens | Tensor | None,
        prompts: Sequence[str],
        shown: Sequence[int] | None = None,
        *,
        asked: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """Return each prompt's input embeddings, (tokens, hidden); `images` and `shown` as in `generate`.

        `asked` are the ids (tokens,) of the prompts, where they are known. Nothing waits for the device.
        """
        asked = [self.chat_encoder.prompt_ids(prompt) for prompt in prompts] if asked is None else asked
        shown = checked_images(prompts, 0 if images is None else len(images), shown)
        if not asked:
            return []
        device = self.device
        if not isinstance(images, ImageTokens):
            images = self.encode_images((torch.empty(0, 3, 1, 1) if images is None else images).to(device))
        image_tokens = images.values.to(device)
        ids = torch.cat(list(asked))
        positions = (ids == IMAGE_TOKEN).nonzero().squeeze(1)  # looked for on the CPU
        packed, positions, chosen = (send(x, device) for x in (ids, positions, torch.tensor(shown, dtype=torch.int64)))
        if list(shown) != list(range(len(image_tokens))):
            image_tokens = image_tokens[chosen]
        return list(self.embed(packed, image_tokens, positions=positions).split([len(one) for one in asked]))

    def _prepared(
        self, images: ImageTokens | Tensor | None, prompts: Sequence[str], shown: Sequence[int] | None
    ) -> tuple[list[Tensor], list[SharedPrefix] | None]:
        """Return the embeddings of prompts, and the beginnings that several of them share."""
        self._refuse_dropout()
        asked = [self.chat_encoder.prompt_ids(prompt) for prompt in prompts]
        return self.embed_prompts(images, prompts, shown, asked=asked), shared_prefixes(prompts, asked, shown)

    def _answering(self) -> ModelLock:
        """Return the lock under which a model answers. Raises: ValueError when it was quantised for training."""
        if self._is_quantised:
            raise ValueError("model.frozen_dtype: float8 is for training; load the model with auto to answer")
        return self.language_model.lock

    def _refuse_dropout(self) -> None:
        """Raise ValueError when the model is in training mode and some part drops out; merged LoRA does not."""
        idle: set[int] = set()
        for name, module in self.named_modules() if self.training else ():
            if getattr(module, "merged", None) is True:
                idle.update(map(id, module.modules()))
            rate = getattr(module, "drop_prob", getattr(module, "p", 0))  # a DropPath of timm, or a Dropout
            if module.training and isinstance(rate, float) and rate > 0 and id(module) not in idle:
                raise ValueError(
                    f"the model is in training mode, where {name} drops out; call eval() before it answers"
                )


def _zero(module: torch.nn.Module) -> Tensor:
    """Return zero as a function of all trained parameters of a module."""
    return torch.stack([(weight * 0).sum() for weight in module.parameters() if weight.requires_grad]).sum()
