"""A folder of a Llama model: what it lacks and what is damaged in it, from names and headers alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from minigpt4.common.paths import wrong_path
from minigpt4.common.weight_headers import Shapes, read_shapes

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Of these transformers takes the first that is there."""
TOKENIZERS = ("tokenizer.model", "tokenizer.json")
WEIGHT_SUFFIXES = (".safetensors", ".bin")
MAX_NAMED, MAX_SHARDS = 5, 1000
_SHARD = re.compile(r"(?P<name>.+)-\d+-of-(?P<total>\d{1,6})\.(?P<suffix>\w+)")


@dataclass
class LlamaFolder:
    """What was found: `lacks` are files that are not there, `damaged` says what is wrong with those that are."""

    path: str
    config: Mapping[str, Any] = field(default_factory=dict)
    lacks: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def problem(self) -> str | None:
        """Return all that is wrong, or None."""
        lacks = f" lacks {', '.join(self.lacks)}" if self.lacks else ":"
        damaged = "; ".join(self.damaged)
        if not self.lacks and not damaged:
            return None
        return f"{self.path}{lacks}{'; ' if self.lacks and damaged else ' ' if damaged else ''}{damaged}"


def look_at_llama(path: str) -> LlamaFolder:
    """Look at a folder's config.json, at its tokenizer's files and at the header of each weight file."""
    found = LlamaFolder(path)
    names = set(os.listdir(path))
    _look_at_config(found, names)
    if not names & set(TOKENIZERS):
        found.lacks.append(" or ".join(TOKENIZERS))
    for name in TOKENIZERS:
        wrong = wrong_path(f"{path}/{name}") if name in names else None
        if wrong:
            found.damaged.append(wrong.removeprefix(f"{path}/"))
    shapes = _look_at_weights(found, names)
    if shapes and not found.lacks and not found.damaged and "quantization_config" not in found.config:
        found.damaged += _wrong_shapes(found.config, shapes)
    return found


def _look_at_config(found: LlamaFolder, names: set[str]) -> None:
    if "config.json" not in names:
        found.lacks.append("config.json")
        return
    try:
        config = _read_json(found.path, "config.json")
    except ValueError as error:
        found.damaged.append(str(error))
        return
    kind = config.get("model_type", "llama")
    if kind != "llama":
        found.damaged.append(f"config.json describes a model of the type {kind!r}, not llama")
        return
    found.config = config
    wrong = [name for name in SIZES if not (type(config.get(name)) is int and config[name] > 0)]
    if wrong:
        found.damaged.append(f"config.json lacks the sizes {', '.join(wrong)}")


def _look_at_weights(found: LlamaFolder, names: set[str]) -> Shapes | None:
    """Return the shapes of all weights, None when they are not known."""
    weights = sorted(name for name in names if name.endswith(WEIGHT_SUFFIXES))
    chosen = next((name for name in WEIGHTS if name in names), None)
    if chosen is None:
        shards = [name for name in weights if "-of-" in name]
        if shards:
            index = "model.safetensors" if shards[0].endswith(".safetensors") else "pytorch_model.bin"
            found.lacks += [f"{index}.index.json (the index of its shards)", *_absent_siblings(shards, names)]
        elif weights:
            found.damaged.append(f"its weights should be called {' or '.join(WEIGHTS[::2])}, not {weights[0]}")
        else:
            found.lacks.append("weights (*.safetensors or *.bin)")
    files = [chosen] if chosen else weights
    if chosen and chosen.endswith(".index.json"):
        try:
            files = _files_of_index(found.path, chosen)
        except ValueError as error:
            found.damaged.append(str(error))
            files = weights
    absent = [name for name in files if name not in names]
    if absent:
        more = f" and {len(absent) - MAX_NAMED} more" if len(absent) > MAX_NAMED else ""
        found.lacks.append(f"{', '.join(absent[:MAX_NAMED])}{more}, named by {chosen}")
    return _shapes_of(found, [name for name in files if name in names])


def _absent_siblings(shards: Sequence[str], names: set[str]) -> list[str]:
    """Return which siblings of shards called NAME-00001-of-00003.SUFFIX are not there, the first few."""
    absent: list[str] = []
    for name in shards:
        match = _SHARD.fullmatch(name)
        if match is None:
            continue
        for number in range(1, min(int(match["total"]), MAX_SHARDS) + 1):
            sibling = f"{match['name']}-{number:0{len(match['total'])}}-of-{match['total']}.{match['suffix']}"
            if sibling not in names and sibling not in absent:
                absent.append(sibling)
    return absent[:MAX_NAMED]


def _shapes_of(found: LlamaFolder, files: list[str]) -> Shapes | None:
    shapes: Shapes = {}
    known = True
    for name in files:
        try:
            read = read_shapes(f"{found.path}/{name}")
        except ValueError as error:
            found.damaged.append(str(error).replace(f"{found.path}/", "", 1))
            continue
        known = known and read is not None
        shapes |= read or {}
    return shapes if known else None


def _files_of_index(folder: str, name: str) -> list[str]:
    places = _read_json(folder, name).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise ValueError(f"{name} has no weight_map of tensors and their files")
    return sorted(set(places.values()))


def _read_json(folder: str, name: str) -> dict[str, Any]:
    wrong = wrong_path(f"{folder}/{name}")
    if wrong:
        raise ValueError(wrong.replace(f"{folder}/", "", 1))
    try:
        with open(f"{folder}/{name}", "rb") as file:
            content = json.loads(file.read())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name} holds a {type(content).__name__}, not a JSON object")
    return content


def _wrong_shapes(config: Mapping[str, Any], shapes: Shapes) -> Iterator[str]:
    """Yield what weights lack or have in another size than config.json says."""
    if not any(name.startswith("model.layers.") for name in shapes):
        return  # saved under other names, which transformers translates
    wanted = dict(_wanted(config))
    absent = [name for name in wanted if name not in shapes]
    if absent:
        yield f"its weights lack {len(absent)} tensors that config.json asks for: {', '.join(absent[:MAX_NAMED])}"
    wrong = [name for name in wanted if name in shapes and shapes[name] != wanted[name]]
    if wrong:
        first = wrong[0]
        sizes = f"{first} is {shapes[first]} but {wanted[first]} by config.json"
        yield f"{len(wrong)} of its weights have other sizes than config.json says: {sizes}"


def _wanted(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    vocab, hidden, num_layers = (int(config[name]) for name in ("vocab_size", "hidden_size", "num_hidden_layers"))
    yield "model.embed_tokens.weight", (vocab, hidden)
    yield "model.norm.weight", (hidden,)
    if not config.get("tie_word_embeddings"):
        yield "lm_head.weight", (vocab, hidden)
    for layer in range(num_layers):
        above = f"model.layers.{layer}"
        for name, shape in linear_shapes(config).items():
            yield f"{above}.{name}.weight", shape
        yield f"{above}.input_layernorm.weight", (hidden,)
        yield f"{above}.post_attention_layernorm.weight", (hidden,)


def linear_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return (out, in) of each linear layer of a block by its name there, as config.json gives the sizes."""
    hidden, inner, heads = (int(config[name]) for name in ("hidden_size", "intermediate_size", "num_attention_heads"))
    head = config.get("head_dim") or hidden // heads
    queries, keys = heads * head, (config.get("num_key_value_heads") or heads) * head
    return {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
