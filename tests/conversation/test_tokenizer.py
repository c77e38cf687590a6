"""The tokenizers against the recorded ids and texts."""

import json
import pickle
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from minigpt4.conversation.tokenizer import ByteTokenizer, JsonTokenizer, SentencePieceTokenizer, load_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "model"
FOLDER = GOLDEN / "assets" / "llama_tiny"
RECORDED = json.loads((GOLDEN / "tokenizer.json").read_text())


def write_tokenizer_json(folder: Path) -> Path:
    """Write the vocabulary of the recorded tokenizer.model as a tokenizer.json with another idea of blanks."""
    model = sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / "tokenizer.model"))
    pieces = [model.id_to_piece(i) for i in range(model.vocab_size())]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for i, piece in enumerate(pieces):
        if model.is_control(i) or model.is_byte(i) or model.is_unknown(i):
            continue
        splits = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        known = [(a, b) for a, b in splits if a in vocab and b in vocab]
        merges += sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.add_special_tokens([AddedToken(piece, normalized=False) for piece in ("<unk>", "<s>", "</s>")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module", params=["tokenizer.model", "tokenizer.json"])
def tokenizer(request, tmp_path_factory):
    if request.param == "tokenizer.model":
        return load_tokenizer(str(FOLDER))
    return load_tokenizer(str(write_tokenizer_json(tmp_path_factory.mktemp("json"))))


def test_every_recorded_string_gets_its_recorded_ids(tokenizer):
    assert len(RECORDED["strings"]) == 76
    ours = {case["text"]: tokenizer.encode(case["text"]) for case in RECORDED["strings"]}
    assert ours == {case["text"]: case["ids_no_special"] for case in RECORDED["strings"]}


def test_every_recorded_string_comes_back_from_its_ids_as_recorded(tokenizer):
    ours = [tokenizer.decode(case["ids_special"]) for case in RECORDED["strings"]]
    assert ours == [case["decode_skip"] for case in RECORDED["strings"]]


def test_every_recorded_list_of_ids_decodes_as_recorded(tokenizer):
    assert [tokenizer.decode(case["ids"]) for case in RECORDED["decode"]] == [c["skip"] for c in RECORDED["decode"]]


def test_the_special_ids_are_the_recorded_ones(tokenizer):
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (1, 2, 612, 832)


def test_a_tokenizer_survives_the_way_to_a_worker(tokenizer):
    assert pickle.loads(pickle.dumps(tokenizer)).encode("truck</s>") == [477, 2]


def test_the_folder_chooses_the_tokenizer(tmp_path):
    assert isinstance(load_tokenizer(str(FOLDER)), SentencePieceTokenizer)
    assert isinstance(load_tokenizer(str(write_tokenizer_json(tmp_path))), JsonTokenizer)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.llama_model: .* has neither tokenizer\.model nor tokenizer\.json"):
        load_tokenizer(str(tmp_path))


def test_a_hub_id_that_cannot_be_reached_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"model\.llama_model: HF_HUB_OFFLINE forbids a request"):
        load_tokenizer("nobody/nothing")


@pytest.mark.parametrize("reader", [SentencePieceTokenizer, JsonTokenizer])
def test_a_file_of_another_kind_is_refused_by_name(reader, tmp_path):
    (tmp_path / "tokenizer.x").write_text("[]")
    with pytest.raises(ValueError, match=r"tokenizer\.x: cannot read it"):
        reader(tmp_path / "tokenizer.x")


def test_the_byte_tokenizer_needs_no_file_and_knows_the_special_tokens():
    tokenizer = pickle.loads(pickle.dumps(ByteTokenizer()))
    assert tokenizer.encode("<s>aé</s>") == [1, 100, 198, 172, 2]
    assert tokenizer.decode([1, 100, 198, 172, 2, 5000]) == "aé"


def test_an_empty_file_is_no_tokenizer(tmp_path):
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(ValueError, match=r"tokenizer\.model: is no sentencepiece model, it has no pieces"):
        load_tokenizer(str(tmp_path))
