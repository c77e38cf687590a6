"""The fingerprint of a base model's weight files: names, shapes and a few values of each tensor.

Two sets of files with the same weights have the same fingerprint. It does not depend on the format (.bin or
.safetensors), on the shards, or on the floating type of the stored weights.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minigpt4.common.checkpoint import read_tensors
from minigpt4.common.downloads import downloaded_to
from minigpt4.common.registry import registry
from minigpt4.common.weight_files import config_of, local_folder, read_json, weight_paths

VERSION = 1
NUM_VALUES = 4
"""The number of values that are read from each tensor."""
RANDOM = {"random": True}
"""The identity of random weights."""
RELATIVE, ABSOLUTE = 2**-7, 2**-23
"""Storing in another type may change a value by one step of bfloat16, or two of the smallest steps of float16."""
MAX_STEPPED = 1 / 8
"""The share of values that may differ by such a step. Rounding twice moves one value in sixteen."""


def identity_of(model_cfg: Any) -> dict[str, Any]:
    """Return the identity of the frozen parts of a `model` section: `version`, `llama`, `tokenizer` and `vit`.

    A part that cannot be identified has the reason as `unknown`. The values are texts and numbers.
    """
    if model_cfg.random_weights:
        return {"version": VERSION, "llama": RANDOM, "tokenizer": RANDOM, "vit": RANDOM}
    return {
        "version": VERSION,
        "llama": _identified(lambda: _language_model(_folder(model_cfg))),
        "tokenizer": _identified(lambda: _tokenizer(_folder(model_cfg))),
        "vit": _identified(lambda: _vision_tower(model_cfg)),
    }


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return how the weights of two identities differ; None when they are the same.

    Raises: ValueError with the reason when one of them is unknown or damaged.
    """
    for part in (one, other):
        if "unknown" in part:
            raise ValueError(str(part["unknown"]))
    if bool(one.get("random")) != bool(other.get("random")):
        return "random weights on one side"
    if one.get("random"):
        return None
    if "pieces" in one:
        sizes = [f"{part['num_pieces']:,}" for part in (one, other)]
        return None if one["pieces"] == other["pieces"] else f"{sizes[0]} pieces there, {sizes[1]} here, not the same"
    if one["structure"] != other["structure"]:
        return "other names or shapes of tensors"
    mine, theirs = _values(one), _values(other)
    if mine.shape != theirs.shape:
        raise ValueError("its fingerprint of the weights is damaged")
    gap = (mine - theirs).abs()
    same = (mine == theirs) | (gap <= ABSOLUTE) | (mine.isnan() & theirs.isnan())
    stepped = gap <= RELATIVE * torch.maximum(mine.abs(), theirs.abs())
    num_other = int((~same).sum())
    if (same | stepped).all() and num_other <= max(4, MAX_STEPPED * len(same)):
        return None
    return f"{num_other} of {len(same)} values that were compared"


def label(part: Mapping[str, Any]) -> str:
    """Return a short name of one identity for messages."""
    if part.get("random"):
        return "random weights"
    if "unknown" in part:
        return "weights unknown"
    if "pieces" in part:
        return f"tokenizer {part['pieces'][:8]}"
    digest = hashlib.blake2b(f"{part['structure']} {part['values']}".encode(), digest_size=4)
    return f"weights {digest.hexdigest()}"


def labels(identity: Mapping[str, Any]) -> str:
    """Return the short names of the language model, its tokenizer and the vision encoder."""
    return ", ".join(f"{part}: {label(identity[part])}" for part in ("llama", "tokenizer", "vit"))


def identity_of_files(paths: list[Path], *, counts: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """Return the identity of the tensors of all files together whose name `counts`.

    Raises: ValueError naming the file when it cannot be read, or its weights are no floating numbers.
    """
    found: dict[str, tuple[tuple[int, ...], Tensor]] = {}
    for path in paths:
        for name, value in read_tensors(path, mmap=True).items():
            if isinstance(value, Tensor) and counts(str(name)):
                if not value.is_floating_point():
                    raise ValueError(f"{path}: {name} is stored as {value.dtype}, so its values cannot be compared")
                found[str(name)] = (tuple(value.shape), _probed(value))
    if not found:
        raise ValueError(f"{paths[0]}: holds no tensors")
    names = sorted(found)
    structure = hashlib.blake2b(digest_size=16)
    for name in names:
        structure.update(f"{name} {found[name][0]}\n".encode())
    values = torch.cat([found[name][1].float().bfloat16() for name in names])
    packed = base64.b64encode(values.view(torch.int16).numpy().astype("<i2").tobytes()).decode()
    return {"structure": structure.hexdigest(), "num_tensors": len(names), "values": packed}


def _identified(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read()
    except (ValueError, OSError, RuntimeError) as error:
        return {"unknown": str(error)}


def _folder(model_cfg: Any) -> Path:
    folder = local_folder(str(model_cfg.llama_model))
    if folder is None:
        raise ValueError(f"model.llama_model: {model_cfg.llama_model} is not on this machine yet")
    return folder


def _tokenizer(folder: Path) -> dict[str, Any]:
    """Return the fingerprint of a tokenizer: its pieces in the order of their ids, from either of its files."""
    if (folder / "tokenizer.model").is_file():
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        pieces = [model.id_to_piece(number) for number in range(model.vocab_size())]
    else:
        try:
            vocabulary: dict[str, int] = dict(read_json(folder / "tokenizer.json")["model"]["vocab"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / 'tokenizer.json'}: has no vocabulary of pieces") from error
        pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    digest = hashlib.blake2b("\n".join(pieces).encode(errors="surrogatepass"), digest_size=16)
    return {"num_pieces": len(pieces), "pieces": digest.hexdigest()}


def _language_model(folder: Path) -> dict[str, Any]:
    tied = bool(config_of(folder).get("tie_word_embeddings"))

    def counts(name: str) -> bool:  # a tied head is another name for the embeddings, which .safetensors leaves out
        return not name.endswith("rotary_emb.inv_freq") and not (tied and name == "lm_head.weight")

    try:
        return identity_of_files(weight_paths(folder), counts=counts)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(str(folder)) else f"{folder}: {text}") from error


def _vision_tower(model_cfg: Any) -> dict[str, Any]:
    shapes = registry.get_vision_tower_class(model_cfg.vit_model).weight_shapes(model_cfg, {})
    if shapes is None:
        raise ValueError(f"the vision tower {model_cfg.vit_model} does not say which tensors it reads")
    source = model_cfg.vit_ckpt
    path = Path(downloaded_to(source) or source) if source else None
    if path is None or not path.is_file():
        raise ValueError(f"model.vit_ckpt: {source} is not on this machine yet")
    return identity_of_files([path], counts=shapes.__contains__)  # the file may hold more, which nothing uses


def _probed(value: Tensor) -> Tensor:
    """Return a few values of a tensor, (values,): spread evenly, its ends left out. Only their pages are read."""
    count = min(NUM_VALUES, value.numel())
    positions = [(2 * number + 1) * value.numel() // (2 * count) for number in range(count)]
    return value[torch.unravel_index(torch.tensor(positions), value.shape)].reshape(-1) if count else value.flatten()


def _values(part: Mapping[str, Any]) -> Tensor:
    """Return the values of an identity, (values,) float32."""
    raw = bytearray(base64.b64decode(part["values"]))
    return torch.frombuffer(raw, dtype=torch.bfloat16).float() if raw else torch.empty(0)
