"""Properties of the cut at max_context_len and max_txt_len, for any turns and limits."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minigpt4.conversation.chat_format import LLAMA_2, ChatFormat
from minigpt4.conversation.conversation import IGNORE_INDEX, IMAGE_TOKEN, Turn
from minigpt4.conversation.encoder import ChatEncoder, SampleTooLong, _Tokens
from minigpt4.conversation.tokenizer import ByteTokenizer

PARTS = st.lists(st.tuples(st.sampled_from(["masked", "learnt", "image"]), st.integers(0, 6)), max_size=8)
ON_BUSY_CORES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NUM_IMAGE_TOKENS = 3
SPAN = [*b"<Img>", *[None] * NUM_IMAGE_TOKENS, *b"</Img>"]


@ON_BUSY_CORES
@given(parts=PARTS, limit=st.integers(0, 50))
def test_a_cut_takes_the_last_text_and_no_part_of_an_image(parts, limit):
    tokens, spans = _Tokens(), []
    for kind, length in parts:
        start = len(tokens.ids)
        tokens.add([*range(start, start + length)], learnt=kind == "learnt")
        if kind == "image":
            spans.append((start, start + length))
    tokens.spans = spans
    whole = {number: label for number, label in zip(tokens.ids, tokens.labels, strict=True)}
    fixed = [number for start, stop in spans for number in range(start, stop)]
    text = [number for number in whole if number not in fixed]
    if len(fixed) > limit and len(whole) > limit:
        with pytest.raises(SampleTooLong, match=rf"its image spans take {len(fixed)} tokens where {limit} are allowed"):
            tokens.cut(limit)
        return
    tokens.cut(limit)
    kept = [number for number in text if number in tokens.ids]
    assert len(tokens.ids) == min(limit, len(whole))
    assert tokens.ids == sorted(tokens.ids)
    assert set(fixed) <= set(tokens.ids)
    assert kept == text[: len(kept)]
    assert tokens.labels == [whole[number] for number in tokens.ids]


def encoder(**options):
    return ChatEncoder(ByteTokenizer(), num_image_tokens=NUM_IMAGE_TOKENS, **options)


FORMATS = st.sampled_from([LLAMA_2, ChatFormat(template="Q: {}\nA: ", system="Be brief.\n", end="#", between="\n")])
WORDS = st.lists(st.sampled_from(["a", "bc", " ", "\u65e5", "[vqa]", "<Img><ImageHere></Img>"]), max_size=5).map(
    "".join
)
TURNS = st.lists(st.builds(Turn, prompt=WORDS, answer=st.text("xyz \u00e9", max_size=6)), min_size=1, max_size=3)


@ON_BUSY_CORES
@given(turns=TURNS, context=st.integers(0, 60), answer=st.integers(0, 60), chat_format=FORMATS)
def test_encoded_turns_keep_their_limits_images_and_labels(turns, context, answer, chat_format):
    whole_ids, whole_labels = (part.tolist() for part in encoder(chat_format=chat_format).encode(turns))
    limits = {"max_context_len": context, "max_txt_len": answer, "chat_format": chat_format}
    images = sum(turn.prompt.count("<ImageHere>") for turn in turns)
    try:
        ids, labels = (part.tolist() for part in encoder(**limits).encode(turns))
    except SampleTooLong:
        first = turns[0].prompt.count("<ImageHere>")
        assert first * len(SPAN) > context or (images - first) * len(SPAN) > answer
        return
    num_bos = len(ByteTokenizer().encode(chat_format.bos))
    assert len(ids) <= num_bos + context + answer
    assert ids[:num_bos] == whole_ids[:num_bos] == [1] * num_bos
    assert labels[:1] in ([], [IGNORE_INDEX])
    assert ids.count(IMAGE_TOKEN) == whole_ids.count(IMAGE_TOKEN) == images * NUM_IMAGE_TOKENS
    shown = [None if number == IMAGE_TOKEN else number - 3 for number in ids]
    spans = [shown[start : start + len(SPAN)] for start in range(len(shown))]
    assert spans.count(SPAN) == images
    assert len(labels) == len(ids)
    assert all(label in (IGNORE_INDEX, number) for number, label in zip(ids, labels, strict=True))
    learnt = [label for label in labels if label != IGNORE_INDEX]
    all_learnt = [label for label in whole_labels if label != IGNORE_INDEX]
    unlearnt = int(not num_bos and context == 0)  # an answer's token that begins the example
    assert learnt == all_learnt[unlearnt : unlearnt + len(learnt)]


@ON_BUSY_CORES
@given(turns=TURNS)
def test_nothing_is_cut_where_the_limits_are_wide(turns):
    ids, labels = (part.tolist() for part in encoder().encode(turns))
    wide_ids, wide_labels = (part.tolist() for part in encoder(max_context_len=10**6, max_txt_len=10**6).encode(turns))
    assert (ids, labels) == (wide_ids, wide_labels)
    learnt = [label for turn in turns for label in [*(byte + 3 for byte in turn.answer.encode()), 2]]
    assert [label for label in labels if label != IGNORE_INDEX] == learnt
