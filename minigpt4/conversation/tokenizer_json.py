"""Turns a `tokenizer.json` back into the sentencepiece model that it came from.

The file lacks the scores of the pieces. Their order restores them, since sentencepiece numbers learnt pieces by falling
score. Files in another order are refused, so the ids equal those of `tokenizer.model`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

logger = logging.getLogger(__name__)

Piece = ModelProto.SentencePiece
WORD_START = "\u2581"
UNKNOWN, BOS, EOS = "<unk>", "<s>", "</s>"
RUN_SCORE = -1e9
"""The score of runs of blanks in the models of Llama and Mistral: they merge after all others."""
RUNS_LAST = {
    "4c5badf7b7df213a9f36147f73f7b7ccf4ef2d5986a765923be08e8c05969278": "Llama-1 and Llama-2",
    "53a6491d971065614a9a39edcf88f81a9bccbc3df7e5e0ba82f65a5bca761bfa": "Mistral",
}
"""SHA-256 of the learnt pieces, one a line, of the vocabularies with that score."""
_BYTE_PIECE = re.compile(r"<0x[0-9A-F]{2}>")
_SPECIAL = {UNKNOWN: Piece.UNKNOWN, BOS: Piece.CONTROL, EOS: Piece.CONTROL}


class _DiffersError(ValueError):
    """A reason why the ids may differ from those of tokenizer.model."""


def read_as_sentencepiece(path: Path) -> bytes:
    """Return the serialized sentencepiece model that gives the ids of a `tokenizer.json`.

    Raises: ValueError with the reason when the file cannot be read, or does not determine the ids.
    """
    try:
        content = json.loads(path.read_bytes())
        model = content["model"]
        added = {token["content"]: bool(token["special"]) for token in content.get("added_tokens") or ()}
        _check_kind(content)
        return _convert(model["vocab"], model["merges"], added, path)
    except _DiffersError as reason:
        raise ValueError(
            f"{path}: its ids may differ from those of tokenizer.model, since {reason}; put tokenizer.model beside it"
        ) from reason
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: cannot read it as a tokenizer: {type(error).__name__}: {error}") from error


def is_run(piece: str) -> bool:
    """Return whether a piece is two or more blanks."""
    return len(piece) > 1 and not piece.strip(WORD_START)


def splits(piece: str, vocab: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return each pair of vocabulary pieces that joins to a piece, the shortest left part first."""
    pairs = ((piece[:k], piece[k:]) for k in range(1, len(piece)))
    return [(left, right) for left, right in pairs if left in vocab and right in vocab]


def _check_kind(content: Mapping[str, Any]) -> None:
    """Raise _DiffersError unless the file is a BPE of characters that keeps blanks, as Llama's is."""
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise _DiffersError(f"its model is {model['type']}, not BPE")
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise _DiffersError(f"it sets {key}")
    for key, known in (("normalizer", {"Prepend", "Replace"}), ("pre_tokenizer", {"Metaspace"})):
        for step in _steps(content.get(key)):
            if step["type"] not in known or (step["type"] == "Replace" and step["pattern"] != {"String": " "}):
                raise _DiffersError(f"its {key} has the step {step['type']}, which Llama-2's tokenizer lacks")


