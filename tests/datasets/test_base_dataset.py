import json
import logging
import random

import pytest
from omegaconf import OmegaConf
from PIL import Image

from minigpt4.conversation.conversation import Turn
from minigpt4.datasets.base_dataset import InstructionDataset, with_image
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder


class ColourDataset(InstructionDataset):  # a new dataset: this class, its builder, a YAML of its paths
    fields = {"file": str, "colour": str}  # noqa: RUF012
    templates_name = "caption"

    def image_files(self, row):
        return [row["file"]]

    def turns(self, row, rng):
        return [Turn(with_image(rng.choice(self.templates)), self.text_processor(row["colour"]))]


class ColourBuilder(BaseDatasetBuilder):  # under @registry.register_builder("colour")
    train_dataset_cls = ColourDataset
    DATASET_CONFIG_DICT = {"default": "configs/datasets/colour.yaml"}  # noqa: RUF012
    annotations_url = "https://example.org/colours.json"


class ByRuleDataset(ColourDataset):
    leaves_out_rows_without_image = True


class ByRuleBuilder(ColourBuilder):
    train_dataset_cls = ByRuleDataset


class EchoDataset(ColourDataset):
    def turns(self, row, rng):
        return [Turn(with_image(row["colour"]), "x")]


class EchoBuilder(ColourBuilder):
    train_dataset_cls = EchoDataset


ROWS = [{"file": "0.png", "colour": "Red!"}, {"file": "1.png", "colour": "Blue"}, {"file": "2.png", "colour": "Green"}]


@pytest.fixture
def colours(tmp_path, build):
    """Return a function that writes rows and makes the dataset; pictures 0, 1 and 2 are there."""
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.new("RGB", (4 + number, 3)).save(tmp_path / "images" / f"{number}.png")

    def make(rows=ROWS, builder=ColourBuilder):
        text = rows if isinstance(rows, str) else json.dumps(rows)
        (tmp_path / "colours.json").write_text(text, encoding="utf-8")
        return build(builder, {"ann_path": f"{tmp_path}/colours.json", "image_path": f"{tmp_path}/images/"})

    return make


def get(dataset, index):
    return dataset.get(index, random.Random(0))


def test_a_new_dataset_takes_twenty_lines(colours, tmp_path):
    example = get(colours(), 2)
    assert example.turns[0].prompt.startswith("<Img><ImageHere></Img> [caption] ")
    assert example.turns[0].answer == "green"
    assert example.images[0].shape == (3, 3, 6)
    assert example.id == f"colour[2] {tmp_path}/images/2.png"


def test_a_picture_that_is_not_there_is_reported_when_built_and_named_when_fetched(colours, caplog):
    dataset = colours([*ROWS, {"file": "gone.png", "colour": "x"}])
    assert (dataset.report.num_rows, dataset.report.num_missing, len(dataset)) == (4, 1, 4)
    assert "colour: the images of 1 of 4 rows are not there: " in caplog.text and "images/gone.png" in caplog.text
    with pytest.raises(ValueError, match=r"colour\[3\]: cannot read .*images/gone\.png: there is no such file"):
        get(dataset, 3)


def test_rows_without_image_are_left_out_and_counted_where_the_rule_says_so(colours, caplog):
    caplog.set_level(logging.INFO)
    dataset = colours([{"file": "gone.png", "colour": "x"}, *ROWS], ByRuleBuilder)
    assert (dataset.report.num_rows, dataset.report.num_left_out, dataset.report.num_kept, len(dataset)) == (4, 1, 3, 3)
    assert get(dataset, 0).turns[0].answer == "red"
    assert "colour: 1 of 4 rows have no image below" in caplog.text and "and are left out" in caplog.text


@pytest.mark.parametrize("builder", [ColourBuilder, ByRuleBuilder])
def test_a_dataset_of_which_nothing_is_left_is_refused(colours, builder):
    with pytest.raises(ValueError, match="colour: not one of its 1 rows can be used: none of them has an image below"):
        colours([{"file": "gone.png", "colour": "x"}], builder)
    with pytest.raises(ValueError, match=r"colour: there is no row for it in .*colours\.json"):
        colours([], builder)


def test_a_file_that_is_no_picture_is_named(colours, tmp_path):
    dataset = colours()
    (tmp_path / "images" / "1.png").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match=r"colour\[1\]: cannot read .*images/1\.png: cannot identify image file"):
        get(dataset, 1)


@pytest.mark.parametrize("extension", ["jpg", "png", "gif"])
def test_a_picture_that_is_cut_off_is_named(colours, tmp_path, extension):
    path = tmp_path / "images" / f"cut.{extension}"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:600])
    dataset = colours([{"file": f"cut.{extension}", "colour": "x"}])
    with pytest.raises(ValueError, match=rf"colour\[0\]: cannot read .*cut\.{extension}: "):
        get(dataset, 0)


