"""The processors against the recorded pictures and captions."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from minigpt4.common.registry import registry
from minigpt4.common.schema import ProcessorConfig
from minigpt4.processors.blip_processors import CLIP_MEAN, CLIP_STD

GOLDEN = Path(__file__).parents[1] / "golden" / "model"


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "preprocess.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def picture(number):
    return Image.open(GOLDEN / "assets" / "images" / f"img{number}.png")


def processor(name, **options):
    return registry.get_processor_class(name).from_config(options)


@pytest.mark.parametrize("name", ["blip2_image_train", "blip2_image_eval"])
@pytest.mark.parametrize("number", range(4))
def test_a_small_picture_is_the_recorded_one_exactly(recorded, name, number):
    ours = processor(name, image_size=56)(picture(number))
    assert ours.dtype == torch.float32 and ours.is_contiguous()
    assert torch.equal(ours, recorded[f"{name}_56_img{number}"])


@pytest.mark.parametrize("number", range(4))
def test_a_picture_of_448_pixels_is_the_recorded_one(recorded, number):
    ours = processor("blip2_image_train", image_size=448)(picture(number))
    assert torch.equal(ours[:, ::4, ::4], recorded[f"blip2_image_train_448_img{number}_stride4"])
    sums = json.loads((GOLDEN / "preprocess.json").read_text())["sums_448"][f"img{number}"]
    assert ours.double().sum().item() == pytest.approx(sums["sum"], abs=1e-3)
    assert ours.double().square().sum().item() == pytest.approx(sums["sumsq"], rel=1e-9)


def test_the_whole_picture_of_448_pixels_has_the_recorded_bytes(recorded):
    ours = processor("blip2_image_train", image_size=448)(picture(3))
    mean, std = torch.tensor(CLIP_MEAN).view(3, 1, 1), torch.tensor(CLIP_STD).view(3, 1, 1)
    back = (255 * (ours * std + mean)).round().to(torch.uint8)
    assert torch.equal(back, recorded["blip2_image_train_448_img3_full_uint8"])


def test_mean_and_deviation_can_be_set(recorded):
    ours = processor("blip2_image_eval", image_size=56, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))(picture(0))
    assert torch.equal(ours, recorded["custom_meanstd_56_img0"])


def test_without_options_a_picture_gets_224_pixels(recorded):
    ours = processor("blip2_image_train")(picture(1))
    assert torch.equal(ours[:, ::4, ::4], recorded["default_size_img1_stride4"])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_a_picture_in_other_colours_is_turned_into_rgb(mode):
    assert processor("blip2_image_train", image_size=28)(picture(0).convert(mode)).shape == (3, 28, 28)


@pytest.mark.parametrize(
    ("recording", "options"),
    [("default", {}), ("prompt_a_photo_of__max_words_10", {"prompt": "a photo of ", "max_words": 10})],
)
def test_every_recorded_caption_comes_out_as_recorded(recording, options):
    cases = json.loads((GOLDEN / "blip_caption.json").read_text())[recording]
    clean = processor("blip_caption", **options)
    assert [clean(case["input"]) for case in cases] == [case["output"] for case in cases]


def test_processors_are_built_from_a_yaml_section_whose_options_are_null():
    section = OmegaConf.structured(ProcessorConfig(name="blip2_image_eval", image_size=28))
    assert registry.get_processor_class("blip2_image_eval").from_config(section)(picture(0)).shape == (3, 28, 28)
    section = OmegaConf.structured(ProcessorConfig(name="blip_caption"))
    assert registry.get_processor_class("blip_caption").from_config(section)("A Cat.") == "a cat"
