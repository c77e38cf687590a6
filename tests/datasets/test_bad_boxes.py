"""What becomes of rows whose boxes stick out, lie outside, are empty or reversed, in every dataset that has boxes."""

import io
import json
import pickle
import random
import re

import pytest
from PIL import Image

from minigpt4.common.config import Config
from minigpt4.datasets import row_index
from minigpt4.datasets.preview import write_preview
from minigpt4.preflight.images import check_images
from minigpt4.preflight.preflight import run_preflight
from tests.datasets.test_streams import write_shard

BOXES = [[10, 10, 20, 20], [-5, -8, 20, 20], [90, 90, 40, 40], [50, 50, 0, 0], [50, 50, -20, -20], [5, -950, 9, 50]]
PUBLISHED = [
    "{<10><10><30><30>}",
    "{<-5><-8><15><12>}",
    "{<90><90><130><130>}",
    "{<50><50><50><50>}",
    "{<50><50><30><30>}",
    "{<5><-950><14><-900>}",
]
CLIPPED = [
    "{<10><10><30><30>}",
    "{<0><0><15><12>}",
    "{<90><90><100><100>}",
    "{<50><50><50><50>}",
    "{<30><30><50><50>}",
    "{<5><0><14><0>}",
]
COUNTS = "2 sticking out of its image, 1 outside of its image, 1 empty, 1 reversed"


