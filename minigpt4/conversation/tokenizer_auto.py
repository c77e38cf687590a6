"""The tokenizer of any model family, read by transformers from a folder or a hub id."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minigpt4.common.downloads import UnreachableError, from_hub, is_hub_id
from minigpt4.conversation.tokenizer import unencodable


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
