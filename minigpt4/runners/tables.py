"""What the report page says in words and numbers: how far the run is, its datasets, what it was made of."""

from __future__ import annotations

import datetime
import html
from collections.abc import Iterable, Mapping
from typing import Any

from minigpt4.runners.history import Curve, History

FIGURES = (
    ("samples_per_s", "samples/s", "{:,.1f}"),
    ("tokens_per_s", "tokens/s", "{:,.0f}"),
    ("mfu", "MFU", "{:.1%}"),
    ("data_wait", "waiting for data", "{:.1%}"),
    ("memory_gib", "peak memory", "{:.1f} GiB"),
    ("num_skipped_steps", "skipped steps", "{:,}"),
)
MIXTURE = (
    ("num_rows", "rows", "{:,}"),
    ("batch_size", "batch size", "{:,}"),
    ("sample_ratio", "ratio", "{:g}"),
    ("share", "share", "{:.1%}"),
    ("expected_samples", "expected samples", "{:,.0f}"),
)


def text(value: Any) -> str:
    """Return anything as a page shows it as it is."""
    return html.escape(str(value))


def dataset_names(history: History) -> list[str]:
    """Return the names of all datasets that a loss is known of; a validation loss may stand under `name/split`."""
    validated = [name.split("/")[0] for name in history.names("valid_loss_by_dataset")]
    return sorted({*history.names("loss_by_dataset"), *validated})


def valid_curves(history: History, name: str) -> list[tuple[str, Curve]]:
    """Return the splits of a dataset with their validation losses."""
    keys = [key for key in history.names("valid_loss_by_dataset") if key.split("/")[0] == name]
    return [(key.partition("/")[2], history.values("valid_loss_by_dataset", key)) for key in keys]


def state(history: History, run: Mapping[str, Any]) -> str:
    """Return how far the run is, in one line."""
    if not history.lines:
        return "no step is logged yet"
    done = history.lines[-1]["step"] + 1
    section = (run.get("config") or {}).get("run") or {}
    num_steps = section.get("max_epoch", 0) * section.get("iters_per_epoch", 0)
    parts = [f"step {done:,} of {num_steps:,} ({done / num_steps:.0%})" if num_steps else f"step {done:,}"]
    eta = history.last("eta_s")
    if eta and done != num_steps:
        parts.append(f"{datetime.timedelta(seconds=round(eta))} to go")
    if (written := history.last("time")) is not None:
        when = datetime.datetime.fromtimestamp(written, tz=datetime.UTC)
        parts.append(f"last line {when:%Y-%m-%d %H:%M:%S} UTC")
    if history.resumed_at:
        parts.append("resumed at " + ", ".join(f"{step:,}" for step in history.resumed_at))
    if history.num_unreadable:
        parts.append(f"{history.num_unreadable} torn lines of metrics.jsonl are left out")
    return " · ".join(parts)


def tiles(history: History) -> str:
    """Return the newest numbers, large."""
    found = []
    loss, valid = history.values("loss").smoothed(), history.values("valid_loss")
    if len(loss):
        found.append(("loss, smoothed", f"{loss.values[-1]:.4f}"))
    if len(valid):
        best = int(valid.values.argmin())
        found.append((f"best validation, step {valid.steps[best]:,.0f}", f"{valid.values[best]:.4f}"))
    for key, label, form in FIGURES:
        value = history.last(key)
        if isinstance(value, (int, float)) and (value or key != "num_skipped_steps"):
            found.append((label, form.format(value)))
    return "".join(f"<div><b>{text(value)}</b>{text(label)}</div>" for label, value in found)


LEFT_OUT = {"num_bad_samples": "bad", "num_too_long": "too long", "num_skipped_in_streams": "skipped"}
"""Counts by dataset of what did not come into a batch, and what the page calls them."""


def mixture_table(history: History, run: Mapping[str, Any]) -> str:
    """Return the datasets with their part in the mixture, their newest losses and what was left out of them."""
    mixture = {part["dataset"]: part for part in run.get("mixture") or ()}
    left_out = [(key, history.last(key) or {}) for key in LEFT_OUT]
    counts = [(key, by_name) for key, by_name in left_out if isinstance(by_name, Mapping)]
    rows = []
    for name in [*mixture, *(name for name in dataset_names(history) if name not in mixture)]:
        part = mixture.get(name, {})
        cells = [f"<td>{text(name)}</td>"]
        cells += [_cell(form, part.get(key)) for key, _, form in MIXTURE if mixture]
        cells.append(_cell("{:.4f}", _newest(history.values("loss_by_dataset", name).smoothed())))
        valid = [newest for _, curve in valid_curves(history, name) if (newest := _newest(curve)) is not None]
        cells.append(_cell("{:.4f}", sum(valid) / len(valid) if valid else None))
        cells += [_cell("{:,}", by_name.get(name, 0)) for _, by_name in counts]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    titles = ["dataset", *(title for _, title, _ in MIXTURE if mixture), "loss", "validation", *LEFT_OUT.values()]
    head = "".join(f"<th>{title}</th>" for title in titles)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def facts(run: Mapping[str, Any]) -> str:
    """Return the rest of run.json: versions, device, seed, counts."""
    rows = "".join(f"<tr><th>{text(key)}</th><td>{text(value)}</td></tr>" for key, value in _flat(run))
    return f"<table>{rows}</table>" if rows else "<p>There is no run.json.</p>"


def _flat(run: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in run.items():
        if key in ("mixture", "config"):
            continue
        if isinstance(value, Mapping):
            yield key, ", ".join(f"{name} {inner}" for name, inner in value.items())
        else:
            yield key.replace("_", " "), f"{value:,}" if key.startswith("num_") else str(value)


def _newest(curve: Curve) -> float | None:
    return float(curve.values[-1]) if len(curve) else None


def _cell(form: str, value: Any) -> str:
    return f"<td>{'' if value is None else form.format(value)}</td>"
