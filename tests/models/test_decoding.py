"""Decoding step by step: against transformers' own, with beginnings that are read once, and stopping in time."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from minigpt4.conversation.chat_format import LLAMA_2
from minigpt4.conversation.conversation import IMAGE_SPAN, Example, Turn
from minigpt4.conversation.encoder import ChatEncoder
from minigpt4.conversation.tokenizer import TransformersTokenizer
from minigpt4.models.decoding import AnswerEnds, RepetitionPenalty, decoding_config, generate_tokens, shared_prefixes
from minigpt4.models.kv_cache import PrefillAttention
from tests.conversation.small_families import CHATML, write_chatml
from tests.models.golden_model import picture, tiny_model

QUESTIONS = ["what is this?", "[vqa] how many boats are there in the picture?", "a", "[refer] the man", "why?"]
PROMPTS = [LLAMA_2.generation_prompt(question) for question in QUESTIONS]
SHOWN = [0, 0, 1, 0, 1]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def images():
    return torch.stack([picture(0), picture(1)])


@pytest.mark.parametrize("seed", [None, 3])
def test_greedy_and_sampled_tokens_are_those_of_transformers(seed, model, images):
    config = decoding_config(model.chat_encoder.tokenizer, do_sample=seed is not None, temperature=0.7)
    with torch.no_grad():
        embeds = model.embed_prompts(images, PROMPTS, SHOWN)
        padded = pad_sequence(embeds, batch_first=True, padding_side="left")
        starts = padded.shape[1] - torch.tensor([len(one) for one in embeds])
        mask = (torch.arange(padded.shape[1]) >= starts[:, None]).long()
        torch.manual_seed(seed or 0)
        theirs = model.language_model.causal_lm.generate(
            inputs_embeds=padded, attention_mask=mask, generation_config=config
        )
        torch.manual_seed(seed or 0)
        assert torch.equal(model.language_model.generate(embeds, config), theirs)


def test_an_image_shown_by_several_prompts_gives_the_answers_of_asking_alone(model, images):
    alone = [model.generate(images[s : s + 1], [p])[0] for s, p in zip(SHOWN, PROMPTS, strict=True)]
    assert all(alone)
    assert model.generate(images, PROMPTS, shown=SHOWN) == alone
    assert model.generate(images[SHOWN], PROMPTS) == alone
    assert model.generate(model.encode_images(images), PROMPTS, shown=SHOWN) == alone


def prefixes_of(model, prompts, shown):
    return shared_prefixes(prompts, [model.chat_encoder.prompt_ids(prompt) for prompt in prompts], shown)


def prefilled(model, embeds, prefixes=None):
    cache = model.language_model.decoder.new_cache(len(embeds), max(map(len, embeds)))
    return model.language_model.decoder.prefill(cache, embeds, prefixes), cache


@pytest.mark.parametrize("is_merged", [True, False])
def test_a_shared_prefix_changes_what_follows_by_rounding_alone(is_merged, model, images):
    with torch.no_grad(), model.merged() if is_merged else nullcontext():
        embeds = model.embed_prompts(images, PROMPTS, SHOWN)
        shared, _ = prefilled(model, embeds, prefixes_of(model, PROMPTS, SHOWN))
        alone = torch.cat([prefilled(model, [one])[0] for one in embeds])
        torch.testing.assert_close(
            model.language_model.decoder.head(shared), model.language_model.decoder.head(alone), rtol=0, atol=1e-5
        )


def test_a_shared_prefix_is_computed_once(model, images, monkeypatch):
    sizes = []
    make = PrefillAttention.__init__
    monkeypatch.setattr(
        PrefillAttention, "__init__", lambda self, *given: (make(self, *given), sizes.append(self.sizes))[0]
    )
    ids = [model.chat_encoder.prompt_ids(prompt) for prompt in PROMPTS]
    model.generate(images, PROMPTS, shown=SHOWN, max_new_tokens=2)
    prefix = int((ids[0] < 0).nonzero().max()) + 1
    assert sizes == [(prefix, prefix), tuple(len(one) - prefix for one in ids)]


def test_prompts_whose_prefixes_differ_in_text_or_image_are_not_taken_for_one(model, images):
    prompts = [PROMPTS[0], "<s>[INST] Look: <Img><ImageHere></Img> what is this? [/INST]", PROMPTS[0]]
    prefixes = prefixes_of(model, prompts, [0, 0, 0])
    assert prefixes[0] == prefixes[2] != prefixes[1]
    alone = [model.generate(images[:1], [prompt])[0] for prompt in prompts]
    assert model.generate(images, prompts, shown=[0, 0, 0]) == alone
    assert prefixes_of(model, PROMPTS[:2], [0, 1]) is None


def test_equal_prompts_that_end_with_their_image_keep_a_token_each(model, images):
    prompts = ["<s>[INST] <ImageHere>"] * 2
    alone = model.generate(images[:1], prompts[:1], max_new_tokens=4)
    assert model.generate(images[:1], prompts, shown=[0, 0], max_new_tokens=4) == alone * 2


def test_generation_stops_once_the_last_answer_has_ended(model, images):
    config = decoding_config(model.chat_encoder.tokenizer, max_new_tokens=20)
    with torch.no_grad():
        embeds = model.embed_prompts(images, PROMPTS, SHOWN)
        first = torch.stack(list(generate_tokens(model.language_model.decoder, embeds, config)), dim=1)
        # the token that comes third in the first answer ends answers now
        config.eos_token_id = int(first[0, 2])
        steps = list(generate_tokens(model.language_model.decoder, embeds[:1], config))
        assert [int(step) for step in steps] == first[0, :3].tolist()


@pytest.mark.parametrize("min_length", [1, 7])
def test_with_several_ends_answers_are_those_of_transformers(min_length, model, images):
    tokenizer = model.chat_encoder.tokenizer
    with torch.no_grad():
        embeds = model.embed_prompts(images, PROMPTS, SHOWN)
        first = model.language_model.generate(embeds, decoding_config(tokenizer, max_new_tokens=12))
        end_ids = [int(first[0, 2]), int(first[1, 4]), tokenizer.eos_id]
        config = decoding_config(tokenizer, end_ids=end_ids, max_new_tokens=12, min_length=min_length)
        ours = model.language_model.generate(embeds, config)
        padded = pad_sequence(embeds, batch_first=True, padding_side="left")
        starts = padded.shape[1] - torch.tensor([len(one) for one in embeds])
        mask = (torch.arange(padded.shape[1]) >= starts[:, None]).long()
        theirs = model.language_model.causal_lm.generate(
            inputs_embeds=padded, attention_mask=mask, generation_config=config
        )
    assert torch.equal(ours, theirs) and not torch.equal(ours, first)


def test_without_bos_the_repetition_penalty_is_of_the_answer_alone():
    scores = torch.tensor([[1.0, 2.0, -3.0, 4.0]])
    penalise = RepetitionPenalty(2.0, bos_id=None)
    assert penalise(torch.empty(1, 0, dtype=torch.int64), scores.clone()).tolist() == [[1, 2, -3, 4]]
    assert penalise(torch.tensor([[2, 3]]), scores.clone()).tolist() == [[1, 2, -6, 2]]
    assert RepetitionPenalty(2.0, bos_id=1)(torch.tensor([[2, 3]]), scores.clone()).tolist() == [[1, 1, -6, 2]]


@pytest.mark.parametrize("beams", [1, 2])
def test_a_family_without_bos_trains_answers_and_ranks(beams, images, tmp_path):
    model = tiny_model()
    tokenizer = TransformersTokenizer(str(write_chatml(tmp_path)))
    model.chat_encoder = encoder = ChatEncoder(tokenizer, num_image_tokens=4, chat_format=CHATML)
    example = Example(turns=(Turn(f"{IMAGE_SPAN} what is this? ", "a red circle"),), images=(images[0],))
    losses = model(encoder.collate([example, example]))
    assert losses.num_targets == 2 * len(tokenizer.encode("a red circle<|im_end|>")) and losses.loss.isfinite()
    assert losses.target_losses[: losses.num_targets // 2].tolist() == pytest.approx(
        losses.target_losses[losses.num_targets // 2 :].tolist(), abs=1e-5
    )
    prompts = [CHATML.generation_prompt(question) for question in QUESTIONS[:3]]
    options = {"max_new_tokens": 6, "num_beams": beams, "repetition_penalty": 1.5}
    together = model.generate(images, prompts, shown=[0, 1, 0], **options)
    assert together == [
        model.generate(images, [p], shown=[s], **options)[0] for p, s in zip(prompts, [0, 1, 0], strict=True)
    ]
    assert sorted(model.rank(images[:1], prompts[:1], [["yes", "no", "a red circle"]])[0]) == [0, 1, 2]


@pytest.mark.parametrize("shown", [SHOWN, [0, 1, 1, 0, 1]])
def test_ends_that_are_seen_a_step_late_change_no_answer(shown, model, images, monkeypatch):
    config = decoding_config(model.chat_encoder.tokenizer, max_new_tokens=20)
    with torch.no_grad():
        embeds = model.embed_prompts(images, PROMPTS, shown)
        first = torch.stack(list(generate_tokens(model.language_model.decoder, embeds, config)), dim=1)
        config.eos_token_id = int(first[0, 2])
        at_once = [step.tolist() for step in generate_tokens(model.language_model.decoder, embeds[:1], config)]
        monkeypatch.setattr(AnswerEnds, "are_known", False)
        late = [step.tolist() for step in generate_tokens(model.language_model.decoder, embeds[:1], config)]
    assert at_once == late and len(late) == 3


def test_a_streamed_answer_grows_to_the_generated_one(model, images):
    texts = list(model.stream(images[:1], PROMPTS[1], max_new_tokens=6))
    assert len(texts) == 6
    assert texts[-1] == model.generate(images[:1], PROMPTS[1:2], max_new_tokens=6)[0]


def test_streaming_leaves_gradients_on_between_its_steps(model, images):
    for _ in model.stream(images[:1], PROMPTS[0], max_new_tokens=2):
        assert torch.is_grad_enabled()


def test_a_placeholder_count_that_does_not_fit_what_is_shown_is_refused(model, images):
    with pytest.raises(ValueError, match="the prompts show 2 images but 1 are given"):
        model.generate(images, PROMPTS[:2], shown=[0])


def test_ranking_may_show_an_image_twice_too(model, images):
    choices = [["a blue truck", "no"], ["yes", "three sheep", "no"]]
    alone = [model.rank(images[1:], [p], [c])[0] for p, c in zip(PROMPTS[:2], choices, strict=True)]
    assert model.rank(images, PROMPTS[:2], choices, shown=[1, 1]) == alone
