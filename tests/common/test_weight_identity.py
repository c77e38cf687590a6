"""The identity of weight files: the same in any format, another for other weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from minigpt4.common.schema import ModelConfig
from minigpt4.common.weight_files import weight_paths
from minigpt4.common.weight_identity import difference, identity_of, identity_of_files, labels
from tests.models.golden_model import ASSETS, tiny_config

FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def weights(seed=0, *, scale=0.02, num_layers=12):
    """Return weights of the usual size and some that float16 holds as subnormal numbers."""
    made = torch.Generator().manual_seed(seed)
    state = {"model.embed_tokens.weight": torch.randn(320, 64, generator=made) * scale}
    for layer in range(num_layers):
        name = f"model.layers.{layer}"
        state[f"{name}.self_attn.q_proj.weight"] = torch.randn(64, 64, generator=made) * scale
        state[f"{name}.mlp.down_proj.weight"] = torch.randn(64, 172, generator=made) * scale * 1e-4
        state[f"{name}.input_layernorm.weight"] = torch.rand(64, generator=made) + 0.5
    return state


def llama_folder(path, state, *, dtype=torch.float32, suffix=".safetensors", num_shards=1, indexed=True):
    """Write a Llama folder as transformers lays it out."""
    path.mkdir()
    shutil.copy(ASSETS / "llama_tiny" / "config.json", path)
    shutil.copy(ASSETS / "llama_tiny" / "tokenizer.model", path)
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names, weight_map = sorted(state), {}
    for number in range(num_shards):
        file = f"{stem}{suffix}" if num_shards == 1 else f"{stem}-{number + 1:05}-of-{num_shards:05}{suffix}"
        part = {name: state[name].to(dtype).contiguous() for name in names[number::num_shards]}
        weight_map |= dict.fromkeys(part, file)
        if suffix == ".safetensors":
            save_file(part, path / file, metadata={"format": "pt"})
        else:
            torch.save(part, path / file)
    if num_shards > 1 and indexed:
        (path / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


def llama_identity(folder):
    return identity_of(tiny_config(llama_model=str(folder)))["llama"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return llama_identity(llama_folder(tmp_path_factory.mktemp("plain") / "llama", weights()))


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize(
    "form",
    [
        {"suffix": ".safetensors"},
        {"suffix": ".bin"},
        {"suffix": ".safetensors", "num_shards": 3},
        {"suffix": ".bin", "num_shards": 3},
        {"suffix": ".safetensors", "num_shards": 3, "indexed": False},
    ],
    ids=str,
)
def test_the_same_weights_are_the_same_in_any_format_type_and_number_of_shards(tmp_path, plain, form, dtype):
    copy = llama_identity(llama_folder(tmp_path / "copy", weights(), dtype=dtype, **form))
    assert difference(plain, copy) is None and difference(copy, plain) is None


def test_weights_that_were_rounded_twice_are_the_same(tmp_path, plain):
    twice = {name: value.half().bfloat16().float() for name, value in weights().items()}
    copy = llama_identity(llama_folder(tmp_path / "copy", twice))
    assert copy["values"] != plain["values"]  # rounding twice does differ in single values
    assert difference(plain, copy) is None


def test_another_seed_is_another_model(tmp_path, plain):
    other = llama_identity(llama_folder(tmp_path / "other", weights(seed=1)))
    assert other["structure"] == plain["structure"]
    assert "values that were compared" in difference(plain, other)


@pytest.mark.parametrize("dtype", FLOAT_TYPES, ids=str)
@pytest.mark.parametrize("change", [0.01, 0.003])
def test_a_model_that_was_tuned_a_little_is_another_model(tmp_path, plain, change, dtype):
    noise = torch.Generator().manual_seed(5)
    tuned = {name: v * (1 + change * torch.randn(v.shape, generator=noise)) for name, v in weights().items()}
    other = llama_identity(llama_folder(tmp_path / "tuned", tuned, dtype=dtype))
    assert difference(plain, other) is not None


def test_weights_with_something_merged_into_one_kind_of_layer_are_another_model(tmp_path, plain):
    noise = torch.Generator().manual_seed(5)
    changed = {
        name: v + 0.002 * torch.randn(v.shape, generator=noise) if "q_proj" in name else v
        for name, v in weights().items()
    }
    other = llama_identity(llama_folder(tmp_path / "merged", changed))
    assert difference(plain, other) is not None


def test_another_size_or_another_tensor_is_another_model(tmp_path, plain):
    deeper = llama_identity(llama_folder(tmp_path / "deeper", weights(num_layers=13)))
    assert difference(plain, deeper) == "other names or shapes of tensors"
    wider = {**weights(), "model.embed_tokens.weight": torch.zeros(321, 64)}
    assert difference(plain, llama_identity(llama_folder(tmp_path / "wider", wider))) is not None


def test_rotary_frequencies_and_a_tied_head_do_not_count(tmp_path, plain):
    more = {**weights(), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    assert difference(plain, llama_identity(llama_folder(tmp_path / "more", more))) is None
    tied = llama_folder(tmp_path / "tied", {**weights(), "lm_head.weight": weights()["model.embed_tokens.weight"]})
    assert difference(plain, llama_identity(tied)) is not None
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert difference(plain, llama_identity(tied)) is None


def test_a_vision_file_is_the_same_as_safetensors_and_without_the_parts_that_nothing_uses(tmp_path):
    vit = torch.load(ASSETS / "eva_tiny_28.pth", weights_only=True)
    more = {**vit, "blocks.2.norm1.weight": torch.ones(32), "head.weight": torch.ones(10, 32)}
    save_file({name: value.half().contiguous() for name, value in more.items()}, tmp_path / "vit.safetensors")
    plain, copy = (
        identity_of(tiny_config(vit_ckpt=str(path)))["vit"]
        for path in (ASSETS / "eva_tiny_28.pth", tmp_path / "vit.safetensors")
    )
    assert difference(plain, copy) is None
    vit["blocks.1.attn.q_bias"] = vit["blocks.1.attn.q_bias"] + 1
    torch.save(vit, tmp_path / "other.pth")
    assert difference(plain, identity_of(tiny_config(vit_ckpt=str(tmp_path / "other.pth")))["vit"]) is not None


def test_values_are_read_in_their_places_whatever_the_layout_in_memory(tmp_path):
    value = torch.arange(12.0).reshape(3, 4)
    torch.save(
        {"w": value.t().contiguous().t(), "one": torch.tensor(2.0), "none": torch.empty(0, 3)}, tmp_path / "a.bin"
    )
    save_file({"w": value, "one": torch.tensor(2.0), "none": torch.empty(0, 3)}, tmp_path / "a.safetensors")
    assert identity_of_files([tmp_path / "a.bin"]) == identity_of_files([tmp_path / "a.safetensors"])


def test_a_file_of_the_older_torch_format_is_read(tmp_path, plain):
    folder = llama_folder(tmp_path / "llama", weights(), suffix=".bin")
    torch.save(weights(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert difference(plain, llama_identity(folder)) is None


def test_the_weights_that_transformers_would_load_are_the_ones_that_are_read(tmp_path, plain):
    folder = llama_folder(tmp_path / "llama", weights())
    torch.save(weights(seed=3), folder / "pytorch_model.bin")
    torch.save({"lr": 1}, folder / "training_args.bin")
    assert weight_paths(folder) == [folder / "model.safetensors"]
    assert difference(plain, llama_identity(folder)) is None


def test_weights_without_an_identity_say_why(tmp_path, plain):
    cut = llama_folder(tmp_path / "cut", weights())
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"model\.safetensors is cut off or no safetensors file"):
        difference(plain, llama_identity(cut))
    lost = llama_folder(tmp_path / "lost", weights(), num_shards=3)
    (lost / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no file .*model-00002"):
        difference(llama_identity(lost), plain)
    packed = llama_folder(tmp_path / "packed", weights())
    save_file({"model.w": torch.zeros(4, dtype=torch.uint8)}, packed / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.w is stored as torch\.uint8"):
        difference(plain, llama_identity(packed))
    assert "not on this machine yet" in llama_identity("nobody/nothing")["unknown"]


def test_a_file_that_would_run_code_is_not_run(tmp_path):
    class RunsCode:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    folder = llama_folder(tmp_path / "llama", weights(), suffix=".bin")
    torch.save({"w": RunsCode()}, folder / "pytorch_model.bin")
    assert "damaged or holds more than tensors" in llama_identity(folder)["unknown"]
    assert not (tmp_path / "ran").exists()


def test_an_identity_is_small_and_goes_through_json_and_checkpoints(tmp_path):
    identity = identity_of(tiny_config())
    assert len(json.dumps(identity)) < 2500
    torch.save({"base_model": identity}, tmp_path / "x.pth")
    assert torch.load(tmp_path / "x.pth", weights_only=True)["base_model"] == json.loads(json.dumps(identity))
    assert labels(identity) == labels(identity_of(tiny_config()))


def test_random_weights_have_an_identity_too():
    made_up = identity_of(OmegaConf.structured(ModelConfig(random_weights=True)))
    assert labels(made_up) == "llama: random weights, tokenizer: random weights, vit: random weights"
    assert difference(made_up["llama"], made_up["llama"]) is None
    assert difference(made_up["llama"], identity_of(tiny_config())["llama"]) == "random weights on one side"


def test_a_tokenizer_is_the_same_in_both_of_its_files(tmp_path):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(ASSETS / "llama_tiny" / "tokenizer.model"))
    pieces = {model.id_to_piece(number): number for number in range(model.vocab_size())}
    folder = llama_folder(tmp_path / "llama", weights())
    plain = identity_of(tiny_config())["tokenizer"]
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": pieces}}))
    assert difference(plain, identity_of(tiny_config(llama_model=str(folder)))["tokenizer"]) is None
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {**pieces, "more": 832}}}))
    other = identity_of(tiny_config(llama_model=str(folder)))["tokenizer"]
    assert difference(plain, other) == "832 pieces there, 833 here, not the same"


def test_the_real_folder_of_the_recording_is_the_same_as_bin(tmp_path):
    folder = Path(shutil.copytree(ASSETS / "llama_tiny", tmp_path / "llama"))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert difference(identity_of(tiny_config())["llama"], llama_identity(folder)) is None
