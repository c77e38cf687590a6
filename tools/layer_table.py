"""The table of who may import whom in CONTRIBUTING.md, made from tests/test_layering.py.

python -m tools.layer_table        # writes the table into CONTRIBUTING.md
"""

from __future__ import annotations

from pathlib import Path

from tests.test_layering import MAY_IMPORT
from tools import marked_table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"


def main() -> None:
    """Write the table between its marks in the page."""
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def with_table(page: str) -> str:
    """Return the page with the current table between the marks."""
    return marked_table.with_table(page, "tools/layer_table.py", table())


def table() -> str:
    """Return a Markdown table: a line for each package, in the order of the test's table."""
    rows = [
        (name, [other for other in _sorted(below, MAY_IMPORT) if other != name]) for name, below in MAY_IMPORT.items()
    ]
    lines = [
        f"| `{name}` | {', '.join(f'`{other}`' for other in below) or 'nothing of ours'} |\n" for name, below in rows
    ]
    return "".join(["| package | may import |\n", "|---|---|\n", *lines])


def _sorted(names: set[str], table: dict[str, set[str]]) -> list[str]:
    """Return names in the order of the table's rows, the others behind them."""
    order = list(table)
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


if __name__ == "__main__":
    main()
