"""The EVA vision tower: built at any size through timm, loaded from its published file."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from timm.models.eva import Eva, EvaAttention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from minigpt4.common.checkpoint import read_tensors
from minigpt4.common.downloads import download_once, downloaded_to
from minigpt4.common.registry import registry
from minigpt4.common.schema import EVA_VIT_G_URL
from minigpt4.common.weight_files import Shapes, misfit
from minigpt4.models.base_model import shapes_of
from minigpt4.models.float8 import quantise_vit
from minigpt4.models.precision import without_autocast
from minigpt4.models.vision.vision_tower import VisionTower

VISION_BACKENDS = (
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
"""In the order in which they are taken."""


class VitSize(Protocol):
    """The sizes that the `model.vit` section carries."""

    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    mlp_ratio: float


class Float32LayerNorm(nn.LayerNorm):
    """A LayerNorm over float32 values, whatever comes in."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised input as float32."""
        return super().forward(input.float())


@registry.register_vision_tower("eva_clip_g")
class EvaTower(VisionTower):
    """EVA without its class token, and a float32 layer norm over its patches."""

    weights_url: ClassVar[str] = EVA_VIT_G_URL

    def __init__(self, vit: Eva, *, is_frozen: bool = True) -> None:
        patches: Any = vit.patch_embed
        super().__init__(
            image_size=patches.img_size[0], num_patches=patches.num_patches, width=vit.embed_dim, is_frozen=is_frozen
        )
        self.vit = vit
        self.ln_vision = Float32LayerNorm(vit.embed_dim)

    @classmethod
    def count_patches(cls, cfg: Any) -> int:
        """Return the number of patches of an image. Raises: ValueError when the image is no whole number of them."""
        if cfg.image_size % cfg.vit.patch_size:
            raise ValueError(
                f"model.image_size: {cfg.image_size} is not a multiple of the {cfg.vit.patch_size} pixels of a patch"
            )
        return int(cfg.image_size // cfg.vit.patch_size) ** 2

    @classmethod
    def weight_shapes(cls, cfg: Any, given: Shapes) -> Shapes:
        """Return the tensors that the file must hold; a position embedding for any square of patches is resized."""
        with torch.device("meta"):
            wanted = shapes_of(build_vit(cfg.vit, image_size=cfg.image_size).state_dict())
        pos_embed = given.get("pos_embed", ())
        if _is_grid(pos_embed) and pos_embed[2] == cfg.vit.embed_dim:
            wanted["pos_embed"] = pos_embed
        return wanted

    @classmethod
    def wrong_options(cls, cfg: Any) -> Iterator[str]:
        """Yield what is wrong with `image_size` and the sizes of `vit`."""
        vit = cfg.vit
        if min(cfg.image_size, vit.patch_size, vit.num_heads) < 1:
            return
        num_patches, rest = divmod(cfg.image_size, vit.patch_size)
        if rest or num_patches % 2:
            multiple = f"a multiple of {2 * vit.patch_size}, two patches of model.vit"
            yield f"model.image_size: expected {multiple}, got {cfg.image_size}"
        if vit.embed_dim % vit.num_heads:
            yield f"model.vit.embed_dim: expected a multiple of num_heads, {vit.num_heads}, got {vit.embed_dim}"

    @classmethod
    def from_config(cls, cfg: Any, *, dtype: torch.dtype) -> EvaTower:
        """Build from a `model` section: float32 when it is trained or `vit_precision` says so, else in `dtype`.

        Raises: ValueError naming the option when its weights are missing or do not fit.
        """
        if cfg.vit_precision == "fp32" or not cfg.freeze_vit:
            dtype = torch.float32
        sizes: dict[str, Any] = {"image_size": cfg.image_size, "drop_path_rate": cfg.drop_path_rate}
        if cfg.random_weights:
            vit = build_vit(cfg.vit, **sizes).to(dtype)
        elif cfg.vit_ckpt:
            vit = load_vit(cfg.vit, cfg.vit_ckpt, dtype=dtype, **sizes)
        else:
            raise ValueError("model.vit_ckpt: give the file or the address of the vision encoder's weights")
        vit.set_grad_checkpointing(bool(cfg.use_grad_checkpoint) and not cfg.freeze_vit)
        return cls(vit, is_frozen=cfg.freeze_vit)

    @property
    def blocks(self) -> Sequence[nn.Module]:  # type: ignore[override]
        """The layers of the transformer."""
        return list(self.vit.blocks)

    def encode(self, images: Tensor) -> Tensor:
        """Return the patches (N, patches, width) float32 of images (N, 3, H, W)."""
        with torch.inference_mode() if self.is_frozen else contextlib.nullcontext():
            seen = self.run_vit(images)
        states: Tensor = self.ln_vision(seen)
        return states[:, 1:]

    def run_vit(self, images: Tensor) -> Tensor:
        """Return the states (N, 1 + patches, width) of images (N, 3, H, W).

        16-bit weights run without autocast, which would widen its norms for nothing.
        """
        dtype = self.vit.patch_embed.proj.weight.dtype
        with vision_attention(images.device):
            if dtype == torch.float32:
                states: Tensor = self.vit(images)
                return states
            with without_autocast(images.device):
                states = self.vit(images.to(dtype))
                return states

    def quantise(self) -> None:
        """Keep the frozen weights of the layers in 8 bits; those in float32 stay."""
        if self.is_frozen and self.vit.patch_embed.proj.weight.dtype != torch.float32:
            quantise_vit(self.vit.blocks)


def vision_attention(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context of the encoder's attention: with cuDNN's kernels on GPUs that have them.

    cuDNN plans for every shape, and here the number of images alone changes. On an H100 its kernel was the faster one.
    """
    if device.type != "cuda" or not torch.backends.cudnn.enabled:
        return contextlib.nullcontext()
    if torch.cuda.get_device_capability(device)[0] not in (9, 10):
        return contextlib.nullcontext()
    return sdpa_kernel(list(VISION_BACKENDS), set_priority=True)


def build_vit(size: VitSize, *, image_size: int, drop_path_rate: float = 0.0) -> Eva:
    """Return the transformer without final norm, pooling or head: (N, 3, S, S) -> (N, 1 + patches, embed_dim)."""
    return Eva(
        img_size=image_size,
        patch_size=size.patch_size,
        num_classes=0,
        global_pool="",
        embed_dim=size.embed_dim,
        depth=size.depth,
        num_heads=size.num_heads,
        mlp_ratio=size.mlp_ratio,
        qkv_bias=True,
        drop_path_rate=drop_path_rate,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_post_transformer_norm=False,
    )


def load_vit(size: VitSize, source: str, *, image_size: int, dtype: torch.dtype, drop_path_rate: float = 0.0) -> Eva:
    """Return the transformer with the weights of a file or an address, its position embedding resized to fit.

    Raises: ValueError naming the source and every weight that is missing or of another shape.
    """
    with torch.device("meta"):  # the file brings every weight: random ones would be drawn for nothing
        vit = build_vit(size, image_size=image_size, drop_path_rate=drop_path_rate)
    wanted = vit.state_dict()
    try:
        state = {name: value for name, value in read_tensors(fetch(source)).items() if isinstance(value, Tensor)}
    except (ValueError, OSError) as error:
        text = str(error)
        raise ValueError(text if text.startswith("model.vit_ckpt") else f"model.vit_ckpt: {text}") from error
    if "pos_embed" in state and _is_grid(tuple(state["pos_embed"].shape)):
        state["pos_embed"] = resize_pos_embed(state["pos_embed"], num_tokens=wanted["pos_embed"].shape[1])
    problem = misfit(shapes_of(state), shapes_of(wanted), ignores_more=True)  # such as a 40th block, or a head
    if problem:
        raise ValueError(f"model.vit_ckpt: {source} does not fit this model: {problem}")
    vit.load_state_dict({name: state[name].to(dtype) for name in wanted}, assign=True)
    for module in vit.modules():
        if isinstance(module, EvaAttention):  # a buffer of zeros that no file holds
            module.register_buffer("k_bias", torch.zeros(module.q_bias.shape, dtype=dtype), persistent=False)
    return vit


def _is_grid(shape: tuple[int, ...]) -> bool:
    """Return whether this is the shape of a class token and a square of patches, (1, 1 + g*g, C)."""
    num_patches = shape[1] - 1 if len(shape) == 3 else 0
    return num_patches > 0 and math.isqrt(num_patches) ** 2 == num_patches


def resize_pos_embed(pos_embed: Tensor, *, num_tokens: int) -> Tensor:
    """Return a position embedding (1, 1 + g*g, C) for another grid, (1, num_tokens, C) float32.

    The class token's row stays. Bicubic without antialiasing: the published numbers come from that, shrinking included.
    """
    old, new = (round((count - 1) ** 0.5) for count in (pos_embed.shape[1], num_tokens))
    pos_embed = pos_embed.float()
    if old == new:
        return pos_embed
    first, grid = pos_embed[:, :1], pos_embed[:, 1:]
    grid = grid.unflatten(1, (old, old)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([first, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def fetch(source: str) -> Path:
    """Return the local path of a file or an address; a download is kept in torch's hub cache."""
    path = downloaded_to(source)
    if path is None:
        return Path(source)
    try:
        download_once(source, path)
    except OSError as error:
        advice = "download it elsewhere and set model.vit_ckpt to the file (docs/data.md)"
        raise ValueError(f"model.vit_ckpt: cannot download {source}: {error}; {advice}") from error
    return path
