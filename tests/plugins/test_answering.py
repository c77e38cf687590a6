"""A second tower and a second language model answer as plain timm and transformers do."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from minigpt4.export import export, logits_of
from minigpt4.models.scoring import score_choices
from tests.plugins import plain
from tests.plugins.parts import QWEN2, build, examples, model_section, picture

CHOICES = ["a red circle", "yes", "no no no", "blue"]


@pytest.fixture
def reference(kind, files, model):
    """Return the plain language model, and a function that gives the embeddings of a prompt about pictures."""
    language_model = plain.language_model(kind, files, model)

    @torch.no_grad()
    def embed(images, prompt):
        return plain.prompt_embeds(kind, files, model, language_model, images, prompt)

    return language_model, embed


def prompts_of(model):
    """Return two prompts about one picture each, of which the second has a turn before it, and their pictures."""
    chat = model.chat_encoder.chat_format
    turns = examples(model)[0].turns
    return [
        chat.generation_prompt("[vqa] what is this?"),
        chat.chat_prompt(turns, "is it blue?"),
    ], torch.stack([picture(model, 3), picture(model, 4)])


@torch.no_grad()
def test_the_prompt_has_the_embeddings_of_the_plain_models(model, reference):
    prompts, images = prompts_of(model)
    for ours, image, prompt in zip(model.embed_prompts(images, prompts), images, prompts, strict=True):
        torch.testing.assert_close(ours, reference[1](image[None], prompt), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_generate_writes_what_the_plain_models_write_without_a_cache(model, reference):
    language_model, embed = reference
    prompts, images = prompts_of(model)
    encoder = model.chat_encoder
    expected = [
        plain.greedy(language_model, embed(image[None], prompt), end_ids=encoder.end_ids, max_new_tokens=12)
        for image, prompt in zip(images, prompts, strict=True)
    ]
    assert len({tuple(ids) for ids in expected}) == 2
    assert model.generate(images, prompts, max_new_tokens=12) == [encoder.answer(ids) for ids in expected]
    *_, streamed = model.stream(images[:1], prompts[0], max_new_tokens=12)
    assert streamed == encoder.answer(expected[0])


@torch.no_grad()
def test_an_answer_ends_at_the_mark_of_a_turn(model):
    """The head is made to prefer it."""
    mark = model.chat_encoder.end_ids[-1]
    prompts, images = prompts_of(model)
    head = model.language_model.causal_lm.get_output_embeddings()
    head.register_forward_hook(lambda _head, _hidden, logits: logits.index_fill(-1, torch.tensor(mark), 99.0))
    assert model.generate(images, prompts, max_new_tokens=12) == ["", ""]


@torch.no_grad()
def test_rank_scores_choices_as_the_plain_models_do_without_a_cache(model, reference):
    language_model, embed = reference
    prompts, images = prompts_of(model)
    end, encode = model.chat_encoder.chat_format.end, model.chat_encoder.tokenizer.encode
    ids = [encode(choice + end) for choice in CHOICES]
    expected = torch.stack(
        [
            torch.stack([plain.choice_score(language_model, embed(image[None], prompt), one) for one in ids])
            for image, prompt in zip(images, prompts, strict=True)
        ]
    )
    with model.merged():
        ours = score_choices(model.language_model, model.embed_prompts(images, prompts), [ids, ids])
    torch.testing.assert_close(torch.tensor(ours), expected, rtol=1e-4, atol=1e-4)
    assert model.rank(images, prompts, [CHOICES, CHOICES]) == expected.argsort(dim=1).tolist()


@torch.no_grad()
def test_prompts_that_share_a_picture_are_answered_as_one_by_one(model):
    prompts, images = prompts_of(model)
    together = model.generate(images[:1], prompts, shown=[0, 0], max_new_tokens=8)
    assert together == [model.generate(images[:1], [prompt], max_new_tokens=8)[0] for prompt in prompts]


@torch.no_grad()
def test_merging_lora_changes_no_answer_and_leaves_the_weights_as_they_were(model):
    prompts, images = prompts_of(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    embeds = model.embed_prompts(images, prompts)
    apart = logits_of(model.language_model.causal_lm, embeds[0])
    with model.merged():
        merged = logits_of(model.language_model.causal_lm, embeds[0])
        answers = model.generate(images, prompts, max_new_tokens=8)
    torch.testing.assert_close(merged, apart, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.merge_for_good()
    assert model.generate(images, prompts, max_new_tokens=8) == answers


def test_the_tokenizer_and_the_layout_are_those_of_the_folder(kind, files, model):
    if kind == "tower":
        pytest.skip("Llama's layout is recorded")
    theirs = AutoTokenizer.from_pretrained(files / "qwen2")
    text = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nis it blue?<|im_end|>\n"
        "<|im_start|>assistant\nno<|im_end|>"
    )
    batch = model.chat_encoder.collate([examples(model)[1]])
    assert batch.input_ids.tolist() == theirs.encode(text, add_special_tokens=False)
    assert model.chat_encoder.tokenizer.bos_id is None


def test_a_folder_of_several_shards_is_loaded_with_its_values(files):
    index = json.loads((files / "qwen2/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    ours = build("language model", files, lora_r=0).language_model.causal_lm
    theirs = AutoModelForCausalLM.from_pretrained(files / "qwen2")
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())
    assert ours.lm_head.weight is ours.model.embed_tokens.weight
    assert ours.model.layers[0].self_attn.k_proj.bias.abs().min() > 0
    assert ours.model.layers[0].self_attn.k_proj.weight.shape == (16, 32)


def test_a_folder_of_another_family_is_refused_by_name(files):
    folder = model_section("tower", files)["llama_model"]
    with pytest.raises(ValueError, match=r"holds a llama, but model\.language_model=qwen2 loads a qwen2"):
        build("language model", files, llama_model=folder)


def test_an_export_is_a_plain_model_of_its_family_with_the_same_logits(kind, files, model, tmp_path):
    prompts, images = prompts_of(model)
    with torch.no_grad():
        embeds = model.embed_prompts(images[:1], prompts[:1])[0]
        expected = logits_of(model.language_model.causal_lm, embeds)
    source = model_section(kind, files)["llama_model"]
    assert max(export(model, tmp_path, llama_folder=source, dtype="float32").values()) < 1e-5
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    assert exported.config.model_type == ("llama" if kind == "tower" else "qwen2")
    torch.testing.assert_close(logits_of(exported.eval(), embeds), expected, rtol=0, atol=1e-4)


def test_a_model_of_random_weights_cannot_be_exported_and_says_why(files, tmp_path):
    model = build("language model", files, random_weights=True, llama_config=QWEN2)
    with pytest.raises(ValueError, match="export cannot write the tokenizer ByteTokenizer for transformers"):
        export(model, tmp_path / "out", llama_folder="", dtype="float32")
    assert not (tmp_path / "out").exists()
