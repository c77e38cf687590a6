"""The chat layout, by hand and against the recorded sequences."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from minigpt4.conversation.conversation import Example, Turn
from minigpt4.conversation.encoder import ChatEncoder, SampleTooLong
from minigpt4.conversation.tokenizer import ByteTokenizer, SentencePieceTokenizer
from tests.models.golden_model import AS_RECORDED, GOLDEN, recorded, turns_of

LLAMA = GOLDEN / "assets" / "llama_tiny"
CALLS = recorded("train_calls.json")
IMG = "<Img><ImageHere></Img>"


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer(LLAMA / "tokenizer.model")


@pytest.fixture(scope="module")
def token_of_embedding():
    rows = load_file(LLAMA / "model.safetensors")["model.embed_tokens.weight"].numpy()
    return {row.tobytes(): number for number, row in enumerate(rows)}


def recorded_rows(call, token_of_embedding):
    """Return ids and labels of each recorded row without its padding; an embedding of no token is an image's."""
    arrays = recorded(call["file"])
    embeds, labels, mask = (arrays[key].numpy() for key in ("inputs_embeds", "targets", "attention_mask"))
    ids = [[token_of_embedding.get(row.tobytes(), -200) for row in rows] for rows in embeds]
    real = mask.astype(bool)
    return [(np.array(row)[keep].tolist(), y[keep].tolist()) for row, y, keep in zip(ids, labels, real, strict=True)]


def encode(turns, tokenizer=None, **options):
    encoder = ChatEncoder(tokenizer or ByteTokenizer(), **{"num_image_tokens": 2, **options})
    ids, labels = encoder.encode([Turn(*turn) for turn in turns])
    return ids.tolist(), labels.tolist()


def as_text(ids):
    """Show byte tokens as text: | for BOS, $ for EOS, # for an image token, . for a masked label."""
    shown = {1: "|", 2: "$", -200: "#", -100: "."}
    return "".join(shown.get(i) or chr(i - 3) for i in ids)


@pytest.mark.parametrize("name", AS_RECORDED)
def test_tokens_and_labels_are_the_recorded_ones(name, tokenizer, token_of_embedding):
    call = CALLS[name]
    num_image_tokens = {56: 4, 84: 9}[call["image_size"]]
    encoder = ChatEncoder(tokenizer, num_image_tokens=num_image_tokens, **call["config"])
    ours = [tuple(part.tolist() for part in encoder.encode(turns)) for turns in turns_of(call["samples"])]
    assert ours == recorded_rows(call, token_of_embedding)


def test_the_pad_piece_inside_an_answer_is_learnt_where_the_recording_loses_it(tokenizer, token_of_embedding):
    call = CALLS["dollar_answer"]
    encoder = ChatEncoder(tokenizer, num_image_tokens=4, **call["config"])
    ids, labels = (part.tolist() for part in encoder.encode(turns_of(call["samples"])[0]))
    recorded_ids, recorded_labels = recorded_rows(call, token_of_embedding)[0]
    answer = [421, 612, 796, 439, 288, 763, 800, 2]  # "x$$y and $$ 7</s>"
    assert ids == recorded_ids
    assert labels[-8:] == answer
    assert recorded_labels[-8:] == [421, -100, 796, 439, 288, 763, 800, 2]


def test_a_single_turn_is_laid_out_as_bos_template_answer_end():
    ids, labels = encode([("Q ", "A")])
    assert as_text(ids) == "|[INST] Q  [/INST]A$"
    assert as_text(labels) == "..................A$"


def test_without_chat_template_a_single_turn_stands_bare():
    assert as_text(encode([("Q", "A")], chat_template=False)[0]) == "|QA$"


def test_a_conversation_uses_the_template_in_any_case_and_opens_later_turns_with_bos():
    ids, labels = encode([("Q", "A"), ("R", "B")], chat_template=False)
    assert as_text(ids) == "|[INST] Q [/INST]A$|[INST] R [/INST]B$"
    assert as_text(labels) == "." * 17 + "A$" + "." * 17 + "B$"


