"""Download URLs: each occurs once, and the page that lists them is current."""

from pathlib import Path

from omegaconf import OmegaConf

from minigpt4.datasets import urls
from minigpt4.datasets.base_builder import BaseDatasetBuilder
from tools.data_table import PAGE, URL, linked, with_table

ROOT = Path(__file__).parents[2]


def test_the_table_of_the_page_is_what_the_tool_writes():
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page) == page, "run python -m tools.data_table"
    for name in ("gqa", "engine_mcp", "laion"):
        assert f"`{name}`" in page


def test_no_url_of_the_python_module_is_in_a_yaml_file_too():
    texts = [text for name, text in vars(urls).items() if name.isupper()]
    found = {url for text in texts for url in URL.findall(text)}
    assert len(found) > 15
    for path in (ROOT / "minigpt4/configs/datasets").glob("*.yaml"):
        assert not found & set(URL.findall(path.read_text(encoding="utf-8"))), path.name


def test_a_link_shows_the_file_or_else_the_host():
    assert (
        linked("https://a.org/x.zip or https://b.org/d") == "[x.zip](https://a.org/x.zip) or [b.org](https://b.org/d)"
    )


class MyBuilder(BaseDatasetBuilder):
    annotations_url = "https://a.org/all.json"
    images_url = "https://a.org/images"


def urls_of(build_info):
    builder = MyBuilder(OmegaConf.create({"build_info": build_info}), name="mine")
    return [path.url for path in builder.data_paths()]


def test_a_url_of_the_yaml_comes_before_that_of_the_builder():
    train = {"storage": ["a.json", "b.json"], "url": ["https://b.org/a.json", "https://b.org/b.json"]}
    images = {"storage": "images", "url": "https://b.org/images.zip"}
    assert urls_of({"annotations": {"train": train}, "images": images}) == [*train["url"], images["url"]]
    train["url"] = ["https://b.org/1", "https://b.org/2", "https://b.org/3"]
    joined = "https://b.org/1 and https://b.org/2 and https://b.org/3"
    assert urls_of({"annotations": {"train": train}, "images": {"storage": "x"}})[:2] == [joined] * 2


def test_a_placeholder_is_no_url():
    train = {"storage": "a.json", "url": ["/path/to/data"]}
    assert urls_of({"annotations": {"train": train}, "image_path": "x"}) == [
        "https://a.org/all.json",
        "https://a.org/images",
    ]
