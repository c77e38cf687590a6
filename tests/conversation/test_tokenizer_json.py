"""A tokenizer.json gives the ids of its tokenizer.model, or is refused with the reason."""

import hashlib
import importlib.util
import json
import logging
import shutil
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minigpt4.conversation.tokenizer import ByteTokenizer, SentencePieceTokenizer, load_tokenizer
from minigpt4.conversation.tokenizer_json import RUNS_LAST
from minigpt4.sample_world.world import ASSETS
from tests.conversation.small_tokenizers import TEXTS, change, convert, convert_by_score, merge_runs_last, train

FIXED = ["$$", "\u2581[INST]", "\u2581[vqa]", "A.", "B."]
NO_RUNS = {"allow_whitespace_only_pieces": False}
ON_BUSY_CORES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
BESIDE = r"; put tokenizer\.model beside it"


def assert_same(folder, path, texts=TEXTS):
    """Check ids, texts and special ids of a tokenizer.json against those of a folder's tokenizer.model."""
    model, from_json = SentencePieceTokenizer(folder / "tokenizer.model"), SentencePieceTokenizer(path)
    ids = [model.encode(text) for text in texts]
    assert [text for text, item in zip(texts, ids, strict=True) if from_json.encode(text) != item] == []
    assert [item for item in ids if from_json.decode(item) != model.decode(item)] == []
    numbers = [(one.bos_id, one.eos_id, one.pad_id, one.vocab_size) for one in (model, from_json)]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("options", [{}, {"user_defined_symbols": FIXED}, {"byte_fallback": False}])
def test_the_ids_of_a_file_by_transformers_5_are_those_of_tokenizer_model(tmp_path, options):
    folder = train(tmp_path / "model", **NO_RUNS, **options)
    assert_same(folder, convert(folder, tmp_path / "json"))


def test_the_sample_worlds_user_defined_pieces_come_back_from_a_file_by_transformers_5(tmp_path):
    assert_same(ASSETS / "llama_tiny", convert(ASSETS / "llama_tiny", tmp_path))


@pytest.mark.parametrize("sort_pairs", [None, lambda pair: (-len(pair[0]), -len(pair[1]))])
@pytest.mark.parametrize("options", [{}, {"user_defined_symbols": FIXED}])
def test_a_file_with_runs_of_blanks_last_is_read_as_it_is(tmp_path, options, sort_pairs):
    folder = merge_runs_last(train(tmp_path / "model", **options))
    assert_same(folder, convert_by_score(folder, tmp_path / "json", sort_pairs=sort_pairs))


def test_a_file_in_the_order_of_ids_is_refused_when_its_runs_of_blanks_may_merge_last(tmp_path):
    path = convert(merge_runs_last(train(tmp_path / "model")), tmp_path / "json")
    with pytest.raises(
        ValueError, match=r"json/tokenizer\.json: its ids may differ .* runs of blanks such as .* merge;"
    ):
        load_tokenizer(str(path.parent))
    shutil.copy(tmp_path / "model" / "tokenizer.model", path.parent)
    assert load_tokenizer(str(path.parent)).encode("a  b") == load_tokenizer(str(tmp_path / "model")).encode("a  b")


def test_runs_of_blanks_merge_last_in_a_known_vocabulary(tmp_path, monkeypatch):
    folder = merge_runs_last(train(tmp_path / "model"))
    path = convert(folder, tmp_path / "json")
    pieces = list(json.loads(path.read_text())["model"]["vocab"])[259:]
    monkeypatch.setitem(RUNS_LAST, hashlib.sha256("\n".join(pieces).encode()).hexdigest(), "small")
    assert_same(folder, path)


@pytest.mark.skipif(importlib.util.find_spec("mistral_common") is None, reason="it brings a model of 32,000 pieces")
def test_a_real_vocabulary_of_32000_pieces_comes_back_from_a_file_by_transformers_5(tmp_path):
    package = importlib.util.find_spec("mistral_common")
    assert package is not None
    assert package.origin is not None
    shutil.copy(Path(package.origin).parent / "data" / "tokenizer.model.v1", tmp_path / "tokenizer.model")
    assert_same(tmp_path, convert(tmp_path, tmp_path / "json"))


def without(key):
    return lambda entries: {name: value for name, value in entries.items() if name != key}


def model_with(**changes):
    return lambda model: {**model, **{key: value(model[key]) for key, value in changes.items()}}