@pytest.fixture
def refcoco(tmp_path, build):
    """Return a function that writes RefCOCO with a ref for each of BOXES, images of 100 x 100, and builds it."""
    (tmp_path / "refcoco").mkdir()
    refs = [{"split": "train", "image_id": n, "ann_id": n, "sentences": [{"raw": "it"}]} for n in range(len(BOXES))]
    (tmp_path / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    for n in range(len(BOXES)):
        Image.new("RGB", (100, 100)).save(tmp_path / f"COCO_train2014_{n:012}.jpg")

    def make(name="refcoco", *, boxes=BOXES, stated=None, **options):
        annotations = [{"id": n, "image_id": n, "category_id": 1, "bbox": box} for n, box in enumerate(boxes)]
        images = [{"id": n, **dict(zip(("width", "height"), stated, strict=True))} for n in range(6)] if stated else []
        content = {"images": images, "categories": [], "annotations": annotations}
        (tmp_path / "refcoco/instances.json").write_text(json.dumps(content))
        info = {"image_path": str(tmp_path), "ann_path": str(tmp_path), "dataset": "refcoco", "splitBy": "unc"}
        return build(name, info, **options)

    return make


def boxes_of(dataset):
    """Return the box of each row, asked or answered."""
    turns = [dataset.get(index, random.Random(0)).turns[0] for index in range(len(dataset))]
    return [re.search(r"\{<.*>\}", turn.prompt + turn.answer)[0] for turn in turns]


@pytest.mark.parametrize("stated", [(100, 100), None], ids=["size in the file", "size from the images"])
@pytest.mark.parametrize("name", ["refcoco", "invrefcoco"])
def test_boxes_are_kept_as_published_clipped_or_their_rows_left_out(refcoco, name, stated):
    assert boxes_of(refcoco(name, stated=stated)) == PUBLISHED
    assert boxes_of(refcoco(name, stated=stated, bad_boxes="keep")) == PUBLISHED
    assert boxes_of(refcoco(name, stated=stated, bad_boxes="clip")) == CLIPPED
    dropped = refcoco(name, stated=stated, bad_boxes="drop")
    assert boxes_of(dropped) == PUBLISHED[:3]
    assert (dropped.report.num_rows, dropped.report.num_kept, dropped.report.num_dropped) == (6, 3, 3)


def test_the_log_counts_the_boxes_of_each_fault(refcoco, caplog):
    caplog.set_level("INFO")
    refcoco(stated=(100, 100), bad_boxes="drop")
    assert (
        f"refcoco: 5 of 6 rows have a bad box: {COUNTS}; the 3 rows outside, empty or reversed are left out "
        "(datasets.refcoco.bad_boxes: drop)" in caplog.text
    )


def test_a_box_that_only_the_image_shows_to_lie_outside_is_named(refcoco):
    dataset = refcoco(stated=(2000, 2000), bad_boxes="drop")
    dataset.images.root = "/nowhere"
    row = {**dataset.row(0), "image_size": (8, 8)}
    with pytest.raises(ValueError, match=r"lies outside of its image, which is 8 x 8; .* \[2000, 2000\]"):
        dataset.turns(row, random.Random(0))


def test_a_dataset_of_bad_boxes_alone_is_refused_with_the_reason(refcoco):
    with pytest.raises(ValueError, match="not one of its 6 rows can be used: 6 of 6 rows have a bad box: 6 reversed"):
        refcoco(boxes=[[50, 50, -20, 20]] * 6, bad_boxes="drop")


def test_a_bbox_that_is_no_box_is_named_with_its_ref(refcoco):
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p: ref 3: its box should be four finite numbers"):
        refcoco(boxes=[*BOXES[:2], [], *BOXES[3:]])


@pytest.mark.parametrize("stated", [{"width": 100, "height": 100}, {}], ids=["size in the file", "from the image"])
@pytest.mark.parametrize("smallest", [0, 1 << 22], ids=["indexed", "read"])
def test_regions_of_visual_genome_too(tmp_path, build, monkeypatch, stated, smallest):
    monkeypatch.setattr(row_index, "SMALLEST", smallest)
    (tmp_path / "VG_100K").mkdir()
    Image.new("RGB", (100, 100)).save(tmp_path / "VG_100K" / "3.jpg")
    regions = [{"phrase": "it", **dict(zip(("x", "y", "width", "height"), box, strict=True))} for box in BOXES]
    regions.append({"phrase": "far", "x": 100, "y": 5, "width": 9, "height": 9})
    (tmp_path / "region_descriptions.json").write_text(json.dumps([{"id": 3, "regions": regions}]))
    image = {"image_id": 3, "url": "https://example.org/VG_100K/3.jpg", **stated}
    (tmp_path / "image_data.json").write_text(json.dumps([image]))
    info = {"data_dir": str(tmp_path)}
    assert boxes_of(build("refvg", info)) == [*PUBLISHED, "{<100><5><109><14>}"]
    assert boxes_of(build("refvg", info, bad_boxes="clip")) == [*CLIPPED, "{<100><5><100><14>}"]
    dropped = build("refvg", info, bad_boxes="drop")
    assert boxes_of(dropped) == PUBLISHED[:3]
    assert len(dropped) == 3 and dropped.report.num_dropped == 4


def test_a_number_that_is_not_finite_is_a_bad_row(tmp_path, build):
    (tmp_path / "VG_100K").mkdir()
    Image.new("RGB", (100, 100)).save(tmp_path / "VG_100K" / "3.jpg")
    good = {"phrase": "it", "x": 1, "y": 1, "width": 9, "height": 9}
    records = [{"id": 3, "regions": [good, {**good, "x": float("nan")}, {**good, "y": float("-inf"), "height": 3}]}]
    (tmp_path / "region_descriptions.json").write_text(json.dumps(records))
    image = {"image_id": 3, "url": "https://example.org/VG_100K/3.jpg", "width": 100, "height": 100}
    (tmp_path / "image_data.json").write_text(json.dumps([image]))
    with pytest.raises(ValueError, match=r"region_descriptions\.json: record 1: 'x' should be a number .*, not nan"):
        build("refvg", {"data_dir": str(tmp_path)})


TEXTS = ["<p>a</p> {<1><2><30><40>}", "{<90><90><103><95>}", "{<50><50><30><60>}", "{<0><120><9><130>}"]
CLIPPED_TEXTS = ["<p>a</p> {<1><2><30><40>}", "{<90><90><100><95>}", "{<30><50><50><60>}", "{<0><100><9><100>}"]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("flickr_grounded_caption", lambda text: {"image_id": 5, "grounded_caption": text}),
        ("flickr_CaptionToPhrase", lambda text: {"image_id": 5, "caption": "a", "output": text}),
        ("flickr_ObjectToPhrase", lambda text: {"image_id": 5, "phrase": "a", "bbox": text}),
        ("multitask_conversation", lambda text: {"id": "5", "conversations": [{"value": "a"}, {"value": text}]}),
        ("custom", lambda text: {"image": "5.jpg", "question": "a", "answer": ["{<1><2><30><40>}", text]}),
    ],
)
def test_boxes_written_as_text_are_judged_by_their_hundredths(tmp_path, build, name, row):
    for file in ("5.jpg", "COCO_train2014_5.jpg"):
        Image.new("RGB", (50, 20)).save(tmp_path / file)
    (tmp_path / "a.json").write_text(json.dumps([row(text) for text in TEXTS]))
    info = {"ann_path": str(tmp_path / "a.json"), "image_path": str(tmp_path)}

    def answers(**options):
        dataset = build(name, info, **options)
        drawn = range(8)
        return [{dataset.get(n, random.Random(k)).turns[0].answer[-18:] for k in drawn} for n in range(len(dataset))]

    def last(texts):
        return [text[-18:] for text in texts]

    for given, expected in (("keep", TEXTS), ("clip", CLIPPED_TEXTS), ("drop", TEXTS[:2])):
        found = answers(bad_boxes=given)
        assert len(found) == len(expected)
        assert all(text in some for text, some in zip(last(expected), found, strict=True))
    faults = build(name, info).report.box_faults
    assert sorted(count for count in faults.values() if count) == [1, 1, 1]


