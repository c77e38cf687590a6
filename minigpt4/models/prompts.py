"""What prompts of generation show, and what several of them begin with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from minigpt4.conversation.conversation import IMAGE_PLACEHOLDER, IMAGE_TOKEN
from minigpt4.models.decoder import SharedPrefix


def checked_images(prompts: Sequence[str], num_images: int, shown: Sequence[int] | None) -> Sequence[int]:
    """Return which image each placeholder shows, over all prompts; by default each image once, in order.

    Raises: ValueError when placeholders and `shown` differ in number.
    """
    num_placeholders = sum(prompt.count(IMAGE_PLACEHOLDER) for prompt in prompts)
    shown = range(num_images) if shown is None else shown
    if num_placeholders != len(shown):
        raise ValueError(f"the prompts show {num_placeholders} images but {len(shown)} are given")
    return shown


def shared_prefixes(
    prompts: Sequence[str], asked: Sequence[Tensor], shown: Sequence[int] | None
) -> list[SharedPrefix] | None:
    """Return what each prompt says and shows up to the end of its last image; None where no image is shown twice.

    `asked` are the prompts' ids (tokens,) int64.
    """
    if shown is None or len(set(shown)) == len(shown):
        return None
    prefixes: list[SharedPrefix] = []
    images = iter(shown)
    for prompt, ids in zip(prompts, asked, strict=True):
        positions = (ids == IMAGE_TOKEN).nonzero()
        length = int(positions[-1]) + 1 if len(positions) else 0
        pictures = tuple(next(images) for _ in range(prompt.count(IMAGE_PLACEHOLDER)))
        prefixes.append(((tuple(ids[:length].tolist()), pictures), length))
    return prefixes