def _steps(stage: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the steps of a normalizer or pre-tokenizer, including those of sequences."""
    if stage is None or stage["type"] != "Sequence":
        return [] if stage is None else [stage]
    return [inner for step in stage.get("normalizers") or stage.get("pretokenizers") or () for inner in _steps(step)]


def _convert(vocab: Mapping[str, int], merges: Sequence[Any], added: Mapping[str, bool], path: Path) -> bytes:
    """Return the serialized model. Raises: _DiffersError when order or merges do not determine the scores."""
    pieces = sorted(vocab, key=lambda piece: vocab[piece])
    if [vocab[piece] for piece in pieces] != list(range(len(pieces))):
        raise _DiffersError("its ids are not 0, 1, 2 and so on")
    for piece in _SPECIAL:
        if piece not in vocab:
            raise _DiffersError(f"it is not a Llama tokenizer: it lacks {piece}")
    types = _piece_types(pieces, added)
    first = types.index(Piece.NORMAL) if Piece.NORMAL in types else len(types)
    runs_last = _check_merges(pieces[first:], merges)
    beyond = [piece for piece in added if piece not in vocab]
    if beyond:
        logger.warning("%s: added tokens without a place in its vocabulary are plain text: %s", path, ", ".join(beyond))
    scores = [0.0] * first + [
        RUN_SCORE if runs_last and is_run(piece) else -float(rank) for rank, piece in enumerate(pieces[first:])
    ]
    return _serialize(pieces, types, scores)


def _piece_types(pieces: Sequence[str], added: Mapping[str, bool]) -> list[Any]:
    """Return the type of each piece: special, user-defined and byte pieces, then the learnt ones.

    Raises: _DiffersError when the pieces come in another order, or an added token is one of the learnt ones.
    """
    types: list[Any] = []
    for piece in pieces:
        if piece in _SPECIAL:
            kind = _SPECIAL[piece]
        elif _BYTE_PIECE.fullmatch(piece):
            kind = Piece.BYTE
        elif Piece.NORMAL in types[-1:] or piece not in added:
            kind = Piece.NORMAL
            # transformers may make an ordinary piece special as pad token; sentencepiece does not
            if added.get(piece) is False:
                raise _DiffersError(f"the added token {piece!r} follows learnt pieces")
        else:
            kind = Piece.CONTROL if added[piece] else Piece.USER_DEFINED
        if Piece.NORMAL in types[-1:] and kind != Piece.NORMAL:
            raise _DiffersError(f"{piece!r} follows the piece {pieces[len(types) - 1]!r}, which is no added token")
        types.append(kind)
    if types.count(Piece.BYTE) not in (0, 256):
        raise _DiffersError("it has a part of the 256 byte pieces alone")
    return types


def _check_merges(learnt: Sequence[str], merges: Sequence[Any]) -> bool:
    """Return whether runs of blanks merge last.

    Raises: _DiffersError when the merges are not those of a sentencepiece model whose scores fall with the ids.
    """
    ranks = {piece: rank for rank, piece in enumerate(learnt)}
    num_long = sum(len(piece) > 1 for piece in learnt)
    for piece in learnt[:num_long]:
        if len(piece) == 1:
            raise _DiffersError(f"the character {piece!r} precedes longer pieces, so the ids do not follow the scores")
    given: dict[str, list[tuple[str, str]]] = defaultdict(list)
    order: list[int] = []
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if left in ranks and right in ranks and left + right in ranks:
            given[left + right].append((left, right))
            order.append(ranks[left + right])
    for piece in learnt[:num_long]:
        if not given[piece] or sorted(given[piece]) != sorted(splits(piece, ranks)):
            raise _DiffersError(f"its merges for {piece!r} are not all ways to put it together")
    runs = {ranks[piece] for piece in learnt if is_run(piece)}
    others = [rank for rank in order if rank not in runs]
    if others != sorted(others):
        raise _DiffersError("its merges are not in the order of the ids")
    if not runs or (order[: len(others)] == others and order != sorted(order)):
        return bool(runs)
    if hashlib.sha256("\n".join(learnt).encode()).hexdigest() in RUNS_LAST:
        return True
    raise _DiffersError(
        f"its merges are in the order of the ids, as transformers 5 writes them, and only tokenizer.model says when "
        f"runs of blanks such as {learnt[min(runs)]!r} merge"
    )


def _serialize(pieces: Sequence[str], types: Sequence[Any], scores: Sequence[float]) -> bytes:
    """Return a sentencepiece model with the traits of Llama's: a mark before each text, all blanks kept."""
    model = ModelProto()
    for piece, kind, score in zip(pieces, types, scores, strict=True):
        model.pieces.add(piece=piece, type=kind, score=score)
    trainer, ids = model.trainer_spec, {piece: number for number, piece in enumerate(pieces)}
    trainer.model_type, trainer.vocab_size = trainer.BPE, len(pieces)
    trainer.byte_fallback = Piece.BYTE in types
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = ids[UNKNOWN], ids[BOS], ids[EOS], -1
    trainer.unk_piece, trainer.bos_piece, trainer.eos_piece = UNKNOWN, BOS, EOS
    normalizer = model.normalizer_spec
    normalizer.name = "identity"
    normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = True, False
    serialized: bytes = model.SerializeToString()
    return serialized