def test_a_bad_row_is_reported_when_built_and_named_when_fetched(colours, caplog):
    dataset = colours([ROWS[0], {"file": "1.png"}, {"file": 2, "colour": "x"}])
    assert (dataset.report.num_bad, len(dataset)) == (2, 3)
    assert dataset.report.bad[0].endswith("colours.json: record 2: 'colour' is missing (there are file)")
    assert "colour: 2 of 3 rows are bad" in caplog.text
    with pytest.raises(ValueError, match=r"colour\[1\]: .*colours\.json: record 2: 'colour' is missing \("):
        get(dataset, 1)
    with pytest.raises(ValueError, match=r"colour\[2\]: .*colours\.json: record 3: 'file' should be a text, not 2"):
        get(dataset, 2)


def test_a_dataset_that_forgets_the_image_span_is_told(colours):
    class ForgetfulDataset(ColourDataset):
        def turns(self, row, rng):
            return [Turn("[caption] colour?", row["colour"])]

    class ForgetfulBuilder(ColourBuilder):
        train_dataset_cls = ForgetfulDataset

    with pytest.raises(ValueError, match=r"colour\[0\] .*0\.png: its prompts show 0 images but it carries 1"):
        get(colours(ROWS, ForgetfulBuilder), 0)


@pytest.mark.parametrize("text", ["a red <ImageHere> thing", "<Img><ImageHere></Img>"])
def test_a_placeholder_in_a_rows_own_text_is_refused_with_dataset_index_and_file(colours, text):
    dataset = colours([{"file": "0.png", "colour": text}], EchoBuilder)
    with pytest.raises(ValueError, match=r"colour\[0\] .*images/0\.png: its own text contains <ImageHere>"):
        get(dataset, 0)


def test_a_placeholder_in_an_answer_is_refused(colours):
    dataset = colours([{"file": "0.png", "colour": "<ImageHere>"}])
    dataset.text_processor = str
    with pytest.raises(ValueError, match=r"colour\[0\] .*0\.png: an answer contains <ImageHere>"):
        get(dataset, 0)


def test_every_missing_path_is_told_with_its_key_and_address():
    cfg = OmegaConf.create(
        {"build_info": {"annotations": {"train": {"storage": ["x/a.json", "x/b.json"]}}, "images": {}}}
    )
    builder = ColourBuilder(cfg, name="colour")
    assert builder.problems() == [
        "datasets.colour.build_info.annotations.train.storage: no file x/a.json; "
        "download it from https://example.org/colours.json",
        "datasets.colour.build_info.annotations.train.storage: no file x/b.json; "
        "download it from https://example.org/colours.json",
        "datasets.colour.build_info.images.storage: no folder is set",
    ]
    with pytest.raises(ValueError, match=r"no file x/a\.json(.|\n)*no file x/b\.json(.|\n)*no folder is set"):
        builder.build_datasets()


def test_a_folder_where_a_file_should_be_is_missing(tmp_path):
    (tmp_path / "a.json").mkdir()
    cfg = OmegaConf.create({"build_info": {"ann_path": f"{tmp_path}/a.json", "image_path": str(tmp_path)}})
    assert len(ColourBuilder(cfg, name="colour").problems()) == 1


def test_a_dataset_without_processors_says_which_key_is_missing(tmp_path):
    (tmp_path / "a.json").write_text("[{}]")
    cfg = OmegaConf.create({"build_info": {"ann_path": f"{tmp_path}/a.json", "image_path": str(tmp_path)}})
    with pytest.raises(ValueError, match=r"datasets\.colour\.vis_processor\.train is not set"):
        ColourBuilder(cfg, name="colour").build_datasets()


class LooseDataset(ColourDataset):
    fields = {}  # noqa: RUF012


class LooseBuilder(ColourBuilder):
    train_dataset_cls = LooseDataset


def test_a_row_without_a_key_that_a_hook_reads_is_bad_also_where_no_fields_are_declared(colours, tmp_path):
    dataset = colours([*ROWS, {"file": "1.png"}, {"colour": "red"}], LooseBuilder)
    assert dataset.report.bad == [f"{tmp_path}/colours.json: record 5: 'file' is missing in this row"]
    with pytest.raises(ValueError, match=r"^colour\[3\]: 'colour' is missing in this row$"):
        get(dataset, 3)
    with pytest.raises(ValueError, match=r"not one of its 1 rows can be used: .*: record 1: 'file' is missing in this"):
        colours([{"colour": "red"}], LooseBuilder)
