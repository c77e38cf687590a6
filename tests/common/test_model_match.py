"""A checkpoint compared with the model section of a run: what is refused, allowed, or could not be compared."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from minigpt4.common.checkpoint import read_checkpoint
from minigpt4.common.model_match import check_match, compare
from minigpt4.common.weight_identity import identity_of
from minigpt4.preflight.weights import check_checkpoint
from tests.models.golden_model import ASSETS, tiny_config, tiny_model

CKPT = ASSETS / "minigptv2_tiny_ckpt.pth"
TRAINED = {"lora_alpha": 16, "image_size": 56, "end_sym": "</s>", "chat_template": True}
TEMPLATE = "[INST] {} [/INST]"


def ours(**options):
    """Return a checkpoint as the trainer writes it, trained on the recorded base model."""
    section = {**TRAINED, "prompt_template": TEMPLATE, "llama_model": "there/llama", "vit_ckpt": "there/vit.pth"}
    return {
        "model": read_checkpoint(CKPT)["model"],
        "config": {"model": {**section, **options}},
        "base_model": identity_of(tiny_config()),
    }


def other_llama(tmp_path):
    """Write the recorded language model with slightly other weights."""
    folder = shutil.copytree(ASSETS / "llama_tiny", tmp_path / "llama_other")
    state = load_file(folder / "model.safetensors")
    save_file({k: v * 1.02 for k, v in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_the_same_model_is_loaded_without_a_warning(caplog):
    assert check_match(ours(), tiny_config(), "x.pth") == []
    assert caplog.records == []


@pytest.mark.parametrize(
    ("trained", "now", "message"),
    [
        ({"lora_alpha": 64}, {}, "x.pth was trained with model.lora_alpha=64, this run has 16"),
        ({}, {"image_size": 84}, "x.pth was trained with model.image_size=56, this run has 84"),
        ({}, {"end_sym": None}, "x.pth was trained with model.end_sym='</s>', this run has '\\n'"),
        ({"end_sym": None}, {}, "x.pth was trained with model.end_sym='\\n', this run has '</s>'"),
        ({}, {"chat_template": False}, "x.pth was trained with model.chat_template=True, this run has False"),
        (
            {},
            {"prompt_template": "USER: {}"},
            f"x.pth was trained with model.prompt_template='{TEMPLATE}', this run has 'USER: {{}}'",
        ),
    ],
)
def test_another_option_is_refused_with_both_values_and_the_key(trained, now, message):
    with pytest.raises(ValueError) as caught:
        check_match(ours(**trained), tiny_config(**now), "out/x.pth")
    assert str(caught.value) == (
        f"out/x.pth does not fit this model: {message}\n"
        "  use the checkpoint's values, or allow the difference with --options model.allow_mismatch=True"
    )


def test_unset_options_are_the_same_as_their_defaults():
    trained = ours(end_sym=None, chat_template=None, prompt_template=None)
    now = tiny_config(end_sym="\n", chat_template=False, prompt_template=TEMPLATE)
    assert check_match(trained, now, "x.pth") == []
    assert compare(ours(), tiny_config(prompt_template=None), "x.pth").differences == []
    assert compare(ours(), tiny_config(chat_template=None), "x.pth").differences == []
    assert len(compare(ours(), tiny_config(chat_template=None), "x.pth", trains=True).differences) == 1


def test_another_base_model_is_refused_with_both_names(tmp_path):
    folder = other_llama(tmp_path)
    shutil.copy(ASSETS / "eva_tiny_28.pth", tmp_path / "copy.pth")
    with pytest.raises(ValueError) as caught:
        check_match(ours(), tiny_config(llama_model=folder, vit_ckpt=str(tmp_path / "copy.pth")), "x.pth")
    assert "x.pth was trained on model.llama_model=there/llama [weights " in str(caught.value)
    assert f"this run has {folder} [weights " in str(caught.value)
    assert "vit_ckpt" not in str(caught.value)  # a copy of the same weights


def test_another_vision_encoder_is_refused_unless_the_checkpoint_brings_its_own(tmp_path):
    vit = torch.load(ASSETS / "eva_tiny_28.pth", weights_only=True)
    torch.save({name: value + 0.1 for name, value in vit.items()}, tmp_path / "vit.pth")
    cfg, state = tiny_config(vit_ckpt=str(tmp_path / "vit.pth")), ours()
    with pytest.raises(ValueError, match=r"model\.vit_ckpt=there/vit\.pth .*: other weights"):
        check_match(state, cfg, "x.pth")
    state["model"] = {**state["model"], "visual_encoder.cls_token": torch.zeros(1, 1, 32)}
    assert compare(state, cfg, "x.pth").differences == []


def test_all_differences_are_reported_at_once_and_may_be_allowed(tmp_path, caplog):
    changes = {"llama_model": other_llama(tmp_path), "end_sym": "\n"}
    with pytest.raises(ValueError) as caught:
        check_match(ours(lora_alpha=64), tiny_config(**changes), "x.pth")
    assert all(f"model.{key}=" in str(caught.value) for key in ("lora_alpha", "end_sym", "llama_model"))
    allowed = check_match(ours(lora_alpha=64), tiny_config(**changes, allow_mismatch=True), "x.pth")
    assert len(allowed) == 3
    assert [record.getMessage() for record in caplog.records] == allowed
    assert check_match(ours(lora_alpha=64), tiny_config(**changes), "x.pth", allowed=True) == allowed


def test_the_rank_and_layers_of_lora_are_known_from_the_tensors_and_no_option_allows_others():
    for changes, message in (
        ({"lora_r": 8}, r"x\.pth has LoRA of rank 4, this run model\.lora_r=8 \(.*lora_A\.weight \(4, 64\), not \(8"),
        (
            {"lora_target_modules": ["q_proj", "k_proj"]},
            r"x\.pth has LoRA on \[q_proj, v_proj\], this run model\.lora_target_modules=\[k_proj, q_proj\]",
        ),
    ):
        state = {"model": read_checkpoint(CKPT)["model"]}
        with pytest.raises(ValueError, match=message) as caught:
            check_match(state, tiny_config(**changes, allow_mismatch=True), "out/x.pth")
        assert "allow_mismatch" not in str(caught.value)
    assert compare(ours(), tiny_config(lora_target_modules=["v_proj", "q_proj"]), "x.pth").misfits == []


def test_a_checkpoint_without_lora_is_refused_where_the_run_has_it():
    projection = {k: v for k, v in read_checkpoint(CKPT)["model"].items() if k.startswith("llama_proj")}
    with pytest.raises(ValueError, match=r"x\.pth has no LoRA, this run model\.lora_r=4"):
        check_match({"model": projection}, tiny_config(), "x.pth")
    assert compare({"model": projection}, tiny_config(lora_r=0, lora_alpha=1), "x.pth").misfits == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"base_model": "0f3c"}, "its fingerprint of the base model has an older format"),
        ({"base_model": {"version": 9}}, "its fingerprint of the base model has version 9, not 1"),
        ({"base_model": {"version": 1, "llama": {"values": 3}}}, "model.llama_model ("),
    ],
)
def test_a_fingerprint_of_another_format_is_not_compared_and_one_line_says_so(tmp_path, caplog, changes, text):
    assert check_match({**ours(), **changes}, tiny_config(llama_model=other_llama(tmp_path)), "x.pth") == []
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("x.pth: loaded without comparing all of its model: ")
    assert text in caplog.text


def test_a_published_checkpoint_is_loaded_with_one_line(caplog):
    state = read_checkpoint(CKPT)
    assert check_match({"model": state["model"]}, tiny_config(), "x.pth") == []
    assert [record.getMessage() for record in caplog.records] == [
        "x.pth: loaded without comparing all of its model: it does not say model.lora_alpha, model.image_size, "
        "model.end_sym, model.chat_template, model.prompt_template; it has no fingerprint of its base model"
    ]


def test_the_config_of_the_published_trainer_refuses_another_alpha_and_warns_of_other_prompts(caplog):
    state = read_checkpoint(CKPT)
    assert check_match(state, tiny_config(end_sym="\n"), "x.pth") == []
    assert "x.pth was trained with model.end_sym='</s>', this run has '\\n'" in caplog.text
    with pytest.raises(ValueError, match=r"model\.lora_alpha=16, this run has 64"):
        check_match(state, tiny_config(lora_alpha=64), "x.pth")


def test_a_model_loads_what_fits_and_remembers_what_was_allowed(tmp_path):
    torch.save(ours(lora_alpha=64), tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x\.pth does not fit this model: x\.pth was trained with model\.lora_alpha"):
        tiny_model(ckpt=str(tmp_path / "x.pth"))
    assert list(tiny_model(ckpt=str(tmp_path / "x.pth"), lora_alpha=64).mismatches) == []
    model = tiny_model(ckpt=str(tmp_path / "x.pth"), allow_mismatch=True)
    assert model.mismatches == ["x.pth was trained with model.lora_alpha=64, this run has 16"]


def test_another_base_model_is_refused_before_it_is_loaded(tmp_path, monkeypatch):
    torch.save(ours(), tmp_path / "x.pth")
    monkeypatch.setattr("minigpt4.models.language.llama.Llama._read", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match=r"model\.llama_model=there/llama"):
        tiny_model(ckpt=str(tmp_path / "x.pth"), llama_model=other_llama(tmp_path))


def test_the_check_before_a_training_names_the_key_and_reads_a_checkpoint_of_any_form(tmp_path):
    tensors = read_checkpoint(CKPT)["model"]
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "flat.pth")
    for name in ("x.safetensors", "flat.pth"):
        assert check_checkpoint("model.ckpt", str(tmp_path / name), tiny_config()) == ([], [])
        [problem], _ = check_checkpoint("model.ckpt", str(tmp_path / name), tiny_config(lora_r=8))
        assert problem.startswith(f"model.ckpt: {tmp_path / name} does not fit this model: {name} has LoRA of rank 4")
    (tmp_path / "flat.pth").write_bytes(b"no")
    [problem], _ = check_checkpoint("model.ckpt", str(tmp_path / "flat.pth"), tiny_config())
    assert problem.startswith(f"model.ckpt: {tmp_path / 'flat.pth'} is cut off or no file of weights: ")


def test_a_checkpoint_of_other_widths_is_refused_before_the_model_is_loaded(tmp_path):
    llama = shutil.copytree(ASSETS / "llama_tiny", tmp_path / "llama")
    sizes = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**sizes, "hidden_size": 80}))
    cfg = tiny_config(llama_model=str(llama), vit={"embed_dim": 48, "depth": 2, "num_heads": 4})
    [problem], _ = check_checkpoint("model.ckpt", str(CKPT), cfg)
    assert "was trained with a language model of width 64, that of model.llama_model has 80" in problem
    assert "was trained with a vision tower of width 32, that of model.vit_model has 48" in problem


def test_a_checkpoint_without_an_optimizer_is_loaded_but_not_resumed(tmp_path):
    torch.save({"model": read_checkpoint(CKPT)["model"]}, tmp_path / "x.pth")
    where = str(tmp_path / "x.pth")
    assert check_checkpoint("model.ckpt", where, tiny_config()) == ([], [])
    [problem], _ = check_checkpoint("run.resume_ckpt_path", where, tiny_config(), resumed=True)
    assert problem == f"run.resume_ckpt_path: {where} cannot be resumed, it has no optimizer, epoch"


def test_a_file_that_holds_something_else_is_named_by_the_check():
    vit = str(ASSETS / "eva_tiny_28.pth")
    [problem], _ = check_checkpoint("model.ckpt", vit, tiny_config())
    assert problem.startswith(f"model.ckpt: {vit} does not fit this model: missing ['llama_model.")
    assert "unexpected ['cls_token', " in problem and problem.endswith("; it is no checkpoint of MiniGPT-v2")


def test_the_check_reports_what_is_allowed(tmp_path):
    torch.save(ours(lora_alpha=64), tmp_path / "x.pth")
    problems, remarks = check_checkpoint("model.ckpt", str(tmp_path / "x.pth"), tiny_config(allow_mismatch=True))
    assert problems == []
    assert remarks == ["model.ckpt: x.pth was trained with model.lora_alpha=64, this run has 16"]


def test_weights_that_are_downloaded_are_compared_after_the_download(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "hub"))
    vit = torch.load(ASSETS / "eva_tiny_28.pth", weights_only=True)
    torch.save({name: value + 0.1 for name, value in vit.items()}, tmp_path / "vit.pth")
    torch.save(ours(), tmp_path / "x.pth")
    address = (tmp_path / "vit.pth").as_uri()
    with pytest.raises(ValueError, match=r"model\.vit_ckpt=there/vit\.pth .*, this run has file:/.*: other weights"):
        tiny_model(ckpt=str(tmp_path / "x.pth"), vit_ckpt=address)


def damaged_by(change):
    tensors = dict(read_checkpoint(CKPT)["model"])
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("llama_proj.bias"), "missing ['llama_proj.bias'], unexpected [], shapes []"),
        (lambda t: t.update(foo=torch.zeros(2)), "missing [], unexpected ['foo'], shapes []"),
        (
            lambda t: t.update({"llama_proj.bias": torch.zeros(3)}),
            "missing [], unexpected [], shapes ['llama_proj.bias (3,), not",
        ),
        (
            lambda t: t.pop(next(name for name in t if "layers.0" in name and "lora_B" in name)),
            "missing ['llama_model.",
        ),
    ],
)
def test_a_checkpoint_with_other_tensors_is_refused_before_the_model_is_built(tmp_path, change, words):
    torch.save({"model": damaged_by(change)}, tmp_path / "x.pth")
    [problem], _ = check_checkpoint("model.ckpt", str(tmp_path / "x.pth"), tiny_config())
    assert problem.startswith(f"model.ckpt: {tmp_path}/x.pth does not fit this model: {words}")


@pytest.mark.parametrize("wrong", [{3: torch.zeros(1)}, {"llama_proj.bias": "abc"}])
def test_a_checkpoint_whose_model_holds_other_things_than_tensors_is_refused(tmp_path, wrong):
    torch.save({"model": damaged_by(lambda tensors: tensors.update(wrong))}, tmp_path / "x.pth")
    [problem], _ = check_checkpoint("model.ckpt", str(tmp_path / "x.pth"), tiny_config())
    assert problem.startswith(f"model.ckpt: {tmp_path}/x.pth: not a training checkpoint, its model holds ")
