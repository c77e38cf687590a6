"""What a base model's weight files are: names, shapes and a few values of each tensor, read without the model.

An identity says whether two sets of files hold the same weights. It does not depend on the format (.bin or
.safetensors), on the shards, or on the floating type that the weights are stored in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minigpt4.common.checkpoint import read_tensors
from minigpt4.common.downloads import downloaded_to, is_hub_id
from minigpt4.common.llama_folder import SIZES, WEIGHTS, linear_shapes

VERSION = 1
NUM_VALUES = 4
"""The number of values that are read of each tensor."""
RANDOM = {"random": True}
"""The identity of weights that no file holds."""
RELATIVE, ABSOLUTE = 2**-7, 2**-23
"""One step of bfloat16, and two of the smallest steps of float16: what storing in another type may change."""
MAX_STEPPED = 1 / 8
"""The part of all values that may differ by such a step. Rounding twice moves one value in sixteen."""
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "adapter_model.bin", "adapter_model.safetensors")
_BLOCK = re.compile(r"blocks\.(\d+)\.")


def identity_of(model_cfg: Any) -> dict[str, Any]:
    """Return the identity of the frozen parts of a `model` section: `version`, `llama`, `tokenizer` and `vit`.

    A part that cannot be identified has the reason as `unknown`. It holds texts and numbers alone.
    """
    if model_cfg.random_weights:
        return {"version": VERSION, "llama": RANDOM, "tokenizer": RANDOM, "vit": RANDOM}
    return {
        "version": VERSION,
        "llama": _identified(lambda: _llama(_folder(model_cfg))),
        "tokenizer": _identified(lambda: _tokenizer(_folder(model_cfg))),
        "vit": _identified(lambda: _vit(model_cfg.vit_ckpt, depth=model_cfg.vit.depth)),
    }


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return how the weights of two identities differ, None where they are the same.

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


def probe_positions(num_values: int) -> list[int]:
    """Return the positions of the values that are read of a flat tensor: spread evenly, its ends left out."""
    count = min(NUM_VALUES, num_values)
    return [(2 * number + 1) * num_values // (2 * count) for number in range(count)]


def identity_of_files(paths: list[Path], *, counts: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """Return the identity of all tensors in some files together whose name `counts`.

    Raises: ValueError naming the file when it cannot be read, or holds weights in another form than floating numbers.
    """
    found: dict[str, tuple[tuple[int, ...], Tensor]] = {}
    for path in paths:
        for name, shape, values in _probed(path):
            if counts(name):
                if not values.is_floating_point():
                    raise ValueError(f"{path}: {name} is stored as {values.dtype}, so its values cannot be compared")
                found[name] = (shape, values)
    if not found:
        raise ValueError(f"{paths[0]}: holds no tensors")
    names = sorted(found)
    structure = hashlib.blake2b(digest_size=16)
    for name in names:
        structure.update(f"{name} {found[name][0]}\n".encode())
    values = torch.cat([found[name][1].float().bfloat16() for name in names])
    packed = base64.b64encode(values.view(torch.int16).numpy().astype("<i2").tobytes()).decode()
    return {"structure": structure.hexdigest(), "num_tensors": len(names), "values": packed}


def weight_paths(folder: Path) -> list[Path]:
    """Return the weight files of a Llama folder in the order in which transformers looks for them.

    Raises: ValueError when there are none, or when an index cannot be read or names a file that is absent.
    """
    for whole, index in zip(WEIGHTS[::2], WEIGHTS[1::2], strict=True):
        if (folder / whole).is_file():
            return [folder / whole]
        if (folder / index).is_file():
            return _indexed(folder / index)
    for suffix in (".safetensors", ".bin"):
        paths = sorted(path for path in folder.glob(f"*{suffix}") if path.name not in _NO_WEIGHTS)
        if paths:
            return paths
    raise ValueError(f"{folder}: holds no weights (*.safetensors or *.bin)")


def _identified(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read()
    except (ValueError, OSError, RuntimeError) as error:
        return {"unknown": str(error)}


def _folder(model_cfg: Any) -> Path:
    folder = local_llama(str(model_cfg.llama_model))
    if folder is None:
        raise ValueError(f"model.llama_model: {model_cfg.llama_model} is not on this machine yet")
    return folder


def _tokenizer(folder: Path) -> dict[str, Any]:
    """Return the identity of a tokenizer: its pieces in the order of their ids, whichever file holds them."""
    if (folder / "tokenizer.model").is_file():
        import sentencepiece

        model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        pieces = [model.id_to_piece(number) for number in range(model.vocab_size())]
    else:
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        try:
            vocabulary: dict[str, int] = dict(content["model"]["vocab"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / 'tokenizer.json'}: has no vocabulary of pieces") from error
        pieces = sorted(vocabulary, key=vocabulary.__getitem__)
    digest = hashlib.blake2b("\n".join(pieces).encode(errors="surrogatepass"), digest_size=16)
    return {"num_pieces": len(pieces), "pieces": digest.hexdigest()}


def _llama(folder: Path) -> dict[str, Any]:
    tied = bool(_config_of(folder).get("tie_word_embeddings"))

    def counts(name: str) -> bool:  # a tied head is another name for the embeddings, which .safetensors leaves out
        return not name.endswith("rotary_emb.inv_freq") and not (tied and name == "lm_head.weight")

    return identity_of_files(weight_paths(folder), counts=counts)


def _vit(source: str | None, *, depth: int) -> dict[str, Any]:
    path = local_vit(source) if source else None
    if path is None:
        raise ValueError(f"model.vit_ckpt: {source} is not on this machine yet")

    def counts(name: str) -> bool:  # the published file holds a further block and a head, which nothing uses
        block = _BLOCK.match(name)
        return int(block[1]) < depth if block else name.startswith(("cls_token", "pos_embed", "patch_embed."))

    return identity_of_files([path], counts=counts)


def local_llama(source: str) -> Path | None:
    """Return the folder of a language model on this machine, also in the hub's cache; None where there is none yet."""
    if os.path.isdir(source):
        return Path(source)
    if not is_hub_id(source):
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(source, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def local_vit(source: str) -> Path | None:
    """Return the file of a vision encoder on this machine, also in torch's hub cache; None where there is none yet."""
    path = downloaded_to(source) or Path(source)
    return path if path.is_file() else None


def hidden_size(model_cfg: Any) -> int | None:
    """Return the width of the language model by its config file; None where that is not known."""
    folder = None if model_cfg.random_weights else local_llama(str(model_cfg.llama_model))
    size = None if folder is None else _config_of(folder).get("hidden_size")
    return size if isinstance(size, int) else None


@dataclass(frozen=True)
class LayerSizes:
    """The sizes of a language model: `shapes` holds (out, in) of each linear layer that LoRA can extend."""

    num_layers: int
    hidden: int
    shapes: Mapping[str, tuple[int, int]]


def layer_sizes(model_cfg: Any) -> LayerSizes | None:
    """Return the sizes of the language model by its config file; None where they are not known."""
    folder = None if model_cfg.random_weights else local_llama(str(model_cfg.llama_model))
    config = {} if folder is None else _config_of(folder)
    names = [name for name in SIZES if name != "vocab_size"]
    if not all(type(config.get(name)) is int and config[name] > 0 for name in names):
        return None
    return LayerSizes(config["num_hidden_layers"], config["hidden_size"], linear_shapes(config))


def _config_of(folder: Path) -> dict[str, Any]:
    """Return config.json of a folder, empty where it cannot be read: whoever loads the model says so."""
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _indexed(index: Path) -> list[Path]:
    try:
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index}: cannot read it as an index of shards: {error!r}") from error
    paths = [index.parent / str(name) for name in sorted(set(shards))]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise ValueError(f"{index} names files that are absent: {', '.join(absent[:3])}")
    return paths


