"""Tokenizers: text to token ids and back, as the published weights learnt it.

The ids are those of the slow sentencepiece Llama tokenizer in its "legacy" behaviour: `<s>`, `</s>` and `<unk>` in a
text are recognised, and each piece of text between them gets its own word-start mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from minigpt4.common.downloads import UnreachableError, from_hub, in_cache, is_hub_id

PAD_PIECE = "$$"
"""An ordinary piece of the Llama vocabulary that is the pad token; encoding does not treat it specially."""
_HALF_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer(Protocol):
    """The interface of a tokenizer; it must pickle, since DataLoader workers get it."""

    @property
    def bos_id(self) -> int | None:
        """None for a family without a BOS."""
        ...

    eos_id: int
    pad_id: int
    vocab_size: int
    special: dict[str, int]
    """The special tokens: `encode` recognises them in a text, `decode` leaves them out."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; nothing is added at its ends."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without the special tokens among them."""
        ...


class _PieceTokenizer:
    """Encodes the pieces of text between special tokens separately."""

    def __init__(self, special: dict[str, int]) -> None:
        self.special = special
        self._split = re.compile("(" + "|".join(map(re.escape, special)) + ")")

    def _encode_text(self, text: str) -> list[int]:
        raise NotImplementedError

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; nothing is added at its ends."""
        if "<" not in text:
            return self._encode_text(text) if text else []
        ids: list[int] = []
        for piece in self._split.split(text):
            if piece in self.special:
                ids.append(self.special[piece])
            elif piece:
                ids += self._encode_text(piece)
        return ids


class SentencePieceTokenizer(_PieceTokenizer):
    """The tokenizer of a `tokenizer.model`, or of a `tokenizer.json` with the same ids.

    Raises: ValueError with the reason when the file cannot be read, or when its ids may differ.
    """

    def __init__(self, path: str | Path) -> None:
        import sentencepiece

        from minigpt4.conversation.tokenizer_json import read_as_sentencepiece

        path = Path(path)
        try:
            serialized = read_as_sentencepiece(path) if path.suffix == ".json" else path.read_bytes()
            self._model = sentencepiece.SentencePieceProcessor(model_proto=serialized)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{path}: cannot read it as a sentencepiece model: {error}") from error
        if not self._model.vocab_size():
            raise ValueError(f"{path}: is not a sentencepiece model: it has no pieces")
        self.bos_id = self._model.bos_id()
        self.eos_id = self._model.eos_id()
        unk_id = self._model.unk_id()
        self.vocab_size = self._model.vocab_size()
        super().__init__({self._model.id_to_piece(i): i for i in (self.bos_id, self.eos_id, unk_id)})
        # piece_to_id gives the unknown id for a piece outside the vocabulary, which pads as well
        self.pad_id = self._model.piece_to_id(PAD_PIECE)
        self._skip = {self.bos_id, self.eos_id, unk_id, self.pad_id}

    @property
    def model_bytes(self) -> bytes:
        """The serialized sentencepiece model: the content of a `tokenizer.model`."""
        serialized: bytes = self._model.serialized_model_proto()
        return serialized

    def _encode_text(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._model.encode(text)
        except (RuntimeError, UnicodeError) as error:  # sentencepiece releases differ in this
            raise unencodable(text) from error
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without the special tokens among them."""
        text: str = self._model.decode([i for i in map(int, ids) if i not in self._skip])
        return text


class ByteTokenizer(_PieceTokenizer):
    """One token a byte, without a file: for random weights, benchmarks and tests."""

    bos_id, eos_id, pad_id, vocab_size = 1, 2, 0, 259

    def __init__(self) -> None:
        super().__init__({"<unk>": 0, "<s>": 1, "</s>": 2})

    def _encode_text(self, text: str) -> list[int]:
        try:
            return [byte + 3 for byte in text.encode()]
        except UnicodeError as error:
            raise unencodable(text) from error

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; ids beyond the bytes, which a random model may choose, count as special."""
        return bytes(i - 3 for i in map(int, ids) if 3 <= i < self.vocab_size).decode(errors="replace")


def load_tokenizer(llama_model: str) -> SentencePieceTokenizer:
    """Return the tokenizer of a folder or of a hub id, from `tokenizer.model` if it has one.

    Raises: ValueError naming `model.llama_model` when both files are absent, or the file that cannot be used.
    """
    for name in ("tokenizer.model", "tokenizer.json"):
        path = Path(llama_model) / name if Path(llama_model).is_dir() else _from_hub(llama_model, name)
        if path is not None and path.is_file():
            return SentencePieceTokenizer(path)
    raise ValueError(f"model.llama_model: {llama_model} has neither tokenizer.model nor tokenizer.json")


def _from_hub(repo_id: str, name: str) -> Path | None:
    """Return one file of a hub repository, downloaded if it is not in the cache; None if the repository lacks it."""
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
        raise ValueError(
            f"model.llama_model: {repo_id} is not a local folder and could not be downloaded: {reason}"
        ) from error


def unencodable(text: str) -> ValueError:
    """Return the error for a text that UTF-8 cannot represent; a JSON escape may leave half of a surrogate pair."""
    half = _HALF_SURROGATE.search(text)
    if half is None:
        return ValueError(f"cannot encode the text {text!r}")
    return ValueError(f"half of a surrogate pair, {half[0]!r}, at character {half.start()} of the text {text!r}")


class TransformersTokenizer:
    """A tokenizer of transformers; no code of its folder or repository is run.

    Special tokens inside a text are recognised, and none are added. `bos_id` is None for a family without one, and
    `pad_id` is the end-of-sequence token for a family without padding.

    Raises: ValueError naming `model.llama_model` when transformers cannot read it, or when it has no end-of-sequence
    token.
    """

    def __init__(self, name: str) -> None:
        from transformers import AutoTokenizer

        def fetch(local_only: bool) -> Any:
            return AutoTokenizer.from_pretrained(name, local_files_only=local_only, trust_remote_code=False)

        try:
            self._tokenizer = from_hub("model.llama_model", name, fetch) if is_hub_id(name) else fetch(True)
        except UnreachableError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"model.llama_model: transformers cannot read a tokenizer from {name}: {reason}"
            ) from error
        if self._tokenizer.eos_token_id is None:
            raise ValueError(f"model.llama_model: the tokenizer of {name} has no end-of-sequence token")
        self.bos_id: int | None = self._tokenizer.bos_token_id
        self.eos_id: int = self._tokenizer.eos_token_id
        padding: int | None = self._tokenizer.pad_token_id
        self.pad_id = self.eos_id if padding is None else padding
        self.vocab_size = 1 + max(self._tokenizer.get_vocab().values())
        added = self._tokenizer.added_tokens_decoder
        self.special = {token.content: number for number, token in added.items() if token.special}

    def save(self, folder: str | Path) -> None:
        """Write the files of the tokenizer, with its chat template where it has one."""
        self._tokenizer.save_pretrained(folder)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; nothing is added at its ends."""
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        except (TypeError, UnicodeError) as error:
            raise unencodable(text) from error
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without the special tokens among them."""
        known = list(map(int, ids))
        text: str = self._tokenizer.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
