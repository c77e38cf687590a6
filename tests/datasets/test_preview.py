import re
import shutil
import subprocess

import numpy as np
import pytest
import yaml
from PIL import Image

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.conversation.encoder import ChatEncoder
from minigpt4.conversation.tokenizer import TransformersTokenizer
from minigpt4.datasets.preview import views_of, write_preview
from minigpt4.models.base_model import BaseModel
from minigpt4.preflight.preflight import run_preflight
from tests.conversation.small_families import CHATML, write_chatml
from tests.runners.tiny import DATA, tiny_config

ASKED, ANSWERED = (31, 111, 235), (217, 72, 15)  # the colours of boxes of questions and of answers


@pytest.fixture
def preview(tmp_path, monkeypatch):
    """Return a function that loads a config over the recorded files and builds its datasets."""
    monkeypatch.chdir(DATA)

    def make(*names, **model):
        config = tiny_config()
        config["model"] |= model
        config["run"]["output_dir"] = str(tmp_path / "out")
        config["datasets"] = {name: {"batch_size": 2, "sample_ratio": 1 + n} for n, name in enumerate(names)}
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(config))
        cfg = Config.load(tmp_path / "x.yaml")
        report = run_preflight(cfg)
        assert report.problems == []
        return cfg, report.built()

    return make


def test_a_sample_is_shown_as_training_gets_it(preview):
    cfg, datasets = preview("refcoco")
    (view,) = views_of(cfg, datasets, num_samples=2)
    assert len(view.samples) == 2
    for sample in view.samples:
        assert [tuple(picture.shape) for picture in sample.pictures] == [(3, 56, 56)]
        text = "".join("#" * token.count if token.is_image else token.text for token in sample.tokens)
        ((prompt, answer),) = sample.turns
        # blanks at the seams of special pieces are the tokenizer's own
        shown = f"<s>[INST] {prompt} [/INST]{answer}</s>".replace("<ImageHere>", "####")
        assert text.replace(" ", "") == shown.replace(" ", "")
        trained = "".join(token.text for token in sample.tokens if token.trained)
        assert trained.replace(" ", "") == f"{answer}</s>".replace(" ", "")
        assert sum(token.count for token in sample.tokens) == sample.num_tokens
        assert sum(token.trained for token in sample.tokens) == sample.num_trained


@registry.register_model("chatml_stand_in")
class ChatMLModel(BaseModel):
    """A model of another family: its tokenizer and its chat format alone."""

    DEFAULT_CONFIG = "configs/models/minigpt_v2.yaml"

    @classmethod
    def chat_encoder_of(cls, model_cfg):
        tokenizer = TransformersTokenizer(model_cfg.llama_model)
        return ChatEncoder.from_config(model_cfg, tokenizer=tokenizer, chat_format=CHATML, num_image_tokens=3)


def test_a_sample_of_another_family_is_shown_with_its_marks(preview, tmp_path):
    cfg, datasets = preview("refcoco", end_sym=None)
    cfg.model_cfg.arch, cfg.model_cfg.llama_model = "chatml_stand_in", str(write_chatml(tmp_path / "chatml"))
    (view,) = views_of(cfg, datasets, num_samples=1)
    (sample,) = view.samples
    ((prompt, answer),) = sample.turns
    text = "".join("#" * token.count if token.is_image else token.text for token in sample.tokens)
    question = prompt.replace("<ImageHere>", "###").rstrip()
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    assert text == (f"{system}<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>")
    assert "".join(token.text for token in sample.tokens if token.trained) == f"{answer}<|im_end|>"


def test_a_model_without_a_chat_encoder_has_no_preview(preview):
    cfg, datasets = preview("refcoco")
    registry.register_model("bare_stand_in")(type("Bare", (BaseModel,), {"DEFAULT_CONFIG": None}))
    cfg.model_cfg.arch = "bare_stand_in"
    with pytest.raises(ValueError, match=r"model\.arch: Bare has no chat encoder"):
        views_of(cfg, datasets, num_samples=1)


def test_the_picture_is_the_resized_one(preview):
    cfg, datasets = preview("coco_caption")
    (view,) = views_of(cfg, datasets, num_samples=1)
    (sample,) = view.samples
    with Image.open(sample.id.split(" ", 1)[1]) as image:
        resized = np.asarray(image.convert("RGB").resize((56, 56), Image.Resampling.BICUBIC))
    assert np.abs(sample.pictures[0].permute(1, 2, 0).numpy().astype(int) - resized).max() == 0


def test_shares_and_tokens_of_a_step_follow_ratios_and_batch_sizes(preview):
    cfg, datasets = preview("gqa", "unnatural_instruction")
    gqa, text = views_of(cfg, datasets, num_samples=1)
    assert (gqa.share, text.share) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (gqa.num_image_tokens, text.num_image_tokens) == (4, 0)
    mean = sum(gqa.text_lengths) / len(gqa.text_lengths)
    assert gqa.tokens_a_step == pytest.approx(2 * (mean + 4))


def test_a_sample_that_does_not_fit_is_shown_with_its_reason(preview):
    cfg, datasets = preview("gqa", max_context_len=3)
    page = write_preview(cfg, datasets, num_samples=1).read_text(encoding="utf-8")
    assert "left out: gqa[" in page and "its image spans take 11 tokens where 3 are allowed" in page


def test_texts_of_the_data_are_no_html(preview):
    cfg, datasets = preview("flickr_grounded_caption")
    page = write_preview(cfg, datasets, num_samples=2).read_text(encoding="utf-8")
    assert "&lt;p&gt;" in page and "<p>a" not in page


def test_the_page_opens_in_a_browser_and_has_its_boxes(preview, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no Chromium on this machine")
    cfg, datasets = preview("refcoco", "invrefcoco", "flickr_CaptionToPhrase", "engine_mc", "unnatural_instruction")
    path = write_preview(cfg, datasets, num_samples=2)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"]
    flags += [f"--user-data-dir={tmp_path}/profile", "--window-size=1260,5000", f"--screenshot={tmp_path}/page.png"]
    done = subprocess.run([browser, *flags, path.as_uri()], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr  # where a page's errors go
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text and "http" not in re.sub(r"http\S*www\.w3\.org\S*", "", text)
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    for colour in (ASKED, ANSWERED):
        assert np.all(pixels == colour, axis=2).sum() > 300  # lines of boxes, not a few letters
    assert pixels.std() > 20  # pictures, not a blank page
