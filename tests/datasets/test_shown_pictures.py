"""A user's own pictures are shown as a person sees them, published datasets as they are stored; the check counts."""

import io
import json
import random

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.datasets.images import read_image
from minigpt4.preflight.images import check_images, digest, open_images
from minigpt4.preflight.preflight import run_preflight
from tests.datasets.test_streams import write_shard
from tests.runners.tiny import tiny_config

TURNED = Image.Exif()
TURNED[0x0112] = 6
RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)


@registry.register_processor("pixels")
class Pixels:
    """Keeps the pixels as they are, (3, H, W) from 0 to 255."""

    @classmethod
    def from_config(cls, cfg):
        return cls()

    def __call__(self, image):
        assert image.mode == "RGB"
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def photo(width=48, height=30):
    """Return a photo whose left third is white."""
    image = Image.new("RGB", (width, height))
    image.paste("white", (0, 0, width // 3, height))
    return image


@pytest.fixture
def pictures(tmp_path):
    """Write a picture of every kind that may surprise, and plain ones."""
    photo().save(tmp_path / "phone.jpg", exif=TURNED, quality=95)
    photo().save(tmp_path / "plain.jpg", quality=95)
    Image.fromarray(RAMP * 257).save(tmp_path / "deep.png")
    Image.fromarray(RAMP.astype(np.float32) / 255).save(tmp_path / "real.tif")
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / "logo.png")
    Image.new("P", (16, 16)).save(tmp_path / "palette.png", transparency=0)
    Image.new("RGBA", (16, 16), (0, 0, 0, 255)).save(tmp_path / "opaque.png")
    Image.new("CMYK", (16, 16)).save(tmp_path / "print.jpg")
    photo().save(tmp_path / "moving.gif", save_all=True, append_images=[photo().rotate(180)])
    return tmp_path


def rows_of(folder):
    names = sorted(path.name for path in folder.iterdir())
    return [{"image": name, "question": "Q", "answer": "A"} for name in names]


def shown(dataset, name):
    """Return the pixels of the picture of that name."""
    [index] = [n for n in range(len(dataset)) if dataset.image_files(dataset.row(n)) == [name]]
    [picture] = dataset.get(index, random.Random(0)).images
    return picture


@pytest.fixture
def mine(pictures, build):
    """Return a function that builds a custom dataset of these pictures."""
    (pictures / "rows.json").write_text(json.dumps([row for row in rows_of(pictures) if row["image"] != "rows.json"]))
    info = {"ann_path": str(pictures / "rows.json"), "image_path": str(pictures)}
    processors = {"vis_processor": {"train": {"name": "pixels"}}, "text_processor": {"train": {"name": "blip_caption"}}}
    return lambda **options: build("custom", info, **processors, **options)


def test_a_users_own_pictures_are_shown_as_seen(mine):
    dataset = mine()
    phone = shown(dataset, "phone.jpg")
    assert phone.shape == (3, 48, 30)
    assert phone[:, :14].mean() > 250 and phone[:, 18:].mean() < 5  # the top third is white
    assert torch.equal(shown(dataset, "deep.png")[0], torch.from_numpy(RAMP.astype(np.float32)))
    assert torch.equal(shown(dataset, "real.tif")[0], torch.from_numpy(RAMP.astype(np.float32)))
    assert shown(dataset, "logo.png").min() == shown(dataset, "palette.png").min() == 255
    assert shown(dataset, "opaque.png").max() == 0


def test_as_stored_they_are_what_the_file_holds_but_scaled(mine):
    dataset = mine(pictures="as_stored")
    assert shown(dataset, "phone.jpg").shape == (3, 30, 48)
    assert shown(dataset, "logo.png").max() == shown(dataset, "palette.png").max() == 0
    assert torch.equal(shown(dataset, "deep.png")[0], torch.from_numpy(RAMP.astype(np.float32)))


def test_boxes_count_the_pixels_of_the_picture_as_it_is_shown(tmp_path, build):
    (tmp_path / "VG_100K").mkdir()
    photo(100, 50).save(tmp_path / "VG_100K/3.jpg", exif=TURNED)
    region = {"phrase": "it", "x": 0, "y": 0, "width": 50, "height": 25}
    (tmp_path / "region_descriptions.json").write_text(json.dumps([{"id": 3, "regions": [region]}]))
    image = {"image_id": 3, "url": "https://example.org/VG_100K/3.jpg"}
    (tmp_path / "image_data.json").write_text(json.dumps([image]))

    def answer(**options):
        return build("refvg", {"data_dir": str(tmp_path)}, **options).get(0, random.Random(0)).turns[0].answer

    assert answer() == answer(pictures="as_stored") == "{<0><0><50><50>}"
    assert answer(pictures="as_seen") == "{<0><0><100><25>}"


def test_pictures_in_shards_of_ones_own_are_shown_as_seen(tmp_path, build):
    file = io.BytesIO()
    photo().save(file, "JPEG", exif=TURNED)
    write_shard(tmp_path / "0.tar", {"a.jpg": file.getvalue(), "a.json": b'{"question": "Q", "answer": "A"}'})
    write_shard(tmp_path / "1.tar", {"a.jpg": file.getvalue(), "a.json": b'{"caption": "A"}'})

    def shape(name, shard, **options):
        [image] = build(name, {"storage": f"{tmp_path}/{shard}"}, **options).get(0, random.Random(0)).images
        return tuple(image.shape)

    assert shape("custom", "0.tar") == (3, 48, 30)
    assert shape("custom", "0.tar", pictures="as_stored") == (3, 30, 48)
    assert shape("laion", "1.tar") == (3, 30, 48)


@pytest.fixture
def load(pictures):
    """Return a function that loads a config with a custom dataset and a GQA of the same pictures."""
    rows = rows_of(pictures)
    (pictures / "rows.json").write_text(json.dumps(rows))

    def make(*options):
        config = tiny_config()
        config["run"] |= {"output_dir": str(pictures / "out"), "num_workers": 1}
        files = {"annotations": {"train": {"storage": f"{pictures}/rows.json"}}, "images": {"storage": str(pictures)}}
        config["datasets"] = {"mine": {"type": "custom", "build_info": files}, "gqa": {"build_info": files}}
        (pictures / "x.yaml").write_text(yaml.safe_dump(config))
        return Config.load(pictures / "x.yaml", options)

    return make


def test_the_full_check_counts_pictures_of_every_kind(load):
    cfg = load()
    report = run_preflight(cfg)
    check_images(report, cfg.run_cfg)
    found = report.table()
    for line in (
        "mine: 1 images are stored turned (EXIF): shown upright (datasets.mine.pictures: as_seen)",
        "mine: 2 images have transparent parts: shown on white (datasets.mine.pictures: as_seen)",
        "mine: 1 images are grey with more than 8 bits: scaled to 8 bits",
        "mine: 1 images hold real numbers: scaled to 8 bits",
        "mine: 1 images have several frames: the first is shown",
        "mine: 1 images are CMYK: converted to RGB",
        "gqa: 1 images are stored turned (EXIF): shown as stored (datasets.gqa.pictures: as_stored)",
        "gqa: 2 images have transparent parts: shown without their alpha channel (datasets.gqa.pictures: as_stored)",
    ):
        assert f"- {line}\n" in f"{found}\n"
    assert report.problems == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("as_seen", "as_stored")),
        (["model.pictures=as_stored"], ("as_stored", "as_stored")),
        (["model.pictures=as_seen"], ("as_seen", "as_seen")),
        (["model.pictures=as_seen", "datasets.gqa.pictures=as_stored"], ("as_seen", "as_stored")),
        (["datasets.mine.pictures=as_stored", "datasets.gqa.pictures=as_seen"], ("as_stored", "as_seen")),
    ],
)
def test_what_the_model_option_says_holds_where_a_dataset_says_nothing(load, options, expected):
    built = run_preflight(load(*options)).built()
    assert tuple(built[name]["train"].pictures for name in ("mine", "gqa")) == expected


def test_a_check_that_was_broken_off_keeps_the_kinds_it_has_found(pictures):
    paths = sorted(str(path) for path in pictures.iterdir())
    first = {"opened": 2, "bad": {}, "kinds": {paths[0]: ["cmyk"]}}
    (pictures / "journal").write_text("\n".join(map(json.dumps, [{"names": digest(paths)}, first])))
    kinds = open_images(paths, pictures / "journal", num_processes=1).kinds
    assert kinds[paths[0]] == ["cmyk"]
    assert kinds[str(pictures / "phone.jpg")] == ["turned"]
    assert str(pictures / "plain.jpg") not in kinds


def test_read_image_names_the_file(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read .*none\.jpg: there is no such file"):
        read_image(f"{tmp_path}/none.jpg")