def test_images_stand_where_their_placeholders_do_also_at_the_ends():
    ids, _ = encode([("<ImageHere>Q<ImageHere>", "A")], chat_template=False)
    assert as_text(ids) == "|##Q##A$"


def test_an_image_of_a_later_turn_gets_its_tokens():
    ids, _ = encode([("Q", "A"), (f"{IMG}R", "B")], prompt_template="{}")
    assert as_text(ids) == "|QA$|<Img>##</Img>RB$"


def test_the_prompt_and_the_answers_are_cut_at_their_own_limits():
    ids, labels = encode([("question", "answer"), ("R", "B")], prompt_template="{}", max_context_len=3, max_txt_len=4)
    assert as_text(ids) == "|queansw"
    assert as_text(labels) == "....answ"


def test_a_text_only_prompt_is_cut_like_any_other_where_the_recording_leaves_it_whole(tokenizer, token_of_embedding):
    call = CALLS["trunc_ctx12_text"]
    encoder = ChatEncoder(tokenizer, num_image_tokens=4, **call["config"])
    ours = [encoder.encode(turns)[0].tolist() for turns in turns_of(call["samples"])]
    whole = [ids for ids, _ in recorded_rows(call, token_of_embedding)]
    num_targets = call["n_target_tokens"]
    assert ours == [row[:13] + row[-num:] for row, num in zip(whole, num_targets, strict=True)]


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        (23, "hello <Img>##</Img> you"),
        (21, "hello <Img>##</Img> y"),
        (19, "hello <Img>##</Img>"),  # no text after the image is left; what stands before it goes next
        (15, "he<Img>##</Img>"),
        (13, "<Img>##</Img>"),
    ],
)
def test_a_cut_takes_text_and_never_an_image_span(limit, left):
    ids, _ = encode([(f"hello {IMG} you", "A")], prompt_template="{}", max_context_len=limit)
    assert as_text(ids) == f"|{left}A$"


def test_a_sample_whose_image_span_does_not_fit_is_refused_by_name():
    encoder = ChatEncoder(ByteTokenizer(), num_image_tokens=2, max_context_len=12)
    example = Example(turns=(Turn(f"{IMG} Q", "A"),), images=(torch.zeros(3, 2, 2),), id="gqa[17]")
    with pytest.raises(SampleTooLong, match=r"gqa\[17\]: its image spans take 13 tokens where 12 are allowed"):
        encoder.collate([example])


def test_examples_are_packed_end_to_end():
    encoder = ChatEncoder(ByteTokenizer(), num_image_tokens=2, prompt_template="{}")
    one, two, three = (torch.full((3, 2, 2), float(i)) for i in (1, 2, 3))
    batch = encoder.collate(
        [
            Example(turns=(Turn("<ImageHere>a<ImageHere>", "b"),), images=(one, two)),
            Example(turns=(Turn("c", "d"),)),
            Example(turns=(Turn("<ImageHere>e", "f"),), images=(three,)),
        ]
    )
    assert as_text(batch.input_ids.tolist()) == "|##a##b$|cd$|##ef$"
    assert as_text(batch.labels.tolist()) == "......b$..d$....f$"
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    assert batch.lengths.tolist() == [8, 4, 6]
    assert batch.images.shape == (3, 3, 2, 2)
    assert batch.images[:, 0, 0, 0].tolist() == [1.0, 2.0, 3.0]


def test_a_text_only_batch_has_no_images():
    batch = ChatEncoder(ByteTokenizer(), num_image_tokens=2).collate([Example(turns=(Turn("Q", "A"),))])
    assert len(batch.images) == 0 and batch.images.shape[1] == 3


def test_a_batch_whose_labels_are_all_masked_is_refused_by_name():
    encoder = ChatEncoder(ByteTokenizer(), num_image_tokens=2, end_sym="")
    examples = [Example(turns=(Turn("Q", ""),), id=f"gqa[{row}]") for row in (3, 4)]
    with pytest.raises(ValueError, match=r"every label is masked: gqa\[3\], gqa\[4\]"):
        encoder.collate(examples)


