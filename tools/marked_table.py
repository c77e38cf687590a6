"""A table between two marks of a Markdown page, which a tool renews."""

from __future__ import annotations

END = "<!-- end of the table -->\n"


def with_table(page: str, tool: str, table: str) -> str:
    """Return the page with `table` between the mark of `tool`, as `tools/data_table.py`, and the end mark."""
    begin = f"<!-- made by {tool} -->\n"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}{table}{END}{rest.partition(END)[2]}"
