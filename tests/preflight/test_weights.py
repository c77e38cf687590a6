"""The check reads headers, indices and config.json, and names damaged files before anything is loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from minigpt4.common.paths import wrong_output_folder, wrong_path
from minigpt4.common.schema import ModelConfig, RunConfig
from minigpt4.models.language.llama import Llama
from minigpt4.preflight.weights import check_folder, weight_files, why_not_loaded
from tests.runners.tiny import ASSETS

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 9976578928\n"


@pytest.fixture
def llama(tmp_path):
    """Return a copy of the tiny language model, its weights in three shards."""
    folder = tmp_path / "llama"
    shutil.copytree(ASSETS / "llama_tiny", folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    for number in range(3):
        shard = f"model-{number + 1:05}-of-00003.safetensors"
        names = sorted(tensors)[number::3]
        save_file({name: tensors[name].contiguous() for name in names}, folder / shard)
        places |= dict.fromkeys(names, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def problem_of(folder):
    path = str(folder)
    return str(check_folder(path, Llama).problem() or why_not_loaded(path, Llama)).replace(path, "llama", 1)


def problems_with(**changes):
    files = {"llama_model": str(ASSETS / "llama_tiny"), "vit_ckpt": str(ASSETS / "eva_tiny_28.pth")}
    vit = {"embed_dim": 32, "depth": 2, "num_heads": 4}
    model = OmegaConf.structured(ModelConfig(**{**files, **changes}))
    model.vit = OmegaConf.merge(model.vit, vit)
    return [file.problem for file in weight_files(model, OmegaConf.structured(RunConfig())) if file.problem]


def test_a_whole_folder_has_no_problem(llama):
    assert problem_of(llama) == "None"
    assert problems_with(llama_model=str(llama)) == []


@pytest.mark.parametrize("name", ["model-00002-of-00003.safetensors", "tokenizer.model", "config.json"])
def test_a_pointer_of_git_lfs_is_named_with_the_command_that_fetches_the_file(llama, name):
    (llama / name).write_text(POINTER)
    assert problem_of(llama) == f"llama: {name} is a pointer of git-lfs, not the file itself; run `git lfs pull`"


def test_a_shard_that_the_index_names_is_missing(llama):
    (llama / "model-00002-of-00003.safetensors").unlink()
    assert problem_of(llama) == "llama lacks model-00002-of-00003.safetensors, named by model.safetensors.index.json"


def test_a_shard_that_is_a_link_to_nowhere(llama):
    (llama / "model-00002-of-00003.safetensors").unlink()
    (llama / "model-00002-of-00003.safetensors").symlink_to("blobs/gone")
    assert problem_of(llama) == (
        "llama: model-00002-of-00003.safetensors is a link to blobs/gone, which does not exist"
    )


def test_shards_without_an_index_and_without_their_siblings(llama):
    (llama / "model.safetensors.index.json").unlink()
    (llama / "model-00003-of-00003.safetensors").unlink()
    assert problem_of(llama) == (
        "llama lacks model.safetensors.index.json (the index of its shards), model-00003-of-00003.safetensors"
    )


def test_weights_with_an_unknown_file_name(llama):
    for path in llama.glob("model*"):
        path.unlink()
    shutil.copy(ASSETS / "llama_tiny/model.safetensors", llama / "weights.safetensors")
    assert "its weights should be called model.safetensors or pytorch_model.bin, not weights.safetensors" in problem_of(
        llama
    )


@pytest.mark.parametrize("kept", [4, 60, -1])
def test_a_shard_that_is_cut_off(llama, kept):
    path = llama / "model-00001-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "llama: model-00001-of-00003.safetensors is cut off or no safetensors file: " in problem_of(llama)


def test_a_bin_file_that_is_cut_off_or_another_zip_archive(llama):
    for path in llama.glob("model*"):
        path.unlink()
    torch.save(load_file(ASSETS / "llama_tiny/model.safetensors"), llama / "pytorch_model.bin")
    assert problem_of(llama) == "None"
    whole = (llama / "pytorch_model.bin").read_bytes()
    (llama / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    assert "llama: pytorch_model.bin is cut off or no file of weights: " in problem_of(llama)
    shutil.make_archive(str(llama / "x"), "zip", ASSETS / "images")
    (llama / "x.zip").replace(llama / "pytorch_model.bin")
    assert problem_of(llama) == "llama: pytorch_model.bin is a zip archive without weights"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "config.json is no JSON: "),
        ("[]", "config.json holds a list, not a JSON object"),
        ({"model_type": "opt"}, "config.json describes a model of the type 'opt', not llama"),
        ({"vocab_size": None, "hidden_size": -1}, "config.json lacks the sizes vocab_size, hidden_size"),
        ({"num_hidden_layers": 9}, "its weights do not fit config.json: missing ['model.layers.2"),
        ({"vocab_size": 7}, "shapes ['lm_head.weight (832, 64), not (7, 64)', 'model.embed_tokens.weight (832"),
    ],
)
def test_a_config_json_that_does_not_fit(llama, change, message):
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(change if isinstance(change, str) else json.dumps({**config, **change}))
    assert message in problem_of(llama)


def test_an_index_without_a_map(llama):
    (llama / "model.safetensors.index.json").write_text('{"weight_map": [1]}')
    assert "llama: model.safetensors.index.json has no weight_map of tensors and their files" in problem_of(llama)


class RunsCode:
    def __reduce__(self):
        return print, ("ran",)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_text(POINTER), "x.pth is a pointer of git-lfs"),
        (lambda path: path.mkdir(), "x.pth is a folder, not a file"),
        (lambda path: path.symlink_to("gone.pth"), "x.pth is a link to gone.pth, which does not exist"),
        (lambda path: path.write_text("<html>"), "x.pth is cut off or no file of weights"),
        (lambda path: torch.save([1], path), "x.pth holds a list, not a dictionary of tensors"),
        (lambda path: torch.save({"a": RunsCode()}, path), "x.pth: not read, since it is damaged or holds more than"),
        (lambda path: torch.save({"a": torch.ones(2)}, path), "x.pth does not fit this model: missing ['"),
    ],
)
def test_a_file_of_the_vision_encoder_that_is_damaged(tmp_path, capfd, write, message):
    write(tmp_path / "x.pth")
    (problem,) = problems_with(vit_ckpt=str(tmp_path / "x.pth"))
    assert problem.startswith("model.vit_ckpt: ") and message in problem
    assert "ran" not in capfd.readouterr().out


def test_the_vision_encoders_file_is_compared_with_the_sizes_of_the_model(tmp_path):
    state = torch.load(ASSETS / "eva_tiny_28.pth", weights_only=True)
    state["cls_token"] = torch.zeros(1, 1, 31)
    torch.save(state, tmp_path / "x.pth")
    (problem,) = problems_with(vit_ckpt=str(tmp_path / "x.pth"))
    assert problem.endswith(
        "x.pth does not fit this model: missing [], shapes ['cls_token (1, 1, 31), not (1, 1, 32)']"
    )


def test_a_checkpoint_in_safetensors_that_is_cut_off(tmp_path):
    save_file({"a": torch.zeros(99)}, tmp_path / "x.safetensors")
    assert problems_with(ckpt=str(tmp_path / "x.safetensors")) == []
    whole = (tmp_path / "x.safetensors").read_bytes()
    (tmp_path / "x.safetensors").write_bytes(whole[: len(whole) // 2])
    (problem,) = problems_with(ckpt=str(tmp_path / "x.safetensors"))
    assert problem.startswith(f"model.ckpt: {tmp_path}/x.safetensors is cut off or no safetensors file: ")


def test_an_impossible_hub_id_is_no_traceback():
    (problem,) = problems_with(llama_model="a b/c")
    assert problem == "model.llama_model: a b/c is neither a folder here nor a hub id"


def test_files_of_the_hub_in_the_cache_are_looked_at_too(tmp_path, monkeypatch, llama):
    cache = tmp_path / "hub/models--me--tiny"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text("abc")
    shutil.copytree(llama, cache / "snapshots/abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert problems_with(llama_model="me/tiny") == []
    (cache / "snapshots/abc/model-00001-of-00003.safetensors").write_bytes(b"cut")
    assert (
        "abc: model-00001-of-00003.safetensors is cut off or no safetensors" in problems_with(llama_model="me/tiny")[0]
    )


@pytest.mark.parametrize("path", ["x" * 300, "a\0b", "\ud800"])
def test_a_path_that_no_file_can_have_is_no_traceback(path):
    assert wrong_path(path) is not None
    assert wrong_output_folder("run.output_dir", path) is not None


def test_an_output_folder_is_tried_without_a_trace(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dead").symlink_to(tmp_path / "gone")
    assert wrong_output_folder("run.output_dir", str(tmp_path / "a/b/c")) is None
    below = wrong_output_folder("run.output_dir", str(tmp_path / "file/out"))
    assert below == f"run.output_dir: the folder {tmp_path}/file/out cannot be made, since {tmp_path}/file is a file"
    assert "run.save_path: " in str(wrong_output_folder("run.save_path", str(tmp_path / "dead/out")))
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == ["dead", "file"]


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: edit_json(f / "config.json", hidden_act="foo"), "foo"),
        (lambda f: edit_json(f / "config.json", rms_norm_eps="abc"), "rms_norm_eps"),
        (lambda f: edit_json(f / "config.json", pad_token_id=10**6), "Padding_idx"),
        (lambda f: edit_json(f / "config.json", attention_bias=True), "its weights do not fit config.json: missing ['"),
        (lambda f: edit_json(f / "config.json", quantization_config="abc"), "cannot be loaded"),
        (lambda f: (f / "generation_config.json").write_text("[1]"), "not a mapping"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "adapter_config.json"),
        (
            lambda f: (f / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": json.loads((f / "model.safetensors.index.json").read_text())["weight_map"]})
            ),
            "metadata",
        ),
    ],
)
def test_a_folder_that_transformers_would_not_load_is_named(llama, damage, reason):
    damage(llama)
    [problem] = problems_with(llama_model=str(llama))
    assert problem.startswith(f"model.llama_model: {llama}")
    assert reason in problem and "\n" not in problem


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("blocks.0.attn.q_bias"), "missing ['blocks.0.attn.q_bias'], shapes []"),
        (
            lambda v: v.update({"blocks.0.mlp.fc2.bias": torch.zeros(3)}),
            "missing [], shapes ['blocks.0.mlp.fc2.bias (3,), not (32,)']",
        ),
        (lambda v: v.pop("pos_embed"), "missing ['pos_embed'], shapes []"),
        (
            lambda v: v.update(pos_embed=torch.zeros(1, 8, 32)),
            "missing [], shapes ['pos_embed (1, 8, 32), not (1, 1025, 32)']",
        ),
    ],
)
def test_every_tensor_of_the_vision_encoder_is_compared(tmp_path, change, message):
    tensors = torch.load(ASSETS / "eva_tiny_28.pth", weights_only=True)
    change(tensors)
    torch.save(tensors, tmp_path / "v.pth")
    [problem] = problems_with(vit_ckpt=str(tmp_path / "v.pth"))
    assert problem == f"model.vit_ckpt: {tmp_path}/v.pth does not fit this model: {message}"
