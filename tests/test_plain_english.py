"""Pages, messages and docstrings avoid phrases that are hard to read or to search for; pages have short sentences."""

import re
import subprocess

import pytest

from tests.runners.tiny import ROOT

PHRASES = ("to be had", "so many", "anew", "of its own", "of their own", "goes on", "is told", "are told")
MAX_WORDS = 25
MAX_WORDS_OF_A_LIST = 40  # a sentence that lists names


def tracked(*patterns):
    names = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.splitlines() if not name.startswith("tests/golden/")]


PAGES = [path for path in tracked("*.md") if "benchmarks/results" not in path.as_posix()]


def sentences(page):
    """Return the sentences of a Markdown page, without code and with each link as its text."""
    page = re.sub(r"```.*?```|<!--.*?-->", "", page, flags=re.DOTALL)
    page = re.sub(r"`[^`]*`", "X", page)
    page = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", page)
    page = re.sub(r"^\s*([-*]|\d+\.)\s|^#+\s|\|", "\n\n", page, flags=re.MULTILINE)  # a list's item or a cell is a text
    return [" ".join(one.split()) for one in re.split(r"(?<=[.!?:;])\)?\s+|\n\s*\n", page) if one.strip()]


def test_sentences_are_found_in_lists_tables_and_links():
    lists = "- item one\n- item two\n\n| a | b |\n|---|---|\n```\ncode.\n```\n"
    page = f"# Title\n\nOne. See [the page](a.md) of `x`.\n\n{lists}"
    assert sentences(page) == ["Title", "One.", "See the page of X.", "item one", "item two", "a", "b", "---", "---"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_has_short_sentences(path):
    def is_long(sentence):
        num_words = len(sentence.split())
        return num_words > (MAX_WORDS_OF_A_LIST if sentence.count(",") >= 3 else MAX_WORDS)

    assert [one for one in sentences(path.read_text(encoding="utf-8")) if is_long(one)] == []


def test_no_text_has_a_phrase_that_is_hard_to_read():
    pattern = re.compile(rf"\b({'|'.join(PHRASES)})\b", re.IGNORECASE)
    this = "tests/test_plain_english.py"
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked("*.py", "*.md", "*.yaml", "*.j2", "Makefile", "pyproject.toml")
        if path.relative_to(ROOT).as_posix() != this
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
