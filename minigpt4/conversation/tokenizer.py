"""Text to token ids and back, the way the published weights learnt it.

The ids are those of the slow sentencepiece Llama tokenizer in its "legacy" behaviour: `<s>`, `</s>` and `<unk>` in a
text are recognised, and each piece of text between them gets its own word-start mark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from minigpt4.common.downloads import UnreachableError, from_hub, in_cache

PAD_PIECE = "$$"
"""An ordinary piece of the Llama vocabulary that serves as pad token; encoding does not single it out."""
_WORD_START = "\u2581"
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_NO_TEXT = re.compile("[\udc80-\udcff]")


class Tokenizer(Protocol):
    """What the encoder and the model ask of a tokenizer; it must pickle, as it goes to DataLoader workers."""

    bos_id: int
    eos_id: int
    pad_id: int
    vocab_size: int

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; nothing is added at its ends."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without the special tokens among them."""
        ...


class _PieceTokenizer:
    """Encodes the text between special pieces piece by piece."""

    def __init__(self, special: dict[str, int]) -> None:
        self._special = special
        self._split = re.compile("(" + "|".join(map(re.escape, special)) + ")")

    def _encode_text(self, text: str) -> list[int]:
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; nothing is added at its ends."""
        if "<" not in text:
            return self._encode_text(text) if text else []
        ids: list[int] = []
        for piece in self._split.split(text):
            if piece in self._special:
                ids.append(self._special[piece])
            elif piece:
                ids += self._encode_text(piece)
        return ids


class SentencePieceTokenizer(_PieceTokenizer):
    """The tokenizer of a `tokenizer.model` file.

    Raises: ValueError when the file is not a sentencepiece model.
    """

    def __init__(self, path: str | Path) -> None:
        import sentencepiece

        try:
            self._model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{path}: cannot read it as a sentencepiece model: {error}") from error
        self.bos_id = self._model.bos_id()
        self.eos_id = self._model.eos_id()
        unk_id = self._model.unk_id()
        self.vocab_size = self._model.vocab_size()
        super().__init__({self._model.id_to_piece(i): i for i in (self.bos_id, self.eos_id, unk_id)})
        # piece_to_id answers the unknown id for what the vocabulary lacks; it pads as well as any other
        self.pad_id = self._model.piece_to_id(PAD_PIECE)
        self._skip = {self.bos_id, self.eos_id, unk_id, self.pad_id}

    def _encode_text(self, text: str) -> list[int]:
        return self._model.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without the special tokens among them."""
        return self._model.decode([i for i in map(int, ids) if i not in self._skip])


class JsonTokenizer(_PieceTokenizer):
    """The same tokenization from a `tokenizer.json`, for folders that come without `tokenizer.model`.

    Raises: ValueError when the file cannot be read or lacks one of `<s>`, `</s>`, `<unk>`.
    """

    def __init__(self, path: str | Path) -> None:
        from tokenizers import Tokenizer as Backend
        from tokenizers import normalizers

        try:
            self._backend = Backend.from_file(str(path))
        except Exception as error:  # the backend raises bare Exception
            raise ValueError(f"{path}: cannot read it as a tokenizer: {error}") from error
        # whatever the file says, the weights were trained with a mark before every piece and with all blanks kept
        self._backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend(_WORD_START), normalizers.Replace(" ", _WORD_START)]
        )
        self._backend.pre_tokenizer = None
        special: dict[str, int] = {}
        for piece in ("<s>", "</s>", "<unk>"):
            number = self._backend.token_to_id(piece)
            if number is None:
                raise ValueError(f"{path}: not a Llama tokenizer, it lacks {piece}")
            special[piece] = number
        super().__init__(special)
        self.bos_id, self.eos_id, unk_id = special["<s>"], special["</s>"], special["<unk>"]
        pad_id = self._backend.token_to_id(PAD_PIECE)
        self.pad_id = unk_id if pad_id is None else pad_id
        self.vocab_size = self._backend.get_vocab_size()
        self._skip = {*special.values(), self.pad_id}

    def _encode_text(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without the special tokens among them."""
        # the backend's own decoder joins broken byte pieces otherwise than sentencepiece does
        pieces = [self._backend.id_to_token(i) or "" for i in map(int, ids) if i not in self._skip]
        return _join_pieces(pieces)


class ByteTokenizer(_PieceTokenizer):
    """One token a byte, from no file at all: for random weights, benchmarks and tests."""

    bos_id, eos_id, pad_id, vocab_size = 1, 2, 0, 259

    def __init__(self) -> None:
        super().__init__({"<unk>": 0, "<s>": 1, "</s>": 2})

    def _encode_text(self, text: str) -> list[int]:
        return [byte + 3 for byte in text.encode()]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; ids beyond the bytes, which a random model may choose, count as special."""
        return bytes(i - 3 for i in map(int, ids) if 3 <= i < self.vocab_size).decode(errors="replace")


def load_tokenizer(llama_model: str) -> SentencePieceTokenizer | JsonTokenizer:
    """Return the tokenizer of a folder or of a hub id, from `tokenizer.model` where there is one.

    Raises: ValueError naming `model.llama_model` when neither file is to be had.
    """
    readers: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        ("tokenizer.model", SentencePieceTokenizer),
        ("tokenizer.json", JsonTokenizer),
    )
    for name, reader in readers:
        path = Path(llama_model) / name if Path(llama_model).is_dir() else _from_hub(llama_model, name)
        if path is not None and path.is_file():
            return reader(path)
    raise ValueError(f"model.llama_model: {llama_model} has neither tokenizer.model nor tokenizer.json")


def _from_hub(repo_id: str, name: str) -> Path | None:
    """Return one file of a hub repository, fetched if it is not in the cache; None when the repository lacks it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def fetch(local_only: bool) -> Path | None:
        if local_only and not in_cache(repo_id, name) and in_cache(repo_id, "tokenizer.json"):
            return None
        return Path(hf_hub_download(repo_id, name, local_files_only=local_only))

    try:
        return from_hub("model.llama_model", repo_id, fetch)
    except UnreachableError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"model.llama_model: {repo_id} is no folder here and not to be had: {reason}") from error


def _join_pieces(pieces: Sequence[str]) -> str:
    """Join pieces as sentencepiece does: byte pieces as UTF-8, a replacement character for each stray byte."""
    raw = b""
    for number, piece in enumerate(pieces):
        byte = _BYTE_PIECE.fullmatch(piece)
        if byte:
            raw += bytes([int(byte[1], 16)])
        else:
            text = piece.replace(_WORD_START, " ")
            raw += (text.removeprefix(" ") if number == 0 else text).encode()
    return _NO_TEXT.sub("\ufffd", raw.decode(errors="surrogateescape"))