def test_images_of_different_size_are_refused_by_name():
    encoder = ChatEncoder(ByteTokenizer(), num_image_tokens=2)
    turns = (Turn(IMG, "A"),)
    examples = [Example(turns=turns, images=(torch.zeros(3, s, s),), id=f"gqa[{s}]") for s in (2, 4)]
    with pytest.raises(ValueError, match=r"gqa\[4\]: an image of shape \(3, 4, 4\), others \(3, 2, 2\)"):
        encoder.collate(examples)


def test_no_examples_give_a_batch_without_tokens():
    batch = ChatEncoder(ByteTokenizer(), num_image_tokens=2).pack([])
    assert len(batch.input_ids) == len(batch.images) == len(batch.lengths) == 0


def test_a_template_without_a_place_for_the_question_is_refused():
    with pytest.raises(ValueError, match=r"model\.prompt_template: '\[INST\]' has no \{\}"):
        ChatEncoder(ByteTokenizer(), num_image_tokens=2, prompt_template="[INST]")


def test_a_question_with_braces_is_kept_as_it_is():
    assert as_text(encode([("{<1>} {}", "A")])[0]) == "|[INST] {<1>} {} [/INST]A$"


def test_a_generation_prompt_has_the_recorded_ids_with_two_bos(tokenizer):
    recording = recorded("generate.json")
    encoder = ChatEncoder(tokenizer, num_image_tokens=4)
    ours = [encoder.prompt_ids(text).tolist() for text in recording["texts"]]
    assert ours == [[*before, *[-200] * 4, *after] for before, after in recording["context_token_ids"]]


def test_a_chat_prompt_tokenizes_each_answer_on_its_own_as_training_does(tokenizer):
    encoder = ChatEncoder(tokenizer, num_image_tokens=4)
    turns = [Turn(f"{IMG} who is riding?", "the child"), Turn("is it blue?", "no")]
    ids = encoder.prompt_ids(encoder.chat_format.chat_prompt(turns, "why?")).tolist()
    trained = encoder.encode([*turns, Turn("why?", "")])[0].tolist()
    assert ids == [1, *trained[:-1]]  # all but the added BOS and the end of the last, empty answer


def test_a_turn_that_was_not_generated_yet_ends_the_prompt(tokenizer):
    ids = ChatEncoder(tokenizer, num_image_tokens=4).prompt_ids("<s>[INST] good morning [/INST]").tolist()
    assert ids == [1, 1, 263, 278, 785, 560, 682, 775, 739, 281, 772, 301, 304, 278, 785]


@pytest.mark.parametrize("template", ["USER: {} ASSISTANT:", "Q: {}\nA: ", "### {} ###", "[INST] {} [/INST]"])
def test_a_chat_prompt_of_any_template_has_the_ids_that_were_trained(tokenizer, template):
    encoder = ChatEncoder(tokenizer, num_image_tokens=4, prompt_template=template)
    turns = [Turn(f"{IMG} who is riding?", "the child"), Turn("is it blue?", "no")]
    ids = encoder.prompt_ids(encoder.chat_format.chat_prompt(turns, "why?")).tolist()
    assert ids == [1, *encoder.encode([*turns, Turn("why?", "")])[0].tolist()[:-1]]


def test_a_template_that_ends_with_the_question_is_asked_too(tokenizer):
    encoder = ChatEncoder(tokenizer, num_image_tokens=4, prompt_template="{}")
    ids = encoder.prompt_ids(encoder.chat_format.chat_prompt([Turn("a?", "b")], "why?")).tolist()
    assert ids[:2] == [1, 1] and ids.count(1) == 3


@pytest.mark.parametrize("template", ["{} {}", "{name} {}", "{0} {}", "{} {", "} {}"])
def test_a_template_with_other_braces_is_refused(template):
    with pytest.raises(ValueError, match=r"model\.prompt_template: .* may have one \{\} and no other braces"):
        ChatEncoder(ByteTokenizer(), num_image_tokens=2, prompt_template=template)
