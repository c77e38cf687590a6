"""Model families with other marks than Llama-2's, with tokenizers that transformers reads from a folder."""

import pickle
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from minigpt4.common.schema import ModelConfig
from minigpt4.conversation.chat_format import LLAMA_2, ChatFormat
from minigpt4.conversation.conversation import IGNORE_INDEX, IMAGE_TOKEN, Example, Turn
from minigpt4.conversation.encoder import ChatEncoder, SampleTooLong
from minigpt4.conversation.tokenizer import ByteTokenizer, TransformersTokenizer
from tests.conversation.small_families import CHATML, LLAMA_3, write_chatml, write_llama_3

DOC = Path(__file__).parents[2] / "docs" / "chat-formats.md"
IMG = "<Img><ImageHere></Img>"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
TURNS = [Turn(f"{IMG} [vqa] what is this? ", "a red circle"), Turn("is it blue? ", "no")]
FAMILIES = {"chatml": (CHATML, write_chatml), "llama_3": (LLAMA_3, write_llama_3)}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request, tmp_path_factory):
    chat_format, write = FAMILIES[request.param]
    return chat_format, TransformersTokenizer(str(write(tmp_path_factory.mktemp(request.param))))


@pytest.fixture(scope="module")
def chatml(tmp_path_factory):
    return TransformersTokenizer(str(write_chatml(tmp_path_factory.mktemp("chatml"))))


@pytest.fixture(scope="module")
def llama_3(tmp_path_factory):
    return TransformersTokenizer(str(write_llama_3(tmp_path_factory.mktemp("llama_3"))))


def encoder_of(tokenizer, chat_format, **options):
    return ChatEncoder(tokenizer, **{"num_image_tokens": 2, "chat_format": chat_format, **options})


def as_text(tokenizer, ids):
    """Return ids as text with special tokens, # for an image token and . for a masked label."""
    names = {number: text for text, number in tokenizer.special.items()} | {IMAGE_TOKEN: "#", IGNORE_INDEX: "."}
    return "".join(names.get(number) or tokenizer.decode([number]) for number in ids.tolist())


def test_chatml_is_laid_out_with_system_text_role_words_and_a_newline_between_turns(chatml):
    ids, _ = encoder_of(chatml, CHATML).encode(TURNS)
    assert as_text(chatml, ids) == (
        f"{SYSTEM}<|im_start|>user\n<Img>##</Img> [vqa] what is this?<|im_end|>\n<|im_start|>assistant\n"
        "a red circle<|im_end|>\n<|im_start|>user\nis it blue?<|im_end|>\n<|im_start|>assistant\nno<|im_end|>"
    )


