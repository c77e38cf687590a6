"""LoRA merged for answering: the same answers, and the weights back bit for bit."""

import pytest
import torch

from minigpt4.models.fused_layer import lora_is_merged, lora_layers
from minigpt4.models.minigpt_v2 import MiniGPTv2
from tests.models.golden_model import picture, tiny_config, tiny_model

PROMPTS = ["<s>[INST] <Img><ImageHere></Img> [vqa] what is this? [/INST]"]


def logits(model):
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        return model.language_model.causal_lm(
            input_ids=ids, attention_mask=torch.ones(1, 1, 27, 27).tril().bool()
        ).logits


def copies(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def is_merged(model):
    layers = lora_layers(model.language_model.causal_lm)
    assert layers
    return lora_is_merged(layers)


def assert_equal(state, other):
    assert state.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in state.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_come_back_bit_for_bit(dtype):
    model = MiniGPTv2.from_config(tiny_config(), dtype=dtype)
    before = copies(model)
    with model.merged():
        changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        assert changed and all("q_proj.base_layer" in name or "v_proj.base_layer" in name for name in changed)
        assert is_merged(model)
    assert_equal(copies(model), before)
    assert not is_merged(model)


def test_merged_lora_gives_the_same_logits_and_is_not_added_twice():
    model = tiny_model()
    plain = logits(model)
    with model.merged(), model.merged():
        torch.testing.assert_close(logits(model), plain, rtol=0, atol=1e-5)
    assert torch.equal(logits(model), plain)
    model.merge_for_good()
    with model.merged():
        torch.testing.assert_close(logits(model), plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(model), plain, rtol=0, atol=1e-5)


def test_a_model_merged_for_good_takes_no_other_lora_and_does_not_train():
    model = tiny_model()
    state = {name: value.clone() for name, value in model.trainable_state().items()}
    model.merge_for_good()
    with pytest.raises(ValueError, match=r"b\.pth: LoRA was merged"):
        model.load_trainable_state(state, "b.pth")
    with pytest.raises(ValueError, match="does not train"):
        model.train()


def test_weights_come_back_after_an_error():
    model = tiny_model()
    before = copies(model)
    with pytest.raises(KeyError), model.merged():
        raise KeyError
    assert_equal(copies(model), before)


def test_a_model_that_answers_between_two_updates_trains_as_if_it_had_not():
    model = tiny_model().train()
    before = copies(model)
    model.generate(picture(0)[None], PROMPTS, max_new_tokens=4)
    model.rank(picture(0)[None], PROMPTS, [["a", "b"]])
    assert_equal(copies(model), before)
    assert model.training
    assert [name for name, _ in model.trainable()] == [name for name, _ in tiny_model().trainable()]


def test_answering_and_ranking_merge_lora_for_one_call(monkeypatch):
    model = tiny_model()
    seen = []
    prefill = type(model.language_model.decoder).prefill

    def watched(self, *given, **options):
        seen.append(is_merged(model))
        return prefill(self, *given, **options)

    monkeypatch.setattr(type(model.language_model.decoder), "prefill", watched)
    model.generate(picture(0)[None], PROMPTS, max_new_tokens=2)
    model.rank(picture(0)[None], PROMPTS, [["a", "b"]])
    assert seen == [True, True]
    assert not is_merged(model)


def test_an_answer_that_streams_is_not_changed_by_calls_that_merge_between_its_tokens():
    model = tiny_model()
    with torch.no_grad():  # LoRA that speaks louder, so that its lack would be heard
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(30)
    wanted = list(model.stream(picture(0)[None], PROMPTS[0], max_new_tokens=8))
    found = []
    for text in model.stream(picture(0)[None], PROMPTS[0], max_new_tokens=8):
        found.append(text)
        model.generate(picture(1)[None], PROMPTS, max_new_tokens=2)
    assert found == wanted
    assert not model.language_model.decoder.is_fused
