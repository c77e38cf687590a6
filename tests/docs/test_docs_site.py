"""The docs site: every link leads somewhere, every name exists, and no page asks for anything from a network."""

import importlib
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from tests.old_folders import ROOT
from tools.docs_site import PAGES, with_site_links

REFERENCE = sorted((ROOT / "docs/reference").glob("*.md"))


class Fetched(HTMLParser):
    """Collects what a browser fetches to show a page."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "link" and attributes.get("rel") in ("stylesheet", "preconnect", "icon", "preload"):
            self.addresses.append(attributes["href"])
        elif tag in ("script", "img", "iframe") and attributes.get("src"):
            self.addresses.append(attributes["src"])


@pytest.mark.parametrize("page", REFERENCE, ids=lambda page: page.stem)
def test_every_name_of_a_reference_page_exists(page):
    names = re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert names
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, name


def test_links_between_the_files_of_the_project_lead_to_pages_of_the_site():
    assert with_site_links("[a](docs/data.md#training)", "index.md") == "[a](data.md#training)"
    assert with_site_links("[a](CHANGELOG.md)", "contributing.md") == "[a](changelog.md)"
    assert with_site_links("[a](../../README.md)", "reference/python.md") == "[a](../index.md)"
    assert with_site_links("[a](../training.md)", "reference/python.md") == "[a](../training.md)"


def test_a_link_to_a_file_that_is_no_page_becomes_its_text():
    assert with_site_links("see [LICENSE](LICENSE).", "index.md") == "see LICENSE."
    assert with_site_links("[a](../benchmarks/results/README.md)", "benchmarks.md") == "a"
    assert with_site_links("[a](https://example.org/x)", "index.md") == "[a](https://example.org/x)"


def test_a_link_that_leads_nowhere_stays_for_the_check():
    assert with_site_links("[a](docs/nothing.md)", "index.md") == "[a](nothing.md)"
    assert with_site_links("[a](nothing.txt)", "index.md") == "[a](nothing.txt)"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_its_pages_fetch_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    pages = {str(path.relative_to(tmp_path / "site")): path for path in (tmp_path / "site").rglob("*.html")}
    expected = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert set(pages) - {"404.html"} == set(map(str, expected)) | {
        place.replace(".md", ".html") for place in PAGES.values()
    }
    for name, path in pages.items():
        parser = Fetched()
        parser.feed(path.read_text(encoding="utf-8"))
        assert parser.addresses, name
        assert not [address for address in parser.addresses if "//" in address], name
    reference = pages["reference/python.html"].read_text(encoding="utf-8")
    assert "Train as train.py does with a config" in reference
