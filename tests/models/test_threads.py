"""Several threads ask one model: they take turns, and LoRA stays merged while any of them needs it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from minigpt4.models.fused_layer import lora_is_merged, lora_layers
from tests.models.golden_model import picture, tiny_model

PROMPTS = ["<s>[INST] <Img><ImageHere></Img> what is this? [/INST]", "<s>[INST] <Img><ImageHere></Img> who? [/INST]"]
CHOICES = [["a blue truck", "no"], ["yes", "three sheep", "b"]]


def test_two_threads_get_the_answers_that_one_gets():
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = model.encode_images(torch.stack([picture(0), picture(1)]))

    def answers(number):
        prompts = PROMPTS[number:] + PROMPTS[:number]
        written = model.generate(images, prompts, shown=[0, 1], max_new_tokens=12)
        return written, model.rank(images, prompts, CHOICES), list(model.stream(images[[0]], prompts[0]))

    wanted = [answers(number) for number in (0, 1)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            assert list(pool.map(answers, (0, 1))) == wanted
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_lora_stays_merged_until_its_last_user_leaves():
    model = tiny_model()
    layers = lora_layers(model.language_model.causal_lm)
    with model.merged():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(model.generate, None, ["<s>[INST] who? [/INST]"], max_new_tokens=2).result()
        assert lora_is_merged(layers)
    assert not lora_is_merged(layers)


def test_a_stream_does_not_keep_other_answers_waiting():
    model = tiny_model()
    texts = model.stream(picture(0)[None], PROMPTS[0], max_new_tokens=6)
    first = next(texts)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(model.generate, picture(0)[None], PROMPTS[:1], max_new_tokens=6).result(timeout=60)
    assert [first, *texts][-1:] == answer


@pytest.mark.parametrize("ask", ["stream", "generate"])
def test_a_model_in_training_mode_is_refused_where_lora_drops_out(ask, monkeypatch):
    model = tiny_model(lora_dropout=0.5).train()
    if ask == "generate":  # as over sharded weights, into which LoRA cannot be merged
        monkeypatch.setattr("minigpt4.models.lora.can_merge", lambda _: False)
    asked = {"stream": lambda: next(model.stream(None, "Q")), "generate": lambda: model.generate(None, ["Q"])}
    with pytest.raises(ValueError, match=r"training mode, where language_model\..*lora_dropout.* drops out; call eval"):
        asked[ask]()
    assert model.training


def test_a_vision_tower_that_drops_layers_is_refused_in_training_mode():
    model = tiny_model(freeze_vit=False, drop_path_rate=0.5).train()
    with pytest.raises(ValueError, match=r"training mode, where vision_tower\..* drops out"):
        model.rank(None, ["Q"], [["a", "b"]])
