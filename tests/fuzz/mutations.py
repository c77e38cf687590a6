"""Damages files as transfers, editors and scripts do: bytes, lines, and single values of JSON and YAML trees."""

import json
import random
from collections.abc import Callable
from typing import Any

import yaml

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**31, 2**70, -(2**70), 0.5, -0.0, 1e308, float("nan"), float("inf")),
    *(
        "",
        " ",
        "0",
        "nan",
        "null",
        "true",
        "None",
        "<ImageHere>",
        "{}",
        "{0}",
        "../..",
        "\ud83d",
        "\x00",
        "a\tb\nc",
        "é" * 9,
    ),
    *([], [None], [[]], ["a", 1], {}, {"": None}, {"answer": None}),
)
"""Values that a field of another type may hold by mistake."""
TEXTS = (
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b'"',
        b"'",
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b":",
        b"\t",
        b"\r",
        b"\r\n",
        b"\n\n",
    ),
    *(
        b"\\",
        b"\\ud83d",
        b"&a",
        b"*a",
        b"!!python/object:os.system",
        b"NaN",
        b"1e999",
        b"9" * 400,
        b"[" * 3000,
        b"null",
    ),
)
"""Pieces that end up in files by mistake."""
POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32\nsize 12345\n"
)


def mutate(content: bytes, rng: random.Random, *, kind: str) -> bytes:
    """Return a damaged copy of a file's content; `kind` is json, jsonl, yaml, tsv, or anything else for bytes alone."""
    of_tree: dict[str, Callable[[bytes, random.Random], bytes]] = {
        "json": _mutate_json,
        "jsonl": _mutate_lines,
        "yaml": _mutate_yaml,
        "tsv": _mutate_cells,
    }
    if kind in of_tree and rng.random() < 0.6:
        return of_tree[kind](content, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        content = rng.choice(_BYTE_MUTATIONS)(content, rng)
    return content


def _slice(content: bytes, rng: random.Random) -> slice:
    start = rng.randrange(len(content) + 1)
    return slice(start, min(len(content), start + rng.choice((1, 1, 2, 7, 64, 1000))))


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 4, 40))):
        if changed:
            # headers lie in front, where damage is most telling
            end = len(changed) if rng.random() < 0.5 else min(len(changed), 600)
            changed[rng.randrange(end)] = rng.randrange(256)
    return bytes(changed)


def _delete(content: bytes, rng: random.Random) -> bytes:
    part = _slice(content, rng)
    return content[: part.start] + content[part.stop :]


def _repeat(content: bytes, rng: random.Random) -> bytes:
    part = _slice(content, rng)
    return content[: part.stop] + content[part] + content[part.stop :]


def _insert(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.choice(TEXTS) + content[at:]


def _cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _append(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice((content, b"x", b"\x00" * 600, b"\n\n", b"]", *TEXTS))


def _replace_all(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\n", b"[]", b"{}", b"<html></html>", POINTER, b"\x00" * 2048, b"\x89PNG\r\n\x1a\n"))


def _recode(content: bytes, rng: random.Random) -> bytes:
    text = content.decode("latin-1")
    return rng.choice((text.encode("utf-16"), b"\xef\xbb\xbf" + content, content.replace(b"\n", b"\r\n")))


_BYTE_MUTATIONS = (_flip, _flip, _delete, _repeat, _insert, _insert, _cut, _append, _replace_all, _recode)


def _mutate_json(content: bytes, rng: random.Random) -> bytes:
    return json.dumps(change_one(json.loads(content), rng)).encode()


def _mutate_yaml(content: bytes, rng: random.Random) -> bytes:
    return yaml.safe_dump(change_one(yaml.safe_load(content), rng), allow_unicode=False).encode()


def _mutate_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines()
    at = rng.randrange(len(lines))
    lines[at] = json.dumps(change_one(json.loads(lines[at]), rng)).encode()
    return b"\n".join(lines) + b"\n"


def _mutate_cells(content: bytes, rng: random.Random) -> bytes:
    lines = content.decode().split("\n")
    at = rng.randrange(len(lines))
    cells = lines[at].split("\t")
    cell = rng.randrange(len(cells))
    texts = (
        "",
        "nan",
        '"',
        '"a',
        "en_1",
        "1000001",
        "-1",
        "1e3",
        "['a', 'b']",
        "a\tb",
        "<ImageHere>",
        "aGVsbG8=",
        "=",
        "É",
    )
    cells[cell] = rng.choice(texts)
    lines[at] = "\t".join(cells)
    return "\n".join(lines).encode()


def change_one(tree: Any, rng: random.Random) -> Any:
    """Return a tree in which one value, key or item was changed, removed or repeated."""
    places: list[tuple[Any, Any]] = []
    _collect(tree, places, rng)
    if not places:
        return rng.choice(VALUES)
    parent, key = rng.choice(places)
    act = rng.random()
    if act < 0.2:
        del parent[key]
    elif act < 0.3 and isinstance(parent, list):
        parent.insert(key, parent[key])
    elif act < 0.35 and isinstance(parent, dict):
        parent[rng.choice(("", "x", 3, str(key) + "s"))] = parent.pop(key)
    elif act < 0.45:
        parent[key] = [parent[key]]
    else:
        parent[key] = rng.choice(VALUES)
    return tree


def _collect(tree: Any, places: list[tuple[Any, Any]], rng: random.Random) -> None:
    """Collect (container, key) of a sample of a tree's values; long lists are not walked whole."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    for key in keys if len(keys) <= 60 else rng.sample(keys, 3):
        places.append((tree, key))
        if isinstance(tree[key], (dict, list)):
            _collect(tree[key], places, rng)