def _probed(path: Path) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
    """Yield name, shape and the probed values of each tensor of a file; of the values only their pages are read."""
    if path.suffix == ".safetensors":
        yield from _probed_safetensors(path)
        return
    for name, value in read_tensors(path, mmap=True).items():
        if isinstance(value, Tensor):
            places = [_unravel(where, tuple(value.shape)) for where in probe_positions(value.numel())]
            yield (
                str(name),
                tuple(value.shape),
                torch.stack([value[at] for at in places]) if places else value.flatten(),
            )


def _probed_safetensors(path: Path) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118  # it is no mapping
                part = file.get_slice(name)
                shape = tuple(part.get_shape())
                places = [_unravel(where, shape) for where in probe_positions(math.prod(shape))] if shape else []
                values = [part[tuple(slice(at, at + 1) for at in place)].flatten() for place in places]
                yield name, shape, torch.cat(values) if values else file.get_tensor(name).flatten()
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: cannot read it: {error}") from error


def _unravel(where: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    place = []
    for size in reversed(shape):
        where, at = divmod(where, size)
        place.append(at)
    return tuple(reversed(place))


def _values(part: Mapping[str, Any]) -> Tensor:
    """Return the values of an identity, (values,) float32."""
    raw = bytearray(base64.b64decode(part["values"]))
    return torch.frombuffer(raw, dtype=torch.bfloat16).float() if raw else torch.empty(0)
