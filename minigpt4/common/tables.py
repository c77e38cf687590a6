"""Tables of text with aligned columns, for terminals and as Markdown."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Rows = Sequence[Sequence[str]]


def as_table(rows: Rows, *, right: Collection[int] = ()) -> str:
    """Return one line a row, columns aligned; those in `right` to the right."""
    return "\n".join("  ".join(cells).rstrip() for cells in _aligned(rows, right))


def as_markdown(rows: Rows, *, centred: bool = False) -> str:
    """Return rows, the first one of titles, as a Markdown table; `centred` is how a page shows its columns."""
    titles, *lines = _aligned(rows)
    end = ":" if centred else "-"
    rule = "|".join(end + "-" * len(title) + end for title in titles)
    shown = [f"| {' | '.join(cells)} |" for cells in (titles, *lines)]
    return "\n".join([shown[0], f"|{rule}|", *shown[1:]])


def as_percent(value: float | None) -> str:
    """Return a percentage with two digits, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def as_interval(ends: Sequence[float] | None) -> str:
    """Return the two ends of an interval, or a dash."""
    return "-" if ends is None else f"{ends[0]:.2f} .. {ends[1]:.2f}"


def _aligned(rows: Rows, right: Collection[int] = ()) -> list[list[str]]:
    """Return the cells, padded to the width of their column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]
