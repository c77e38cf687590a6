"""docs/options.md, made from the schema of the options.

python -m tools.write_options        # writes the page
"""

from __future__ import annotations

from pathlib import Path

from minigpt4.common.option_help import help_page
from minigpt4.common.schema import SECTIONS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "options.md"
TITLE = """# Options

<!-- made by `python -m tools.write_options` from minigpt4/common/schema.py; change the text there -->

`minigpt4 train --help-options` and `minigpt4 eval --help-options` print these tables in a terminal, and
`--help-options lora` prints what has "lora" in its name or its help. `--options run.max_epoch=9` sets an option on the
command line. [Training](training.md#options) says how values are read.

"unset" is null in YAML. "required" has no default. `{a,b}` in a name means one of these. "any registered .." is a
name that this package or a [plugin](extending.md) registers.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page: a table for each section."""
    parts = [f"## {name}\n\n{(cls.__doc__ or '').strip()}\n\n{help_page(name)}\n" for name, cls in SECTIONS.items()]
    return "\n".join([TITLE, *parts])


if __name__ == "__main__":
    main()
