"""The weights of a language model that is no Llama: checked, identified, compared with a checkpoint and loaded."""

import json
from typing import ClassVar

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from minigpt4.common.model_match import check_match, compare
from minigpt4.common.registry import registry
from minigpt4.common.schema import RunConfig
from minigpt4.common.weight_identity import difference, identity_of
from minigpt4.conversation.tokenizer import TransformersTokenizer
from minigpt4.models.language.language_model import LanguageModel
from minigpt4.models.minigpt_v2 import MiniGPTv2
from minigpt4.preflight.weights import check_checkpoint, weight_files
from minigpt4.runners.flops import ModelFlops
from tests.conversation.small_families import CHATML, write_chatml
from tests.models.golden_model import tiny_config
from tests.runners.test_flops import batch_of


@registry.register_language_model("small_qwen2")
class SmallQwen2(LanguageModel):
    """Qwen2: biases, fewer heads for keys than for queries, embeddings that are the head too."""

    chat_format: ClassVar = CHATML
    model_type: ClassVar = "qwen2"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    num_tokens = TransformersTokenizer(str(write_chatml(folder))).vocab_size
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen2Config(vocab_size=num_tokens, num_key_value_heads=2, tie_word_embeddings=True, **sizes)
    return Qwen2ForCausalLM(config)


FORMS = ("one_file", "shards", "bin")


def folder_of(path, model, form="one_file"):
    """Write a folder of the model, with its tokenizer, its weights in one of the forms that users have."""
    model.save_pretrained(path, max_shard_size="20KB" if form == "shards" else "1GB")
    if form == "bin":
        torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
        (path / "model.safetensors").unlink()
    return write_chatml(path)


def config_of(folder, **changes):
    options = {"language_model": "small_qwen2", "llama_model": str(folder), "ckpt": None, "end_sym": None}
    return tiny_config(**{**options, **changes})


def problems_of(folder, **changes):
    return [file.problem for file in weight_files(config_of(folder, **changes), RunConfig()) if file.problem]


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_in_any_form_is_checked_and_loaded(tmp_path, model, form):
    folder = folder_of(tmp_path / "qwen", model, form)
    assert (form == "shards") == (folder / "model.safetensors.index.json").exists()
    assert problems_of(folder) == []
    loaded = SmallQwen2.from_config(config_of(folder, lora_r=0), dtype=torch.float32)
    assert torch.equal(loaded.causal_lm.lm_head.weight, model.model.embed_tokens.weight)  # no file holds the head
    assert all(map(torch.equal, loaded.causal_lm.parameters(), model.parameters()))


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "config.json describes a model of the type 'llama', not qwen2"),
        ({"hidden_size": None}, "config.json lacks the sizes hidden_size"),
        (
            {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3},
            "its weights do not fit config.json: missing ['model.layers.2.input_layernorm.weight', ",
        ),
        ({"num_key_value_heads": 4}, "shapes ['model.layers.0.self_attn.k_proj.bias (16,), not (32,)', "),
        ({"tie_word_embeddings": False}, "its weights do not fit config.json: missing ['lm_head.weight'], shapes []"),
        ({"vocab_size": 7}, "shapes ['model.embed_tokens.weight ("),
    ],
)
def test_a_config_json_that_does_not_fit_the_weights_is_named(tmp_path, model, changes, message):
    folder = folder_of(tmp_path / "qwen", model)
    edit_config(folder, **changes)
    [problem] = problems_of(folder)
    assert problem.startswith(f"model.llama_model: {folder}: ") and message in problem


def test_a_shard_or_a_tokenizer_that_is_absent_is_named(tmp_path, model):
    folder = folder_of(tmp_path / "qwen", model, "shards")
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    (folder / "tokenizer.json").unlink()
    [problem] = problems_of(folder)
    lacks = f"tokenizer.json or tokenizer.model or vocab.json or vocab.txt, {shard.name}, named by"
    assert problem == f"model.llama_model: {folder} lacks {lacks} model.safetensors.index.json"


def test_a_tokenizer_that_is_larger_than_the_weights_is_named(tmp_path, model):
    small = Qwen2ForCausalLM(Qwen2Config(**{**model.config.to_dict(), "vocab_size": 9}))
    folder = folder_of(tmp_path / "qwen", small)
    [problem] = problems_of(folder)
    assert "tokens, its config.json says vocab_size 9" in problem


