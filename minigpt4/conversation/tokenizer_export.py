"""Writes tokenizer files for transformers, whose AutoTokenizer then gives the ids that the model learnt.

transformers can convert a `tokenizer.model`, but orders merges by id, marks other word starts and misses user-defined
pieces. So this module writes a `tokenizer.json`, and compares its ids on texts.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from minigpt4.conversation.tokenizer import SentencePieceTokenizer, TransformersTokenizer
from minigpt4.conversation.tokenizer_json import BOS, EOS, UNKNOWN, WORD_START, Piece, splits

CHAT_TEMPLATE_FILES = ("tokenizer_config.json", "chat_template.jinja")
"""Files of the base model's folder that may contain its chat template; nothing else is taken from there."""
_TAGS = ("", "[vqa] ", "[caption] ", "[refer] ", "[identify] ", "[grounding] ", "[detection] ")
_QUESTIONS = (
    *("What stands beside the red car?", "a  b", " two  blanks   and three", "A.", "Is it A. or B.?", "", " ", "C. D."),
    *("What is this? {<12><3><40><77>}", "<p>red circle</p>", "line\nend", "tab\there\r\n", "costs $$ 5", "x$$", "$$"),
    *(
        "日本語の文",
        "Straße, naïve, 한국어",
        "👩\u200d👩\u200d👧 🇩🇪",
        "ﬁ ² Ａ ½ e\u0301",
        "\u2581\u2581mark",
        "nul \x00",
    ),
    *("a <s> b</s>c", "<unk> and <s>", "<0x0A>", "[INST] again [/INST]", "<Img> </Img>", "1234567890 3.14"),
    *("    for i in range(3):\n        print(i)\n\n\n\n", "aaaaaaaaaaaaa bbbbb", "x" + 41 * " " + "y", 15 * " "),
)
_ANSWERS = (
    *("yes", "A.", "B. the red circle", " the cat", "<p>red circle</p> {<7><8><9><10>}", "{<0><100><3><4>}", ""),
    *("two  blanks", "日本", "👍 é", "a\nb", "It is a man in a red shirt. He holds 2 cups."),
)


