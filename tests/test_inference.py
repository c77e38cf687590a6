import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from minigpt4.api import Assistant, load_model, open_picture
from minigpt4.conversation.chat_format import LLAMA_2
from minigpt4.conversation.encoder import ChatEncoder
from minigpt4.conversation.tokenizer import TransformersTokenizer
from tests.conversation.small_families import CHATML, write_chatml
from tests.models.golden_model import ASSETS, picture, tiny_model

IMAGES = [ASSETS / "images" / f"img{number}.png" for number in range(2)]
YAML = f"""
model:
  image_size: 56
  vit: {{embed_dim: 32, depth: 2, num_heads: 4}}
  vit_precision: fp32
  vit_ckpt: {ASSETS / "eva_tiny_28.pth"}
  llama_model: {ASSETS / "llama_tiny"}
  ckpt: {ASSETS / "minigptv2_tiny_ckpt.pth"}
  lora_r: 4
  end_sym: "</s>"
preprocess: {{vis_processor: {{eval: {{image_size: 56}}}}}}
"""


@pytest.fixture(scope="module")
def assistant(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(YAML)
    return load_model(path, device="cpu")


def test_pictures_and_paths_are_answered_as_the_evaluation_does(assistant):
    questions = ["[vqa] what is this?", "[vqa] how many?"]
    expected = tiny_model().generate(
        torch.stack([picture(0), picture(1)]), [LLAMA_2.generation_prompt(q) for q in questions]
    )
    assert assistant.generate(IMAGES, questions) == expected
    assert assistant.generate([str(IMAGES[0]), Image.open(IMAGES[1])], questions) == expected
    assert assistant.generate(IMAGES[0], questions[0]) == expected[:1]


def test_one_picture_for_all_questions_is_encoded_once(assistant, monkeypatch):
    seen = []
    encode = assistant.model.encode_images
    monkeypatch.setattr(assistant.model, "encode_images", lambda images: (seen.append(len(images)), encode(images))[1])
    answers = assistant.generate(IMAGES[0], ["a", "b", "c"], max_new_tokens=3)
    again = assistant.generate([IMAGES[0], IMAGES[1], str(IMAGES[0])], ["a", "b", "c"], max_new_tokens=3)
    assert seen == [1, 2]
    assert (answers[0], answers[2]) == (again[0], again[2])


def test_a_question_may_come_without_a_picture(assistant):
    both = assistant.generate([IMAGES[0], None], ["a", "Name 2 colors."], max_new_tokens=4)
    assert (
        both[1]
        == tiny_model().generate(None, [LLAMA_2.generation_prompt("Name 2 colors.", False)], max_new_tokens=4)[0]
    )


def test_wrong_questions_are_refused_with_the_reason(assistant, tmp_path):
    with pytest.raises(ValueError, match="2 questions about 1 pictures; give one each, or one for all"):
        assistant.generate([IMAGES[0]], ["a", "b"])
    with pytest.raises(ValueError, match=r"cannot read the picture .*none.png"):
        assistant.generate(tmp_path / "none.png", "a")
    with pytest.raises(ValueError, match="a question may not hold <ImageHere>"):
        assistant.generate(IMAGES[0], "<ImageHere>")


def phone_photo(path):
    """Write a photo that a phone held upright stored lying: its left third is white, upright the top third is."""
    image = Image.new("RGB", (48, 30), "black")
    image.paste("white", (0, 0, 16, 30))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, quality=95, exif=exif)
    return path


def test_a_picture_is_shown_upright_on_white_or_as_stored(tmp_path):
    photo = phone_photo(tmp_path / "phone.jpg")
    upright, stored = open_picture(photo), open_picture(photo, "as_stored")
    assert (upright.size, stored.size) == ((30, 48), (48, 30))
    assert [upright.getpixel(place) for place in ((25, 5), (5, 40))] == [(255, 255, 255), (0, 0, 0)]
    assert [stored.getpixel(place) for place in ((5, 25), (40, 5))] == [(255, 255, 255), (0, 0, 0)]
    glass = Image.new("RGBA", (2, 2), (9, 9, 9, 0))
    assert open_picture(glass).getpixel((0, 0)) == (255, 255, 255)
    assert open_picture(glass, "as_stored").getpixel((0, 0)) == (9, 9, 9)
    with Image.open(photo) as opened:  # by the user, not decoded yet
        assert open_picture(opened).tobytes() == upright.tobytes()