def test_a_folder_of_llama_is_refused_for_this_family_and_the_other_way_round(tmp_path, model):
    llama = tiny_config().llama_model
    [problem] = problems_of(llama)
    assert "config.json describes a model of the type 'llama', not qwen2" in problem
    folder = folder_of(tmp_path / "qwen", model)
    [problem] = problems_of(folder, language_model="llama")
    assert "config.json describes a model of the type 'qwen2', not llama" in problem


def test_the_fingerprint_is_the_same_in_any_form_and_another_for_other_weights(tmp_path, model):
    plain, *others = (identity_of(config_of(folder_of(tmp_path / form, model, form))) for form in FORMS)
    for other in others:
        assert difference(plain["llama"], other["llama"]) is None
        assert difference(plain["tokenizer"], other["tokenizer"]) is None
    torch.manual_seed(1)
    changed = identity_of(config_of(folder_of(tmp_path / "changed", Qwen2ForCausalLM(model.config))))
    assert "values that were compared" in difference(plain["llama"], changed["llama"])
    assert difference(plain["llama"], identity_of(tiny_config())["llama"]) == "other names or shapes of tensors"


@pytest.fixture
def trained(tmp_path, model):
    """Return the config of a folder, and a checkpoint of its model."""
    cfg = config_of(folder_of(tmp_path / "qwen", model))
    state = {name: value.clone() for name, value in MiniGPTv2.from_config(cfg).trainable_state().items()}
    return cfg, {"model": state, "config": {"model": OmegaConf.to_container(cfg)}, "base_model": identity_of(cfg)}


def test_a_checkpoint_of_the_family_fits_its_model(trained, caplog):
    cfg, state = trained
    assert state["model"]["llama_proj.weight"].shape == (32, 128)
    assert check_match(state, cfg, "x.pth") == []
    assert caplog.records == []
    cfg.prompt_template, cfg.end_sym = CHATML.template, "<|im_end|>"  # what this family has when they are unset
    assert compare(state, cfg, "x.pth").differences == []
    cfg.end_sym = "\n"
    [difference] = compare(state, cfg, "x.pth").differences
    assert difference == "x.pth was trained with model.end_sym='<|im_end|>', this run has '\\n'"


def test_a_checkpoint_of_another_family_is_refused_before_its_model_is_loaded(tmp_path, trained):
    cfg, state = trained
    torch.save(state, tmp_path / "x.pth")
    assert check_checkpoint("model.ckpt", str(tmp_path / "x.pth"), cfg) == ([], [])
    [problem], _ = check_checkpoint("model.ckpt", str(tmp_path / "x.pth"), tiny_config())
    assert "x.pth was trained with a language model of width 32, that of model.llama_model has 64" in problem
    [problem], _ = check_checkpoint("model.ckpt", str(tmp_path / "x.pth"), config_of(cfg.llama_model, lora_r=8))
    assert "x.pth has LoRA of rank 4, this run model.lora_r=8" in problem


def test_its_flops_are_counted_by_the_same_formula(trained):
    model = MiniGPTv2.from_config(trained[0])
    num_layer_weights = sum(
        parameter.numel()
        for name, parameter in model.language_model.named_parameters()
        if ".layers." in name and "lora_" not in name
    )
    lora = 2 * (4 * 32 + 32 * 4 + 4 * 32 + 16 * 4)  # two layers, q (32 to 32) and v (32 to 16), rank 4
    parts = ModelFlops(model).parts(batch_of(10, 20, num_images=0, num_targets=7))
    assert parts["llm"] == (4 * num_layer_weights + 6 * lora) * 30 + 6 * 2 * 32 * (10**2 + 20**2)
    assert parts["head"] == 4 * 7 * 32 * model.language_model.config.vocab_size


def test_a_family_without_names_is_refused_before_its_folder_is_read(tmp_path, model):
    registry.register_language_model("nameless")(type("Nameless", (LanguageModel,), {}))
    message = "model.language_model: Nameless lacks chat_format and model_type"
    assert problems_of(folder_of(tmp_path / "llm", model), language_model="nameless") == [message]
