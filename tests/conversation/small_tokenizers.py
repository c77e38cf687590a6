"""Small sentencepiece models, and what transformers makes of them."""

import io
import json

import sentencepiece
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from transformers import LlamaTokenizer

from minigpt4.conversation.tokenizer_json import Piece, is_run, splits

LINES = (
    *("def f(x):", "    return x  # done", "        if x:  pass", "            y = 3.5", "a  b   c    d     e"),
    *("the red circle is left of the blue square", "What is this? A. cat B. dog", "[INST] [vqa] say it [/INST]"),
    *("Straße café 日本語 {<12><3><40><77>}", "<Img></Img> yes no yes no"),
)
TEXTS = (
    *(
        "",
        " ",
        "a  b",
        "</Img> [vqa] What is this?  [/INST]",
        "one blank only",
        "A.",
        "A. B.A.",
        "is it A.?",
        "x\ty\r\n\n",
    ),
    *("日本語", "👩\u200d👩\u200d👧 🇩🇪", "<s>", "a<s> b</s>c <unk>", "<0x41>", "<s", "{<12><3>}", "ﬁ ² Ａ e\u0301"),
    *(
        "\u2581",
        "\u2581\u2581x",
        "a\x00b",
        "def f(x):\n        return  x\n\n\n\ty",
        "the the  the   the",
        "[vqa][vqa] [INST]",
    ),
    *("A.<0x41>", "[vqa]<0x0A> [INST]", "B.<0x41><0x42>", "A.<0x4", "A.<0x00>A.<0xFF> A.<0xGG> A.<s><0x41>"),
    *(f"x{number * ' '}y" for number in range(41)),
    *(f"{number * ' '}the" for number in range(41)),
    *(number * " " for number in range(41)),
)


def train(folder, **options):
    """Write the tokenizer.model of a small BPE with the traits of Llama's; return its folder."""
    settings = {
        **{"model_type": "bpe", "vocab_size": 420, "byte_fallback": True, "character_coverage": 1.0},
        **{"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_digits": True},
        **{"allow_whitespace_only_pieces": True, "hard_vocab_limit": False, "num_threads": 1, "minloglevel": 2},
        **{"user_defined_symbols": [], **options},
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(20 * LINES), model_writer=model, **settings)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return folder


def merge_runs_last(folder):
    """Give the runs of blanks of a tokenizer.model the score that Llama's have."""
    model = ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    runs = [piece for piece in model.pieces if is_run(piece.piece)]
    assert len(runs) > 3
    for piece in runs:
        piece.score = -1e9
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    return folder


def convert(folder, out):
    """Return the tokenizer.json that the installed transformers makes of a tokenizer.model."""
    LlamaTokenizer.from_pretrained(str(folder)).save_pretrained(str(out))
    return out / "tokenizer.json"


def convert_by_score(folder, out, *, sort_pairs=None):
    """Return a tokenizer.json with its merges by falling score, as transformers 4 wrote them."""
    model = ModelProto.FromString((folder / "tokenizer.model").read_bytes())
    vocab = {piece.piece: number for number, piece in enumerate(model.pieces)}
    scores = {piece.piece: piece.score for piece in model.pieces}
    merges = []
    for piece in model.pieces:
        pairs = splits(piece.piece, vocab)
        merges += sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    merges.sort(key=lambda pair: (-scores["".join(pair)], *(sort_pairs(pair) if sort_pairs else ())))
    special = {Piece.UNKNOWN: True, Piece.CONTROL: True, Piece.USER_DEFINED: False}
    content = {
        "added_tokens": [
            {"id": vocab[piece.piece], "content": piece.piece, "special": special[piece.type]}
            for piece in model.pieces
            if piece.type in special
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        "pre_tokenizer": None,
        "model": {"type": "BPE", "vocab": vocab, "merges": [" ".join(pair) for pair in merges]},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(json.dumps(content))
    return out / "tokenizer.json"


def change(path, **changes):
    """Rewrite a tokenizer.json with some of its top entries changed, of a function those of `model`."""
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content[key] = value(content[key]) if callable(value) else value
    path.write_text(json.dumps(content))
    return path