def test_model_pictures_decides_what_an_assistant_sees(assistant, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(YAML)
    stored = load_model(path, device="cpu", options=["model.pictures=as_stored"])
    assert (assistant.pictures, stored.pictures) == ("as_seen", "as_stored")
    photo = phone_photo(tmp_path / "phone.jpg")
    upright = open_picture(photo)
    assert torch.equal(assistant.encode([photo]).values, assistant.encode([upright]).values)
    assert not torch.equal(stored.encode([photo]).values, assistant.encode([photo]).values)


def test_a_damaged_picture_is_named(assistant, tmp_path):
    (tmp_path / "cut.png").write_bytes(IMAGES[0].read_bytes()[:60])
    with pytest.raises(ValueError, match=r"cannot read the picture .*cut\.png: "):
        assistant.generate(tmp_path / "cut.png", "a")
    with Image.open(tmp_path / "cut.png") as opened, pytest.raises(ValueError, match=r"the picture .*cut\.png: "):
        assistant.generate(opened, "a")


def test_a_conversation_is_laid_out_as_it_was_trained(assistant, monkeypatch):
    prompts = []
    stream = assistant.stream
    monkeypatch.setattr(assistant, "stream", lambda e, p, **how: (prompts.append(p), stream(e, p, **how))[1])
    chat = assistant.chat(IMAGES[0])
    first = list(chat.ask("what is this?", max_new_tokens=5))[-1]
    list(chat.ask("and that?", max_new_tokens=5))
    start = "<s>[INST] <Img><ImageHere></Img> what is this? [/INST]"
    assert prompts == [start, f"{start}{first}</s><s>[INST] and that? [/INST]"]
    assert first == assistant.generate(IMAGES[0], "what is this?", max_new_tokens=5)[0]
    assert chat.turns[0].answer == first


def test_a_conversation_with_another_family_is_laid_out_in_its_format(assistant, tmp_path, monkeypatch):
    model = tiny_model()
    tokenizer = TransformersTokenizer(str(write_chatml(tmp_path)))
    model.chat_encoder = ChatEncoder(tokenizer, num_image_tokens=4, chat_format=CHATML)
    other, prompts = Assistant(model, assistant.processor), []
    stream = other.stream
    monkeypatch.setattr(other, "stream", lambda e, p, **how: (prompts.append(p), stream(e, p, **how))[1])
    chat = other.chat(IMAGES[0])
    first = list(chat.ask("what is this?", max_new_tokens=5))[-1]
    list(chat.ask("and that?", max_new_tokens=5))
    asked = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    start = f"{CHATML.system}{asked.format('<Img><ImageHere></Img> what is this?')}"
    assert prompts == [start, f"{start}{first}<|im_end|>\n{asked.format('and that?')}"]
    assert first == other.generate(IMAGES[0], "what is this?", max_new_tokens=5)[0]


def test_importing_the_package_imports_no_torch():
    code = "import sys, minigpt4; assert 'torch' not in sys.modules; assert not hasattr(minigpt4, 'nothing')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_the_package_offers_load_model():
    import minigpt4

    assert minigpt4.load_model is load_model


def test_a_model_of_another_template_is_asked_in_it(tmp_path, monkeypatch):
    (tmp_path / "tiny.yaml").write_text(YAML)
    template = "USER: {} ASSISTANT:"
    other = load_model(tmp_path / "tiny.yaml", options=[f"model.prompt_template='{template}'"], device="cpu")
    prompts = []
    prompt_ids = other.model.chat_encoder.prompt_ids
    monkeypatch.setattr(other.model.chat_encoder, "prompt_ids", lambda p: (prompts.append(p), prompt_ids(p))[1])
    other.generate(IMAGES[0], "what is this?", max_new_tokens=2)
    list(other.chat().ask("and now?", max_new_tokens=2))
    assert prompts == ["<s>USER: <Img><ImageHere></Img> what is this? ASSISTANT:", "<s>USER: and now? ASSISTANT:"]


def test_a_checkpoint_of_another_alpha_is_refused_by_load_model(tmp_path):
    (tmp_path / "tiny.yaml").write_text(YAML)
    with pytest.raises(ValueError, match=r"trained with model\.lora_alpha=16, this run has 64"):
        load_model(tmp_path / "tiny.yaml", options=["model.lora_alpha=64"], device="cpu")
