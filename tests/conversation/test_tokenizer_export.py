"""The files written for transformers: its AutoTokenizer gives the ids of the model's own tokenizer."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.tokenizer import SentencePieceTokenizer, load_tokenizer
from minigpt4.conversation.tokenizer_export import (
    check_transformers_tokenizer,
    sample_texts,
    write_transformers_tokenizer,
)
from minigpt4.sample_world.scenes import make_scene
from minigpt4.sample_world.world import ASSETS
from tests.conversation.small_tokenizers import TEXTS, convert, convert_by_score, merge_runs_last, train
from tests.models.golden_model import ASSETS as GOLDEN_ASSETS
from tools.tiny_weights.lessons import scene_lesson
from tools.tiny_weights.quiz import letter_quiz_lesson

SAMPLE_WORLD, GOLDEN = ASSETS / "llama_tiny", GOLDEN_ASSETS / "llama_tiny"
FIXED = ["$$", "\u2581[INST]", "\u2581[vqa]", "A.", "B."]


def lesson_texts():
    """Yield what the sample world asks and answers, as text alone and as prompts of one turn and of two."""
    for number in range(25):
        rng = derive_rng(0, "texts", number)
        scene = make_scene(0, "evaluation", number)
        lessons = scene_lesson(scene, rng, num_turns=8), letter_quiz_lesson(scene, rng, judged=0.5)
        for turn in (turn for lesson in lessons for turn in lesson.turns):
            prompt = f"<s>[INST] <Img></Img> {turn.prompt} [/INST]"
            yield from (turn.prompt, turn.answer, f"{turn.answer}</s>", prompt, f"{prompt}{turn.answer}</s>{prompt}")


ALL_TEXTS = [*dict.fromkeys([*lesson_texts(), *TEXTS])]


def hub_folder(tmp_path):
    """A folder as on the hub: tokenizer.model, a tokenizer.json of transformers 4 and its configuration."""
    folder = merge_runs_last(train(tmp_path / "hub"))
    convert_by_score(folder, folder)
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "legacy": False,
        "pad_token": None,
        "chat_template": "{{ bos_token }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


SOURCES = {
    "the sample world's": lambda tmp_path: SAMPLE_WORLD,
    "the recorded one": lambda tmp_path: GOLDEN,
    "as on the hub": hub_folder,
    "tokenizer.model alone": lambda tmp_path: merge_runs_last(train(tmp_path / "alone")),
    "runs of blanks that merge early": lambda tmp_path: train(tmp_path / "early"),
    "with user-defined pieces and runs": lambda tmp_path: merge_runs_last(
        train(tmp_path / "fixed", user_defined_symbols=FIXED)
    ),
    "without byte pieces": lambda tmp_path: train(tmp_path / "bare", byte_fallback=False),
    "tokenizer.json alone": lambda tmp_path: (
        convert(
            train(tmp_path / "model", user_defined_symbols=FIXED, allow_whitespace_only_pieces=False), tmp_path / "json"
        ).parent
    ),
}


@pytest.mark.parametrize("name", SOURCES)
def test_autotokenizer_gives_the_ids_and_texts_of_ours(tmp_path, name):
    source = SOURCES[name](tmp_path)
    ours, out = load_tokenizer(str(source)), tmp_path / "out"
    write_transformers_tokenizer(ours, out, source=source)
    shutil.copy(SAMPLE_WORLD / "config.json", out)  # AutoTokenizer looks at the model's type too
    theirs, beside = AutoTokenizer.from_pretrained(str(out)), load_tokenizer(str(out))
    assert len(ALL_TEXTS) > 700
    expected = [ours.encode(text) for text in ALL_TEXTS]
    plain, with_bos = (theirs(ALL_TEXTS, add_special_tokens=special)["input_ids"] for special in (False, True))
    assert [text for text, one, two in zip(ALL_TEXTS, plain, expected, strict=True) if one != two] == []
    assert with_bos == [[ours.bos_id, *item] for item in plain]
    assert [beside.encode(text) for text in ALL_TEXTS] == expected
    ids = [[number for number in item if number != ours.pad_id] for item in expected]
    texts = [(theirs.decode(item, skip_special_tokens=True), ours.decode(item)) for item in ids]
    assert [pair for pair in texts if pair[0] != pair[1]] == []
    assert (len(theirs), theirs.pad_token_id, theirs.eos_token_id) == (ours.vocab_size, ours.eos_id, ours.eos_id)


def test_the_chat_template_is_that_of_the_base_model(tmp_path):
    source, out = hub_folder(tmp_path), tmp_path / "out"
    (source / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    write_transformers_tokenizer(load_tokenizer(str(source)), out, source=source)
    assert json.loads((out / "tokenizer_config.json").read_text())["chat_template"] == "{{ bos_token }}"
    assert (out / "chat_template.jinja").read_text() == "{{ messages[0]['content'] }}"
    assert (out / "tokenizer.model").read_bytes() == (source / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("text", ["{", "1"])
def test_a_broken_configuration_is_named(tmp_path, text):
    source = train(tmp_path / "source")
    (source / "tokenizer_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"source/tokenizer_config\.json: cannot read it: "):
        write_transformers_tokenizer(load_tokenizer(str(source)), tmp_path / "out", source=source)


def test_the_first_text_with_other_ids_is_named(tmp_path):
    ours = SentencePieceTokenizer(SAMPLE_WORLD / "tokenizer.model")
    folder = convert(SAMPLE_WORLD, tmp_path).parent
    with pytest.raises(ValueError, match=r"AutoTokenizer reads '.*' as \[.*\], the model learnt \[\d+, .*\]$"):
        check_transformers_tokenizer(ours, folder)


def test_a_tokenizer_that_normalizes_text_cannot_be_exported(tmp_path):
    source = train(tmp_path / "source", normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)
    with pytest.raises(ValueError, match=r"AutoTokenizer reads 'a  b' as "):
        write_transformers_tokenizer(load_tokenizer(str(source)), tmp_path / "out", source=source)


def test_the_texts_that_export_compares_hold_every_kind_of_prompt():
    texts = [*sample_texts()]
    assert len({*texts}) > 300
    for part in ("[vqa] ", "[detection] ", "  ", "A.", "{<12><3>", "日本", "</s><s>[INST] ", "\r\n", "$$", "<unk>"):
        assert any(part in text for text in texts)
