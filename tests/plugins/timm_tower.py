"""The vision tower `timm`: any vision transformer of timm, with its own patch size, width and colours."""

import torch
from timm import create_model

from minigpt4.common.registry import registry
from minigpt4.models.vision.vision_tower import VisionTower
from minigpt4.processors.blip_processors import CLIP_MEAN, CLIP_STD


@registry.register_vision_tower("timm")
class TimmTower(VisionTower):
    """The patches that a transformer of timm gives, without its class token and registers.

    `model.vit_options` holds `name`, and further options of `timm.create_model`. timm downloads the published weights
    unless `model.random_weights` or `pretrained: false` is set; `checkpoint_path` names a file of weights instead.
    """

    def __init__(self, vit, *, is_frozen):
        patches = vit.patch_embed
        super().__init__(
            image_size=patches.img_size[0], num_patches=patches.num_patches, width=vit.embed_dim, is_frozen=is_frozen
        )
        self.vit = vit
        mean, std = vit.pretrained_cfg["mean"], vit.pretrained_cfg["std"]
        # pictures come with the mean and deviation of CLIP, and timm's weights know others
        self.scales = [theirs / own for theirs, own in zip(CLIP_STD, std, strict=True)]
        self.shifts = [(theirs - own) / by for theirs, own, by in zip(CLIP_MEAN, mean, std, strict=True)]

    @classmethod
    def count_patches(cls, cfg):
        with torch.device("meta"):  # sizes without weights
            patches = build(cfg, has_weights=False).patch_embed
        if any(cfg.image_size % size for size in patches.patch_size):
            raise ValueError(f"model.image_size: {cfg.image_size} is not a multiple of patches {patches.patch_size}")
        return patches.num_patches

    @classmethod
    def from_config(cls, cfg, *, dtype):
        vit = build(cfg, has_weights=not cfg.random_weights)
        if cfg.freeze_vit and cfg.vit_precision != "fp32":
            vit.to(dtype)
        vit.set_grad_checkpointing(cfg.use_grad_checkpoint and not cfg.freeze_vit)
        return cls(vit, is_frozen=cfg.freeze_vit)

    @property
    def blocks(self):
        return list(self.vit.blocks)

    def encode(self, images):
        colours = zip(images.unbind(1), self.scales, self.shifts, strict=True)
        images = torch.stack([one * scale + shift for one, scale, shift in colours], dim=1)
        states = self.vit.forward_features(images.to(next(self.vit.parameters()).dtype))
        return states[:, self.vit.num_prefix_tokens :]


def build(cfg, *, has_weights):
    """Return the model of timm that `model.vit_options` names, for pictures of `model.image_size`."""
    options = {"pretrained": True, "checkpoint_path": "", **cfg.vit_options}
    if not has_weights:
        options |= {"pretrained": False, "checkpoint_path": ""}
    elif options["checkpoint_path"]:
        options["pretrained"] = False
    if "name" not in options:
        raise ValueError("model.vit_options: no `name` of a vision transformer of timm")
    sizes = {"img_size": cfg.image_size, "num_classes": 0, "drop_path_rate": cfg.drop_path_rate}
    try:
        vit = create_model(options.pop("name"), **sizes, **options)
    except Exception as error:  # what timm raises depends on what is wrong: a name, an option, a file, the network
        raise ValueError(f"model.vit_options: {dict(cfg.vit_options)}: {error}") from error
    if not all(hasattr(vit, part) for part in ("patch_embed", "blocks", "num_prefix_tokens", "embed_dim")):
        raise ValueError(f"model.vit_options: {cfg.vit_options['name']} is not a vision transformer")
    return vit
