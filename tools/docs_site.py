"""What mkdocs does for the docs site besides docs/: three files of the project are pages of it.

Their links, and links of docs/ to files of the project, are changed so that mkdocs can check them: a link to another
file than a page becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the project that are pages, and their places on the site."""
LINK = re.compile(r"\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Return the files of the site with the pages from outside of docs/."""
    from mkdocs.structure.files import File

    for source, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return the text of a page with links of the site."""
    return with_site_links(markdown, page.file.src_uri)


def with_site_links(markdown: str, place: str) -> str:
    """Return a page's text with links of the site; `place` is where the page lies on it, as `reference/python.md`."""
    folder = "" if place in PAGES.values() else posixpath.join("docs", posixpath.dirname(place))

    def changed(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(folder, match[2]))
        target = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if target:
            return f"[{match[1]}]({posixpath.relpath(target, posixpath.dirname(place) or '.')}{match[3] or ''})"
        return match[1] if (ROOT / path).exists() else match[0]  # mkdocs warns of a link that leads nowhere

    return LINK.sub(changed, markdown)
