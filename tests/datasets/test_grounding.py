import json
import pickle
import random

import pytest
from PIL import Image

REF = {"split": "train", "image_id": 7, "ann_id": 1, "sentences": [{"raw": "The Red one!"}]}


@pytest.fixture
def refcoco(tmp_path, build):
    """Return a function that writes RefCOCO's files and builds; image 7 is there and is 50 x 20 pixels."""
    Image.new("RGB", (50, 20)).save(tmp_path / "COCO_train2014_000000000007.jpg")

    def make(refs=(REF,), name="refcoco", folder="refcoco", split="unc", written="unc", instances=None):
        (tmp_path / folder).mkdir()
        boxes = instances or {
            "images": [],
            "categories": [],
            "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": [5, 2, 10, 10]}],
        }
        (tmp_path / folder / "instances.json").write_text(json.dumps(boxes))
        (tmp_path / folder / f"refs({written}).p").write_bytes(pickle.dumps(list(refs), protocol=2))
        info = {
            "image_path": str(tmp_path),
            "ann_path": str(tmp_path),
            "dataset": f"{name[:3] if 'inv' in name else ''}{folder}",
            "splitBy": split,
        }
        return build(name, info)

    return make


def test_only_refs_of_the_training_split_count(refcoco):
    assert len(refcoco([REF, {**REF, "split": "val"}, {**REF, "split": "testA"}, REF])) == 2


@pytest.mark.parametrize(("split", "written"), [("umd", "und"), ("und", "umd"), ("umd", "umd")])
def test_either_spelling_of_refcocogs_split_is_found(refcoco, split, written):
    assert len(refcoco(name="refcocog", folder="refcocog", split=split, written=written)) == 1


def test_inverse_datasets_read_the_folder_without_inv(refcoco):
    example = refcoco(name="invrefcocop", folder="refcoco+").get(0, random.Random(0))
    assert "{<10><10><30><60>}" in example.turns[0].prompt
    assert example.turns[0].answer == "the red one"


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ({"ann_id": 2}, "ref 2: instances.json has no annotation 2"),
        ({"image_id": "7"}, "ref 2: 'image_id' should be a whole number, not '7'"),
        ({"sentences": ["red"]}, "ref 2: a sentence should be an object with raw, not 'red'"),
    ],
)
def test_a_ref_that_does_not_fit_is_named(refcoco, ref, message):
    with pytest.raises(ValueError, match=rf"refs\(unc\)\.p: {message}"):
        refcoco([REF, {**REF, **ref}])


def test_instances_that_are_no_coco_file_are_named(refcoco):
    with pytest.raises(ValueError, match=r"instances\.json: is no COCO annotation file"):
        refcoco(instances={"annotations": [{"no": "id"}]})


def test_a_folder_without_the_refs_lists_both_files(tmp_path, build):
    info = {"image_path": str(tmp_path), "ann_path": str(tmp_path), "dataset": "refcocog", "splitBy": "umd"}
    with pytest.raises(ValueError) as error:
        build("refcocog", info)
    refs, instances = str(error.value).splitlines()
    assert refs.startswith("datasets.refcocog.build_info.ann_path: no file ")
    assert f"{tmp_path}/refcocog/refs(umd).p or {tmp_path}/refcocog/refs(und).p; download it from https://" in refs
    assert f"no file {tmp_path}/refcocog/instances.json; download it from https://" in instances


REGION = {"region_id": 1, "x": 5, "y": 2, "width": 10, "height": 10, "phrase": "Red one", "image_id": 3}
IMAGE = {"image_id": 3, "url": "https://example.org/rak248/VG_100K_2/3.jpg", "width": 50, "height": 20}


@pytest.fixture
def visual_genome(tmp_path, build):
    """Return a function that writes Visual Genome's files and builds; image 3 is there."""
    (tmp_path / "VG_100K_2").mkdir()
    Image.new("RGB", (50, 20)).save(tmp_path / "VG_100K_2" / "3.jpg")

    def make(records, images=(IMAGE,)):
        (tmp_path / "region_descriptions.json").write_text(json.dumps(records))
        (tmp_path / "image_data.json").write_text(json.dumps(list(images)))
        return build("refvg", {"data_dir": str(tmp_path)})

    return make


def test_an_image_of_visual_genome_is_found_by_the_records_number_not_the_regions(visual_genome, tmp_path):
    dataset = visual_genome([{"id": 3, "regions": [{**REGION, "image_id": 99}]}])
    assert dataset.get(0, random.Random(0)).id == f"refvg[0] {tmp_path}/VG_100K_2/3.jpg"


def test_regions_of_16384_square_pixels_or_more_are_left_out(visual_genome):
    sizes = [(128, 128), (127, 129), (1, 16384), (1, 16383)]
    dataset = visual_genome([{"id": 3, "regions": [{**REGION, "width": w, "height": h} for w, h in sizes]}])
    assert [dataset.row(index)["box"][2:] for index in range(len(dataset))] == [[127, 129], [1, 16383]]


def test_a_region_file_that_names_an_unknown_image_has_a_bad_row(visual_genome):
    dataset = visual_genome([{"id": 3, "regions": [REGION]}, {"id": 4, "regions": [REGION]}])
    assert (len(dataset), dataset.report.num_bad) == (2, 1)
    with pytest.raises(
        ValueError, match=r"refvg\[1\]: .*descriptions\.json: record 2: image_data\.json has no image 4"
    ):
        dataset.get(1, random.Random(0))


def test_visual_genome_says_that_both_of_its_files_are_missing(tmp_path, build):
    with pytest.raises(ValueError) as error:
        build("refvg", {"data_dir": f"{tmp_path}/vg"})
    regions, images, folder = str(error.value).splitlines()
    assert regions.startswith(f"datasets.refvg.build_info.data_dir: no file {tmp_path}/vg/region_descriptions.json")
    assert images.startswith(f"datasets.refvg.build_info.data_dir: no file {tmp_path}/vg/image_data.json")
    assert folder.startswith(f"datasets.refvg.build_info.data_dir: no folder {tmp_path}/vg; download it from https://")


@pytest.mark.parametrize("written", ["filtered_flickr/images", "flickr/flickr30k-images"])
@pytest.mark.parametrize("configured", ["filtered_flickr/images", "flickr/flickr30k-images"])
def test_either_spelling_of_flickrs_folders_is_found(tmp_path, build, written, configured):
    (tmp_path / written).mkdir(parents=True)
    Image.new("RGB", (50, 20)).save(tmp_path / written / "5.jpg")
    row = {"image_id": 5, "phrase": "A cat", "bbox": "{<1><2><3><4>}"}
    (tmp_path / written).with_name("phrasetobbox.json").write_text(json.dumps([row]))
    images = f"{tmp_path}/{configured}"
    annotation = str((tmp_path / configured).with_name("phrasetobbox.json"))
    dataset = build("flickr_ObjectToPhrase", {"image_path": images, "ann_path": annotation})
    assert dataset.get(0, random.Random(0)).turns[0].answer == "<p>A cat</p> {<1><2><3><4>}"