def test_llama_3_begins_with_one_bos_in_training_and_in_generation(llama_3):
    encoder = encoder_of(llama_3, LLAMA_3)
    ids, _ = encoder.encode(TURNS[1:])
    asked = (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nis it blue?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert as_text(llama_3, ids) == f"{asked}no<|eot_id|>"
    assert as_text(llama_3, encoder.prompt_ids(LLAMA_3.generation_prompt("is it blue?", has_image=False))) == asked


def test_labels_are_the_answers_and_their_ends_alone(family):
    chat_format, tokenizer = family
    ids, labels = encoder_of(tokenizer, chat_format).encode(TURNS)
    learnt = labels != IGNORE_INDEX
    assert torch.equal(labels[learnt], ids[learnt])
    assert as_text(tokenizer, labels).strip(".").split(".")[0] == f"a red circle{chat_format.end}"
    assert as_text(tokenizer, labels[learnt]) == f"a red circle{chat_format.end}no{chat_format.end}"


def test_a_generation_prompt_has_the_ids_of_training(family):
    chat_format, tokenizer = family
    encoder = encoder_of(tokenizer, chat_format)
    ids, labels = encoder.encode(TURNS[:1])
    asked = encoder.prompt_ids(chat_format.generation_prompt("[vqa] what is this?"))
    assert torch.equal(asked, ids[labels == IGNORE_INDEX])


def test_a_chat_over_several_turns_has_the_ids_of_training(family):
    chat_format, tokenizer = family
    encoder = encoder_of(tokenizer, chat_format)
    turns = [*TURNS, Turn("\n\n why?", "\n  because\n"), Turn(" {} <b>", "")]
    asked = encoder.prompt_ids(chat_format.chat_prompt(turns[:-1], turns[-1].prompt))
    trained = encoder_of(tokenizer, chat_format, max_txt_len=999).encode(turns)[0]
    assert torch.equal(asked, trained[:-1])  # all but the end of the last, empty answer


def test_positions_begin_at_zero_in_each_example_and_no_first_token_has_a_label(chatml):
    encoder = encoder_of(chatml, CHATML, chat_template=False)
    batch = encoder.collate([Example(turns=(Turn("", "yes no"),), id="a"), Example(turns=(Turn("", "no"),), id="b")])
    starts = [0, int(batch.lengths[0])]
    assert batch.position_ids[starts].tolist() == [0, 0]
    assert batch.labels[starts].tolist() == [IGNORE_INDEX] * 2
    assert not set(starts) & set(batch.target_positions.tolist())
    assert as_text(chatml, batch.input_ids) == "yes no<|im_end|>no<|im_end|>"


def test_an_example_without_a_single_token_is_refused_by_name(chatml):
    encoder = encoder_of(chatml, CHATML, chat_template=False, end_sym="")
    with pytest.raises(ValueError, match=r"gqa\[3\]: neither its question nor its answer has a token"):
        encoder.collate([Example(turns=(Turn("a", "b"),)), Example(turns=(Turn("", ""),), id="gqa[3]")])


@pytest.mark.parametrize("limit", [40, 44, 48, 52])
def test_a_cut_of_the_prompt_takes_text_and_leaves_the_image_span(limit, family):
    chat_format, tokenizer = family
    encoder = encoder_of(tokenizer, chat_format, max_context_len=limit)
    question = f"{'what is this? ' * 9}{IMG} {'yes ' * 9}"
    ids, labels = encoder.encode([Turn(question, "no")])
    assert len(ids) == len(encoder.tokenizer.encode(chat_format.bos)) + limit + 2
    assert "<Img>##</Img>" in as_text(tokenizer, ids)
    assert as_text(tokenizer, labels[-2:]) == f"no{chat_format.end}"


def test_an_image_span_that_does_not_fit_is_refused(family):
    chat_format, tokenizer = family
    with pytest.raises(SampleTooLong, match="its image spans take"):
        encoder_of(tokenizer, chat_format, max_context_len=4).encode(TURNS)


def test_a_family_may_mark_its_images_otherwise(chatml):
    chat_format = ChatFormat(template="Q: {}\nA:", end="<|im_end|>", image_open="[", image_close="]")
    encoder = encoder_of(chatml, chat_format)
    assert as_text(chatml, encoder.encode(TURNS[:1])[0]) == "Q: [##] [vqa] what is this?\nA:a red circle<|im_end|>"
    asked = encoder.prompt_ids(chat_format.generation_prompt("why?"))
    assert as_text(chatml, asked) == "Q: [##] why?\nA:"


def test_the_formats_of_the_documentation_are_the_tested_ones():
    names = {}
    exec(DOC.read_text().split("```python\n")[1].split("```")[0], names)
    assert (names["CHATML"], names["LLAMA_3"]) == (CHATML, LLAMA_3)
    assert all(f"`{field.name}`" in DOC.read_text() for field in fields(ChatFormat))


@pytest.mark.parametrize(
    ("chat_format", "options", "template", "end"),
    [
        (LLAMA_2, {}, "[INST] {} [/INST]", "\n"),
        (LLAMA_2, {"end_sym": "</s>", "prompt_template": "Q: {}"}, "Q: {}", "</s>"),
        (CHATML, {}, CHATML.template, "<|im_end|>"),
        (CHATML, {"end_sym": ""}, CHATML.template, ""),
    ],
)
def test_a_yaml_that_leaves_out_template_and_end_has_those_of_the_family(chat_format, options, template, end):
    section = ModelConfig(max_txt_len=7, max_context_len=8, **options)
    encoder = ChatEncoder.from_config(section, tokenizer=ByteTokenizer(), chat_format=chat_format, num_image_tokens=3)
    assert (encoder.chat_format.template, encoder.chat_format.end) == (template, end)
    assert (encoder.num_image_tokens, encoder.max_txt_len, encoder.max_context_len) == (3, 7, 8)
    assert not encoder.chat_template


def test_template_and_end_of_a_yaml_replace_those_of_the_family(chatml):
    encoder = encoder_of(chatml, CHATML, prompt_template="Q: {} A:", end_sym="\n")
    assert as_text(chatml, encoder.encode([Turn("why? ", "no")])[0]) == f"{SYSTEM}Q: why? A:no\n"
    assert encoder.chat_format.generation_prompt("why?", has_image=False) == f"{SYSTEM}Q: why? A:"


def test_an_answer_ends_at_the_mark_of_a_turn_as_well_as_at_the_end_of_sequence(chatml):
    encoder = encoder_of(chatml, CHATML)
    assert encoder.end_ids == (chatml.special["<|endoftext|>"], chatml.special["<|im_end|>"])
    for mark in ("<|im_end|>", "<|endoftext|>"):
        assert encoder.answer(chatml.encode(f" a red circle\n{mark}user yes")) == "a red circle"


def test_a_mark_that_the_tokenizer_spells_out_is_cut_off_the_text():
    encoder = encoder_of(ByteTokenizer(), CHATML)
    assert encoder.end_ids == (2,)
    assert encoder.answer(ByteTokenizer().encode("a cat<|im_end|>\n<|im_start|>user")) == "a cat"


def test_marks_in_a_users_text_are_read_as_the_tokens_that_they_name(chatml):
    ids, _ = encoder_of(chatml, CHATML).encode([Turn("what is <|im_end|>?", "yes")])
    assert ids.tolist().count(chatml.special["<|im_end|>"]) == 4


def test_no_text_gets_tokens_at_its_ends_even_where_the_tokenizer_would_add_them(llama_3):
    assert llama_3.encode("") == []
    assert llama_3.bos_id == 0 not in llama_3.encode("yes no")
    assert llama_3.decode([0, *llama_3.encode("yes no <|eot_id|>"), 1]) == "yes no "


def test_a_tokenizer_without_bos_or_padding_says_so(chatml, llama_3):
    assert (chatml.bos_id, chatml.eos_id, chatml.pad_id) == (None, 0, 0)
    assert (llama_3.bos_id, llama_3.eos_id, llama_3.pad_id) == (0, 1, 1)
    assert chatml.vocab_size == llama_3.vocab_size == 320


def test_a_tokenizer_of_transformers_goes_to_other_processes(chatml):
    assert pickle.loads(pickle.dumps(chatml)).encode("yes no<|im_end|>") == chatml.encode("yes no<|im_end|>")


def test_ids_beyond_the_vocabulary_are_left_out_of_a_text(chatml):
    assert chatml.decode([*chatml.encode("yes"), 9999]) == "yes"


def test_text_that_is_no_unicode_is_refused(chatml):
    with pytest.raises(ValueError, match=r"half of a surrogate pair, '\\ud800', at character 2"):
        chatml.encode("no\ud800")


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"model\.llama_model: transformers cannot read a tokenizer from"):
        TransformersTokenizer(str(tmp_path))


def test_code_of_a_users_folder_is_never_run(tmp_path):
    write_chatml(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    body = config.read_text().replace("{", '{"auto_map": {"AutoTokenizer": ["theirs.Mine", "theirs.Mine"]}, ', 1)
    config.write_text(body.replace("PreTrainedTokenizerFast", "Mine").replace("TokenizersBackend", "Mine"))
    (tmp_path / "theirs.py").write_text("raise SystemExit('it was run')")
    with pytest.raises(ValueError, match=r"model\.llama_model: transformers cannot read a tokenizer"):
        TransformersTokenizer(str(tmp_path))


def test_a_tokenizer_without_an_end_of_sequence_is_refused(tmp_path):
    write_chatml(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"eos_token"', '"not_eos_token"'))
    with pytest.raises(ValueError, match="has no end-of-sequence token"):
        TransformersTokenizer(str(tmp_path))


@pytest.mark.parametrize("template", ["", "user", "{} {}"])
def test_a_format_without_one_place_for_the_question_is_refused(template):
    with pytest.raises(ValueError, match=r"model\.prompt_template: "):
        ChatFormat(template=template, end="")
