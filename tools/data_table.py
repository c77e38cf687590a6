"""The table of download URLs in docs/data.md, made from the declarations of the datasets.

python -m tools.data_table        # writes the table into docs/data.md
"""

from __future__ import annotations

import re
from pathlib import Path

from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from tools import marked_table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "data.md"
URL = re.compile(r"https?://[^\s,;]+")


def main() -> None:
    """Write the table between its marks in the page."""
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def with_table(page: str) -> str:
    """Return the page with the current table between the marks."""
    return marked_table.with_table(page, "tools/data_table.py", table())


def table() -> str:
    """Return a Markdown table: a line for all datasets that have the same files."""
    rows: dict[tuple[str, str], list[str]] = {}
    names = [path.stem for path in (ROOT / "minigpt4/configs/datasets").glob("*.yaml")]
    options = [f"datasets.{name}.batch_size=1" for name in sorted(names)]
    cfg = Config.load(ROOT / "train_configs" / "minigptv2_finetune.yaml", options)
    for name, body in cfg.datasets_cfg.items():
        name = str(name)
        builder = registry.get_builder_class(name)(body, name=name)
        images = builder.image_folder_path()
        annotations = dict.fromkeys(place.url for place in [*builder.annotation_paths(), *builder.other_paths()])
        if any(annotations):
            row = ", ".join(map(linked, annotations)), linked(images.url) if images else "none"
            rows.setdefault(row, []).append(f"`{name}`")
    lines = [f"| {', '.join(names)} | {row[0]} | {row[1]} |\n" for row, names in rows.items()]
    return "".join(["| dataset | annotations | images |\n", "|---|---|---|\n", *sorted(lines)])


def linked(text: str) -> str:
    """Return a text with each URL as a link that shows its file, or its host where it names none."""
    return URL.sub(lambda match: f"[{_label(match[0])}]({match[0]})", text)


def _label(url: str) -> str:
    host, *_, last = url.split("//", 1)[1].split("/")
    return last if "." in last else host


if __name__ == "__main__":
    main()
