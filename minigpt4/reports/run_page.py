"""report.html and loss.png of a run: its losses, speeds, datasets and options."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from minigpt4.reports.charts import DOTS, Chart, Line, smoothed_and_raw, write_loss_picture
from minigpt4.reports.metrics_log import METRICS, MetricsLog, read_metrics_log
from minigpt4.reports.page import showable, write_page

REPORT, PICTURE, RUN = "report.html", "loss.png", "run.json"
SPEED = (
    ("lr", "learning rate", 1.0, False),
    ("grad_norm", "gradient norm", 1.0, True),
    ("samples_per_s", "samples a second", 1.0, True),
    ("tokens_per_s", "tokens a second", 1.0, True),
    ("data_wait", "waiting for data, %", 100.0, True),
    ("mfu", "model FLOPs utilisation, %", 100.0, True),
    ("slowest_rank_share", "slowest rank / mean step time", 1.0, True),
    ("memory_gib", "peak memory, GiB", 1.0, False),
)
"""The charts below the losses: key, title, factor, whether to smooth."""
FIGURES = (
    ("samples_per_s", "samples/s", "{:,.1f}"),
    ("tokens_per_s", "tokens/s", "{:,.0f}"),
    ("mfu", "MFU", "{:.1%}"),
    ("data_wait", "waiting for data", "{:.1%}"),
    ("memory_gib", "peak memory", "{:.1f} GiB"),
    ("num_skipped_steps", "skipped steps", "{:,}"),
)


def write_run_page(folder: Path) -> Path:
    """Write report.html and loss.png of a job's folder from its metrics.jsonl and run.json; return the page's path.

    Raises: NotWrittenError.
    """
    log, run = read_metrics_log(folder / METRICS), read_run(folder / RUN)
    loss = loss_chart(log)
    path = write_page(
        folder / REPORT,
        "run.html.j2",
        title=folder.name,
        state=state(log, run),
        tiles=tiles(log),
        loss=loss,
        log=log,
        run=run,
        mixture={part["dataset"]: part for part in run.get("mixture") or ()},
        datasets={name: dataset(log, name, loss) for name in dataset_names(log)},
        speed=list(speed_charts(log, loss)),
        config=yaml.safe_dump(run.get("config") or {}, sort_keys=False, allow_unicode=True),
    )
    write_loss_picture(folder / PICTURE, replace(loss, title=f"loss of {showable(folder.name)}"))
    return path


def read_run(path: Path) -> dict[str, Any]:
    """Return the content of run.json, {} when it is missing or damaged."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def loss_chart(log: MetricsLog) -> Chart:
    """Return the training loss, smoothed and raw, and the validation loss, from the first step to the last."""
    steps = [line["step"] + 1.0 for line in log.lines] or [1.0]
    x = (steps[0], steps[-1]) if len(steps) > 1 else (steps[0] - 1, steps[0] + 1)
    lines = [*smoothed_and_raw(log.values("loss")), Line("validation", log.values("valid_loss"), DOTS)]
    drawn = [line for line in lines if len(line.curve)]
    return Chart(title="loss", lines=drawn, x=x, marks=log.resumed_at, width=1100, height=340)


def dataset(log: MetricsLog, name: str, loss: Chart) -> dict[str, Any]:
    """Return a small chart of a dataset's losses, its latest smoothed loss, and the latest mean loss of its splits."""
    curve = log.values("loss_by_dataset", name)
    splits = [key for key in log.names("valid_loss_by_dataset") if key.split("/")[0] == name]
    valid = [
        Line(f"validation {key.partition('/')[2]}".strip(), log.values("valid_loss_by_dataset", key), DOTS)
        for key in splits
    ]
    lines = [line for line in [*smoothed_and_raw(curve), *valid] if len(line.curve)]
    note = f"{smoothed_and_raw(curve)[-1].curve.values[-1]:.4g}" if len(curve) else ""
    return {
        "chart": replace(loss, title=name, lines=lines, note=note, width=350, height=150),
        "loss": curve.smoothed().values[-1] if len(curve) else None,
        "valid": sum(float(line.curve.values[-1]) for line in valid) / len(valid) if valid else None,
    }


def speed_charts(log: MetricsLog, loss: Chart) -> Iterator[Chart]:
    """Yield a chart of everything in `SPEED` that the log has; one rank alone is never the slowest."""
    for key, title, factor, smooth in SPEED:
        curve = log.values(key).times(factor)
        if len(curve) and not (key == "slowest_rank_share" and (curve.values == 1).all()):
            lines = smoothed_and_raw(curve) if smooth else [Line("value", curve)]
            yield replace(loss, title=title, lines=lines, width=540, height=200)


def dataset_names(log: MetricsLog) -> list[str]:
    """Return the names of all datasets with a loss; a validation loss may have the key `name/split`."""
    validated = [name.split("/")[0] for name in log.names("valid_loss_by_dataset")]
    return sorted({*log.names("loss_by_dataset"), *validated})


def state(log: MetricsLog, run: Mapping[str, Any]) -> str:
    """Return the progress of the run, in one line."""
    if not log.lines:
        return "no step is logged yet"
    done = log.lines[-1]["step"] + 1
    section = (run.get("config") or {}).get("run") or {}
    num_steps = section.get("max_epoch", 0) * section.get("iters_per_epoch", 0)
    parts = [f"step {done:,} of {num_steps:,} ({done / num_steps:.0%})" if num_steps else f"step {done:,}"]
    eta = log.last("eta_s")
    if eta and done != num_steps:
        parts.append(f"{datetime.timedelta(seconds=round(eta))} to go")
    if (written := log.last("time")) is not None:
        when = datetime.datetime.fromtimestamp(written, tz=datetime.UTC)
        parts.append(f"last line {when:%Y-%m-%d %H:%M:%S} UTC")
    if log.resumed_at:
        parts.append("resumed at " + ", ".join(f"{step:,}" for step in log.resumed_at))
    if log.num_unreadable:
        parts.append(f"{log.num_unreadable} torn lines of metrics.jsonl are left out")
    return " · ".join(parts)


def tiles(log: MetricsLog) -> list[tuple[str, str]]:
    """Return the latest numbers as (name, text)."""
    found = []
    loss, valid = log.values("loss").smoothed(), log.values("valid_loss")
    if len(loss):
        found.append(("loss, smoothed", f"{loss.values[-1]:.4f}"))
    if len(valid):
        best = int(valid.values.argmin())
        found.append((f"best validation, step {valid.steps[best]:,.0f}", f"{valid.values[best]:.4f}"))
    for key, label, form in FIGURES:
        value = log.last(key)
        if isinstance(value, (int, float)) and (value or key != "num_skipped_steps"):
            found.append((label, form.format(value)))
    return found