def test_samples_of_shards_are_clipped_or_skipped(tmp_path, build):
    file = io.BytesIO()
    Image.new("RGB", (9, 9)).save(file, "JPEG")
    samples = {}
    for number, text in enumerate(TEXTS):
        samples[f"{number}.jpg"] = file.getvalue()
        samples[f"{number}.json"] = json.dumps({"question": "a", "answer": text}).encode()
    write_shard(tmp_path / "0.tar", samples)

    def answers(**options):
        dataset = build("custom", {"storage": f"{tmp_path}/0.tar"}, **options)
        return {dataset.get(row, random.Random(0)).turns[0].answer for row in range(40)}

    assert answers() == set(TEXTS)
    assert answers(bad_boxes="clip") == set(CLIPPED_TEXTS)
    assert answers(bad_boxes="drop") == set(TEXTS[:2])


def test_check_and_preview_count_bad_boxes_and_ask_the_images_for_sizes(load, world):
    boxes = [{"id": n, "image_id": 7, "category_id": 1, "bbox": box} for n, box in enumerate([[5, 2, 10, 10], *BOXES])]
    content = {"images": [], "categories": [], "annotations": boxes}
    (world / "refcoco/instances.json").write_text(json.dumps(content))
    refs = [{"split": "train", "image_id": 7, "ann_id": n, "sentences": [{"raw": "a"}]} for n in range(len(boxes))]
    (world / "refcoco/refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    cfg = load("run.num_workers=1")
    report = run_preflight(cfg)
    without_sizes = "1 outside of its image, 1 empty, 1 reversed"
    assert f"- refcoco: 3 of 7 rows have a bad box: {without_sizes}; kept as published" in report.table()
    check_images(report, cfg.run_cfg)
    with_sizes = "1 sticking out of its image, 2 outside of its image, 1 empty, 1 reversed"  # the image is 60 x 40
    line = f"refcoco: 5 of 7 rows have a bad box: {with_sizes}; kept as published (datasets.refcoco.bad_boxes: keep)"
    assert f"- {line}" in report.table()
    again = run_preflight(cfg)
    page = write_preview(cfg, again.built(), num_samples=1).read_text(encoding="utf-8")
    assert line.removeprefix("refcoco: ") in page


def test_a_misspelt_choice_is_named(load):
    with pytest.raises(ValueError) as error:
        load("datasets.refcoco.bad_boxes=crop", "model.pictures=upright", "datasets.gqa.pictures=seen")
    assert "datasets.refcoco.bad_boxes: expected one of keep, clip, drop, got 'crop'" in str(error.value)
    assert "model.pictures: expected one of as_seen, as_stored, got 'upright'" in str(error.value)
    assert "datasets.gqa.pictures: expected one of as_seen, as_stored, got 'seen'" in str(error.value)
    assert isinstance(load("datasets.refcoco.bad_boxes=clip"), Config)
