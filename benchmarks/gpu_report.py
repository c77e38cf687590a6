"""The results of on_gpu.py as Markdown tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

BASELINE = "ours"


def report(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a table a group of cases, tables of what has figures inside figures, and the errors."""
    if not results:
        return "No results yet.\n"
    parts = [_about(results)]
    good = [result for result in results if result["status"] == "ok"]
    kinds = dict.fromkeys(result["settings"]["kind"] for result in good)
    speed = next((r["figures"]["samples_per_s"] for r in good if r["case"] == BASELINE), None)
    for kind in kinds:
        own = [result for result in good if result["settings"]["kind"] == kind]
        parts.append(f"## {kind.replace('_', ' ')}\n\n" + _group(own, speed))
    failed = [result for result in results if result["status"] != "ok"]
    if failed:
        rows = [[result["case"], result["error"]] for result in failed]
        parts.append("## Without figures\n\n" + table(["case", "why"], rows))
    return "\n\n".join(parts) + "\n"


def _about(results: Sequence[Mapping[str, Any]]) -> str:
    last = next((result for result in reversed(results) if "versions" in result), None)
    if last is None:
        return "# Measured"
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items() if version)
    return f"# Measured on {last['device']}\n\nSize {last['size']}, commit {last['commit']}; {versions}."


def _group(results: Sequence[Mapping[str, Any]], speed: float | None) -> str:
    """Return the table of results whose figures are alike, and below it one for each table among the figures."""
    keys = dict.fromkeys(key for r in results for key, value in r["figures"].items() if not _nested(value))
    compared = speed is not None and "samples_per_s" in keys
    rows = []
    for result in results:
        figures = result["figures"]
        values = [figures.get(key) for key in keys]
        ratio = [round(figures["samples_per_s"] / speed, 3)] if compared and speed else []
        rows.append([result["case"], *values, *ratio])
    text = [table(["case", *keys, *["of ours"] * compared], rows)] if keys else []
    for result in results:
        inner = {key: value for key, value in result["figures"].items() if _nested(value)}
        lists = {key: value for key, value in inner.items() if isinstance(value, list)}
        text += [f"{result['case']}, {key}:\n\n{_list(value)}" for key, value in lists.items()]
        errors = {key: value for key, value in inner.items() if isinstance(value, Mapping)}
        if errors:
            text.append(f"{result['case']}:\n\n{_errors(errors)}")
    return "\n\n".join(text)


def _nested(value: Any) -> bool:
    return isinstance(value, list | Mapping)


def _list(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    return table(keys, [[row.get(key) for key in keys] for row in rows])


def _errors(errors: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a row for each of ours and the libraries' within each case of an error table."""
    rows = [
        [name, which, " ".join(f"{key} {_shown(value)}" for key, value in found.items())]
        for name, by in errors.items()
        for which, found in by.items()
    ]
    return table(["of", "whose", "relative error"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [list(head), ["---"] * len(head), *[[_shown(value) for value in row] for row in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("<", "&lt;")
