"""The task of the published files: next-token loss on the answers of image and text conversations."""

from __future__ import annotations

from minigpt4.common.registry import registry
from minigpt4.tasks.base_task import BaseTask


@registry.register_task("image_text_pretrain")
class ImageTextPretrainTask(BaseTask):
    """Trains on the mixture of `datasets` with the model's own loss."""