UNREADABLE = {
    "of another model": ({"model": {"type": "WordPiece", "vocab": {}}}, r"its model is WordPiece, not BPE"),
    "of unigrams": ({"model": {"type": "Unigram", "vocab": [["<unk>", 0.0]]}}, r"its model is Unigram, not BPE"),
    "of bytes": (
        {"pre_tokenizer": {"type": "ByteLevel"}},
        r"its pre_tokenizer has the step ByteLevel, which Llama-2's tokenizer lacks",
    ),
    "with a normalizer": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}},
        r"its normalizer has the step NFKC, which Llama-2's tokenizer lacks",
    ),
    "that joins blanks": (
        {"normalizer": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}},
        r"its normalizer has the step Replace, which Llama-2's tokenizer lacks",
    ),
    "without <unk>": (
        {"model": model_with(vocab=lambda vocab: {"<none>": 0, **without("<unk>")(vocab)})},
        r"it is not a Llama tokenizer: it lacks <unk>",
    ),
    "with a gap": (
        {"model": model_with(vocab=lambda vocab: {**vocab, "new": len(vocab) + 1})},
        r"its ids are not 0, 1, 2 and so on",
    ),
    "with pieces added behind": (
        {"model": model_with(vocab=lambda vocab: {**vocab, "xyz": len(vocab)})},
        r"the character .* precedes longer pieces, so the ids do not follow the scores",
    ),
    "with merges in another order": (
        {"model": model_with(merges=lambda merges: merges[::-1])},
        r"its merges are not in the order of the ids",
    ),
    "without a merge": (
        {"model": model_with(merges=lambda merges: merges[:50] + merges[51:])},
        r"its merges for '.*' are not all ways to put it together",
    ),
    "with unmarked user-defined pieces": (
        {"added_tokens": lambda tokens: tokens[:3]},
        r"'<0x00>' follows the piece 'B\.', which is no added token",
    ),
    "with a learnt piece added": (
        {"added_tokens": lambda tokens: [*tokens, {"content": "\u2581the", "special": False}]},
        r"the added token '\u2581the' follows learnt pieces",
    ),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_with_ids_that_may_differ_is_refused_with_the_reason(tmp_path, kind):
    changes, reason = UNREADABLE[kind]
    path = convert(train(tmp_path / "model", user_defined_symbols=FIXED, **NO_RUNS), tmp_path / "json")
    SentencePieceTokenizer(path)
    with pytest.raises(ValueError, match=reason + BESIDE):
        SentencePieceTokenizer(change(path, **changes))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"model": 1}',
        '{"model": {"type": "BPE"}}',
        100_000 * "[",
        '{"model": {"vocab": {"a": "b"}}}',
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer\.json: cannot read it as a tokenizer: "):
        load_tokenizer(str(tmp_path))


def test_bytes_that_are_no_text_are_refused_by_name(tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(ValueError, match=r"tokenizer\.json: cannot read it as a tokenizer: "):
        load_tokenizer(str(tmp_path))


@pytest.fixture(scope="module")
def good_file(tmp_path_factory):
    """A path, and what a good tokenizer.json holds."""
    folder = tmp_path_factory.mktemp("good")
    path = convert(train(folder, user_defined_symbols=FIXED, **NO_RUNS), folder / "json")
    return path, json.dumps(json.loads(path.read_text()), ensure_ascii=False)


@ON_BUSY_CORES
@given(place=st.floats(0, 1), length=st.integers(0, 30), text=st.text('{}[]":,0-1\u2581<>a\\ud8', max_size=8))
def test_a_damaged_file_is_refused_by_name_or_read(good_file, place, length, text):
    path, content = good_file
    start = int(place * len(content))
    path.write_text(content[:start] + text + content[start + length :])
    try:
        SentencePieceTokenizer(path).encode("the red  circle")
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")


def test_tokens_added_beyond_the_vocabulary_stay_plain_text_as_in_tokenizer_model(tmp_path, caplog):
    folder = train(tmp_path / "model", **NO_RUNS)
    path = convert(folder, tmp_path / "json")
    change(path, added_tokens=lambda tokens: [*tokens, {"id": 420, "content": "<pad>", "special": True}])
    with caplog.at_level(logging.WARNING):
        assert_same(folder, path, ["a <pad> b"])
    assert "added tokens without a place in its vocabulary are plain text: <pad>" in caplog.text


def test_a_learnt_piece_that_pads_stays_an_ordinary_piece(tmp_path):
    folder = train(tmp_path / "model", **NO_RUNS)
    path = convert(folder, tmp_path / "json")
    change(path, added_tokens=lambda tokens: [*tokens, {"id": 300, "content": "\u2581the", "special": True}])
    assert "\u2581the" in json.loads(path.read_text())["model"]["vocab"]
    assert_same(folder, path)


@cache
def pair_of_tokenizers(folder):
    import tempfile

    with tempfile.TemporaryDirectory() as out:
        return SentencePieceTokenizer(folder / "tokenizer.model"), SentencePieceTokenizer(convert(folder, Path(out)))


@ON_BUSY_CORES
@given(text=st.text() | st.text("ab  <>/s[]vq\u2581.A$\n\t0x1é日") | st.lists(st.sampled_from(TEXTS)).map("".join))
@example(text="A.<0x41>")
def test_any_text_has_the_same_ids_and_comes_back(text):
    model, from_json = pair_of_tokenizers(ASSETS / "llama_tiny")
    ids = model.encode(text)
    assert from_json.encode(text) == ids
    assert from_json.decode(ids) == model.decode(ids)
    if not any(piece in text for piece in ("<s>", "</s>", "<unk>", "$$", "\u2581")):
        assert model.decode(ids) == text


@ON_BUSY_CORES
@given(before=st.text(), half=st.characters(categories=["Cs"]), after=st.text())
def test_half_of_a_surrogate_pair_is_refused_by_its_place(before, half, after):
    for tokenizer in (*pair_of_tokenizers(ASSETS / "llama_tiny"), ByteTokenizer()):
        with pytest.raises(
            ValueError, match=r"half of a surrogate pair, '\\ud[89a-f]..', at character \d+ of the text"
        ):
            tokenizer.encode(before + half + after)
