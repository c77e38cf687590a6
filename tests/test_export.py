import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from minigpt4.common.checkpoint import read_tensors
from minigpt4.conversation.chat_format import LLAMA_2
from minigpt4.conversation.encoder import ChatEncoder
from minigpt4.conversation.tokenizer import ByteTokenizer, SentencePieceTokenizer, TransformersTokenizer
from minigpt4.export import export, logits_of, main
from tests.conversation.small_families import CHATML, write_chatml
from tests.conversation.small_tokenizers import train
from tests.models.golden_model import ASSETS, picture, tiny_model

LLAMA = str(ASSETS / "llama_tiny")
PROMPT = LLAMA_2.generation_prompt("[vqa] What is this?")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return the folder, how far its logits differ, and embeddings, logits and answer of the model."""
    model = tiny_model()
    with torch.no_grad():
        embeds = model.embed_prompts(picture(1)[None], [PROMPT])[0]
    logits = logits_of(model.language_model.causal_lm, embeds)
    answer = model.generate(picture(1)[None], [PROMPT])
    out = tmp_path_factory.mktemp("exported") / "new"
    return out, export(model, out, llama_folder=LLAMA, dtype="float32"), embeds, logits, answer


def test_the_merged_folder_is_a_plain_llama_with_the_same_logits(exported):
    out, differences, embeds, logits, _ = exported
    llama = AutoModelForCausalLM.from_pretrained(out / "llama")
    assert type(llama).__name__ == "LlamaForCausalLM"
    assert not any("lora" in name for name, _ in llama.named_parameters())
    torch.testing.assert_close(logits_of(llama.eval(), embeds), logits, rtol=0, atol=1e-4)
    assert 0 < differences["llama"] < 1e-5
    base = AutoModelForCausalLM.from_pretrained(LLAMA)
    assert (logits_of(base.eval(), embeds) - logits).abs().max() > 0.01  # LoRA does matter here


def test_the_merged_folder_stops_where_answers_end(exported):
    out, *_ = exported
    llama = AutoModelForCausalLM.from_pretrained(out / "llama")
    assert (llama.generation_config.eos_token_id, bool(llama.generation_config.do_sample)) == (2, False)
    assert (out / "llama" / "tokenizer.model").read_bytes() == (ASSETS / "llama_tiny" / "tokenizer.model").read_bytes()


def test_autotokenizer_reads_the_exported_folder_as_the_model_does(exported):
    out, *_, answer = exported
    tokenizer, ours = AutoTokenizer.from_pretrained(out / "llama"), tiny_model().chat_encoder.tokenizer
    texts = ["[INST] [vqa] What is the  background? [/INST]", f"[/INST]{answer[0]}</s>", "a<s> b", "\u65e5\u672c\n\n"]
    assert [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts] == [*map(ours.encode, texts)]
    assert tokenizer(answer[0])["input_ids"] == [1, *ours.encode(answer[0])]
    assert tokenizer.decode(ours.encode(f"{answer[0]}</s>"), skip_special_tokens=True) == answer[0]


def test_a_batch_of_answers_by_transformers_shows_no_padding(exported):
    out, *_ = exported
    llama, tokenizer = (kind.from_pretrained(out / "llama") for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert llama.generation_config.pad_token_id == tokenizer.pad_token_id == 2
    batch = tokenizer(["[INST] [vqa] Why? [/INST]", "yes"], return_tensors="pt", padding=True)
    assert batch["input_ids"][1].tolist() == [
        *[2] * (batch["input_ids"].shape[1] - 2),
        1,
        tokenizer("yes")["input_ids"][1],
    ]
    assert tokenizer.batch_decode([[300, 2], [301, 302]], skip_special_tokens=True)[0] == tokenizer.decode([300])


def test_export_ends_before_the_weights_when_autotokenizer_reads_other_ids(tmp_path):
    model = tiny_model()
    source = train(tmp_path / "source", normalization_rule_name="nmt_nfkc")
    model.chat_encoder.tokenizer = SentencePieceTokenizer(source / "tokenizer.model")
    with pytest.raises(ValueError, match=r"out/llama: AutoTokenizer reads .* the model learnt"):
        export(model, tmp_path / "out", llama_folder=LLAMA, dtype="float32")
    assert not (tmp_path / "out" / "llama" / "model.safetensors").exists()


def test_a_tokenizer_of_another_family_is_exported_as_transformers_reads_it(tmp_path):
    model = tiny_model()
    tokenizer = TransformersTokenizer(str(write_chatml(tmp_path / "source")))
    model.chat_encoder = ChatEncoder(tokenizer, num_image_tokens=4, chat_format=CHATML)
    differences = export(model, tmp_path / "out", llama_folder=LLAMA, dtype="float32")
    assert max(differences.values()) < 1e-5
    assert not (tmp_path / "out" / "llama" / "tokenizer.model").exists()
    again, ends = AutoTokenizer.from_pretrained(tmp_path / "out" / "llama"), [0, tokenizer.special["<|im_end|>"]]
    text = CHATML.generation_prompt("what is this?", has_image=False)
    assert again.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "llama").generation_config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, ends, 0)


def test_a_language_model_that_transformers_lacks_is_refused_before_anything_is_written(tmp_path):
    model = tiny_model()
    model.language_model.model = torch.nn.Linear(2, 2)
    message = r"models of transformers only, not the language model Linear; its checkpoint \(\.pth\) holds"
    with pytest.raises(ValueError, match=message):
        export(model, tmp_path / "out", llama_folder=LLAMA, dtype="float32")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_has_no_files_is_refused_before_anything_is_written(tmp_path):
    model = tiny_model()
    model.chat_encoder.tokenizer = ByteTokenizer()
    with pytest.raises(ValueError, match="export cannot write the tokenizer ByteTokenizer for transformers"):
        export(model, tmp_path / "out", llama_folder=LLAMA, dtype="float32")
    assert not (tmp_path / "out").exists()


def test_the_adapter_folder_fits_the_original_llama(exported):
    out, differences, embeds, logits, _ = exported
    llama = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(LLAMA), out / "adapter")
    torch.testing.assert_close(logits_of(llama.get_base_model().eval(), embeds), logits, rtol=0, atol=1e-4)
    assert llama.peft_config["default"].base_model_name_or_path == LLAMA
    assert differences["adapter"] < 1e-5


def test_the_exported_parts_make_the_same_model_again(exported):
    out, _, _, _, answer = exported
    assert set(load_file(out / "projection.safetensors")) == {"llama_proj.weight", "llama_proj.bias"}
    model = tiny_model(llama_model=str(out / "llama"), lora_r=0, ckpt=None)
    model.load_trainable_state(read_tensors(out / "projection.safetensors"), source="projection.safetensors")
    assert model.generate(picture(1)[None], [PROMPT]) == answer


def test_an_export_with_other_logits_is_refused(tmp_path, monkeypatch):
    model = tiny_model()
    monkeypatch.setattr("minigpt4.export.TOLERANCE", {"float32": 0.0, "float16": 0.0})
    with pytest.raises(ValueError, match=r"do not use .*llama: its logits differ by .* explains 0e\+00"):
        export(model, tmp_path, llama_folder=LLAMA, dtype="float16")


def test_a_folder_that_holds_something_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("x")
    monkeypatch.setattr("sys.argv", ["export", "--cfg-path", "none.yaml", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"export: .* is not empty"):
        main()
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(("option", "bits"), [("low_resource", 8), ("load_in_4bit", 4)])
def test_8_and_4_bits_are_refused_before_anything_is_loaded(tmp_path, monkeypatch, option, bits):
    (tmp_path / "x.yaml").write_text(f"model:\n  arch: minigpt_v2\n  {option}: true\n")
    monkeypatch.setattr("sys.argv", ["export", "--cfg-path", str(tmp_path / "x.yaml"), "--out", str(tmp_path / "out")])
    message = f"export: model.{option}: {bits}-bit weights cannot be merged; --options model.{option}=False"
    with pytest.raises(SystemExit, match=message):
        main()