def write_transformers_tokenizer(tokenizer: SentencePieceTokenizer, folder: Path, *, source: Path) -> None:
    """Write `tokenizer.model`, `tokenizer.json` and its configuration; the chat template is that of `source`, a folder.

    Raises: ValueError with the first text that transformers' AutoTokenizer reads as other ids.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(tokenizer.model_bytes)
    _to_backend(tokenizer.model_bytes).save(str(folder / "tokenizer.json"))
    config = {
        # with another class, transformers replaces the normalizer of tokenizer.json
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{"bos_token": BOS, "eos_token": EOS, "unk_token": UNKNOWN, "pad_token": EOS},
        **{"padding_side": "left", "clean_up_tokenization_spaces": False},
        **_chat_template(source / "tokenizer_config.json"),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    if (source / "chat_template.jinja").is_file():
        shutil.copyfile(source / "chat_template.jinja", folder / "chat_template.jinja")
    check_transformers_tokenizer(tokenizer, folder)


def copy_transformers_tokenizer(tokenizer: TransformersTokenizer, folder: Path) -> None:
    """Write the tokenizer of another family than Llama, as transformers read it.

    Raises: ValueError with the first text that reads as other ids from the new folder.
    """
    tokenizer.save(folder)
    copied = TransformersTokenizer(str(folder))
    for text in sample_texts():
        ids, expected = copied.encode(text), tokenizer.encode(text)
        if ids != expected:
            raise ValueError(f"{folder}: AutoTokenizer reads {text!r} as {ids}, the model learnt {expected}")


def check_transformers_tokenizer(tokenizer: SentencePieceTokenizer, folder: Path) -> None:
    """Compare the ids and texts of transformers' AutoTokenizer with ours.

    Raises: ValueError with the first text or the first ids that differ.
    """
    from transformers import AutoTokenizer

    theirs: Any = AutoTokenizer.from_pretrained(str(folder))
    for text in (*sample_texts(), *_pieces_after_fixed_ones(tokenizer.model_bytes)):
        ours = tokenizer.encode(text)
        for special, expected in ((False, ours), (True, [tokenizer.bos_id, *ours])):
            ids = theirs(text, add_special_tokens=special)["input_ids"]
            if ids != expected:
                raise ValueError(f"{folder}: AutoTokenizer reads {text!r} as {ids}, the model learnt {expected}")
        # our decoding drops the pad piece, which is ordinary text in answers read by transformers
        ids = [number for number in ours if number != tokenizer.pad_id]
        decoded, expected_text = theirs.decode(ids, skip_special_tokens=True), tokenizer.decode(ids)
        if decoded != expected_text:
            raise ValueError(f"{folder}: AutoTokenizer decodes {ids} as {decoded!r}, the model as {expected_text!r}")


def sample_texts() -> Iterator[str]:
    """Yield typical texts: questions, prompts of one and two turns, and answers."""
    for question in _QUESTIONS:
        yield question
        for tag in _TAGS:
            yield f"[INST] {tag}{question} [/INST]"
            yield f"<s>[INST] <Img></Img> {tag}{question} [/INST]"
    for number, answer in enumerate(_ANSWERS):
        yield answer
        yield f"{answer}</s>"
        question = _QUESTIONS[number]
        yield f"<s>[INST] <Img></Img> [vqa] {question} [/INST]{answer}</s><s>[INST] {question} [/INST]{answer}</s>"


def _pieces_after_fixed_ones(serialized: bytes) -> list[str]:
    """Return each learnt piece as text after a user-defined one, where it is a separate word."""
    pieces = ModelProto.FromString(serialized).pieces
    fixed = [piece.piece for piece in pieces if piece.type == Piece.USER_DEFINED]
    learnt = [piece.piece for piece in pieces if piece.type == Piece.NORMAL]
    return [(fixed[0] + piece).replace(WORD_START, " ") for piece in learnt] if fixed else []


def _to_backend(serialized: bytes) -> Tokenizer:
    """Return a sentencepiece model as a tokenizer of the tokenizers package."""
    model = ModelProto.FromString(serialized)
    vocab = {piece.piece: number for number, piece in enumerate(model.pieces)}
    learnt = {piece.piece: piece.score for piece in model.pieces if piece.type == Piece.NORMAL}
    merges = [pair for piece in learnt for pair in splits(piece, learnt)]
    # sentencepiece merges the leftmost of equal scores, as runs of blanks have. The longest left part first does the
    # same, since then one run at a time grows.
    merges.sort(key=lambda pair: (-learnt["".join(pair)], -len(pair[0]), -len(pair[1])))
    fixed = sorted((piece.piece for piece in model.pieces if piece.type == Piece.USER_DEFINED), key=len, reverse=True)
    backend = Tokenizer(
        models.BPE(
            vocab,
            merges,
            unk_token=UNKNOWN,
            fuse_unk=True,
            byte_fallback=bool(model.trainer_spec.byte_fallback),
            # user-defined pieces have no merges: each is a separate word, and words of the vocabulary stay whole
            ignore_merges=bool(fixed),
        )
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend(WORD_START), normalizers.Replace(" ", WORD_START)])
    if fixed:
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(_words_by_themselves(fixed, learnt)), "isolated")
    backend.decoder = decoders.Sequence(
        [decoders.Replace(WORD_START, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, vocab[BOS])]
    )
    backend.add_special_tokens([AddedToken(piece, normalized=False) for piece in (UNKNOWN, BOS, EOS)])
    return backend


def _words_by_themselves(fixed: Sequence[str], learnt: Iterable[str]) -> str:
    """Return a pattern for the user-defined pieces, and for the start of a text like `<0x41>` after one.

    That text is the name of a byte piece, so a word of the vocabulary. It is cut where no learnt piece crosses.
    """
    pieces = "|".join(map(re.escape, fixed))
    seams = {piece[k : k + 2] for piece in learnt for k in range(len(piece) - 1)}
    for start, rest in (("<", "0x"), ("<0", "x")):
        if start[-1] + rest[0] not in seams:
            return f"{pieces}|(?<={pieces}){start}(?={rest}[0-9A-F]{{2}}>)"
    return pieces


def _chat_template(config: Path) -> dict[str, Any]:
    """Return the chat template of a tokenizer_config.json, if the file is there and has one."""
    if not config.is_file():
        return {}
    try:
        settings = json.loads(config.read_bytes())
        return {key: settings[key] for key in ("chat_template",) if key in settings}
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{config}: cannot read it: {error}") from error
