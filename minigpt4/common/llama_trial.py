"""Whether transformers would load a folder of a Llama model: tried on the meta device, where no weight is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minigpt4.common.paths import one_line

MAX_NAMED = 5


def why_not_loaded(path: str) -> str | None:
    """Return why the model of a folder cannot be loaded, in words that begin with the path; None when it can.

    Its configuration, names, shapes and quantisation are those that training would load. It takes half a second for
    a model of 7B.
    """
    if os.path.lexists(os.path.join(path, "adapter_config.json")):
        return (
            f"{path} has an adapter_config.json, so an adapter would be laid over its weights; merge it, or remove it"
        )
    import torch
    from transformers import LlamaForCausalLM

    try:
        with _quietly():
            loaded: Any = LlamaForCausalLM.from_pretrained(
                path, dtype=torch.float32, device_map={"": "meta"}, output_loading_info=True, local_files_only=True
            )
    except Exception as error:  # what a damaged folder raises depends on where it is damaged
        return f"{path}: cannot be loaded: {one_line(error)}"
    missing = sorted(loaded[1]["missing_keys"])
    if missing:  # transformers would draw them at random
        return f"{path}: its weights lack {len(missing)} tensors of the model: {', '.join(missing[:MAX_NAMED])}"
    return None


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the reports and progress bars of transformers off the terminal: training shows them when it loads."""
    from transformers.utils import logging

    verbosity, shows_progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_progress:
            logging.enable_progress_bar()
