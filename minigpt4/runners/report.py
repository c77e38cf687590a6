"""report.html and loss.png: how a run goes, in two files that open without network.

python -m minigpt4.runners.report output/JOB_ID
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import yaml

from minigpt4.common.files import write_bytes, write_text
from minigpt4.runners.charts import DOTS, Line, smoothed_and_raw, svg
from minigpt4.runners.history import METRICS, History, read_history
from minigpt4.runners.picture import write_png
from minigpt4.runners.tables import dataset_names, facts, mixture_table, state, text, tiles, valid_curves

REPORT, PICTURE, RUN = "report.html", "loss.png", "run.json"
NOISY, EXACT = True, False
SPEED = (
    ("lr", "learning rate", 1.0, EXACT),
    ("samples_per_s", "samples a second", 1.0, NOISY),
    ("tokens_per_s", "tokens a second", 1.0, NOISY),
    ("data_wait", "waiting for data, %", 100.0, NOISY),
    ("mfu", "model FLOPs utilisation, %", 100.0, NOISY),
    ("slowest_rank_share", "slowest rank / mean step time", 1.0, NOISY),
    ("memory_gib", "peak memory, GiB", 1.0, EXACT),
)
"""Key, title, factor, whether it is also smoothed, of the charts under the losses."""


def write_report(folder: Path) -> Path:
    """Write both files about what metrics.jsonl and run.json of a run's folder hold; return the page's path."""
    history = read_history(folder / METRICS)
    run = read_run(folder / RUN)
    x = step_range(history)
    losses = loss_lines(history)
    picture = io.BytesIO()
    write_png(picture, f"loss of {folder.name}", losses, x=x, marks=history.resumed_at)
    write_bytes(folder / PICTURE, picture.getvalue())
    page = Template((resources.files("minigpt4.runners") / "report_template.html").read_text(encoding="utf-8"))
    draw = Charts(history, x)
    filled = page.substitute(
        title=text(folder.name),
        state=state(history, run),
        tiles=tiles(history),
        loss=draw.figure("loss", losses, width=1100, height=340) if losses else "<p>No step is logged yet.</p>",
        datasets=dataset_charts(history, draw),
        speed=speed_charts(history, draw),
        mixture=mixture_table(history, run),
        facts=facts(run),
        config=text(yaml.safe_dump(run.get("config") or {}, sort_keys=False, allow_unicode=True)),
    )
    path = folder / REPORT
    write_text(path, filled, errors="replace")
    return path


def read_run(path: Path) -> dict[str, Any]:
    """Return what run.json says, nothing where it is not there or was torn."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return run if isinstance(run, dict) else {}


def step_range(history: History) -> tuple[float, float]:
    """Return the steps that charts show: from the first that is logged to the last, counted as done."""
    steps = [line["step"] + 1.0 for line in history.lines] or [1.0]
    return (steps[0], steps[-1]) if len(steps) > 1 else (steps[0] - 1, steps[0] + 1)


def loss_lines(history: History) -> list[Line]:
    """Return the training loss, smoothed and raw, and the validation loss."""
    valid = history.values("valid_loss")
    lines = smoothed_and_raw(history.values("loss"))
    return [line for line in [*lines, Line("validation", valid, DOTS)] if len(line.curve)]


class Charts:
    """Draws the charts of a page, all over the same steps."""

    def __init__(self, history: History, x: tuple[float, float]) -> None:
        self._history, self._x = history, x

    def figure(self, title: str, lines: Sequence[Line], *, width: int = 540, height: int = 200, note: str = "") -> str:
        """Return a chart with its title."""
        chart = svg(lines, width=width, height=height, x=self._x, marks=self._history.resumed_at)
        caption = f'<figcaption><b>{text(title)}</b><span class="note">{text(note)}</span></figcaption>'
        return f"<figure>{caption}{chart}</figure>"


def speed_charts(history: History, charts: Charts) -> str:
    """Return a chart of everything in `SPEED` that the lines have; of one rank none is the slowest."""
    figures = []
    for key, title, factor, noisy in SPEED:
        curve = history.values(key).times(factor)
        if len(curve) and not (key == "slowest_rank_share" and (curve.values == 1).all()):
            figures.append(charts.figure(title, smoothed_and_raw(curve) if noisy else [Line("value", curve)]))
    return "".join(figures)


def dataset_charts(history: History, charts: Charts) -> str:
    """Return a small chart of each dataset's loss."""
    figures = []
    for name in dataset_names(history):
        trained = smoothed_and_raw(history.values("loss_by_dataset", name))
        newest = trained[-1].curve.values[-1:]
        lines = trained + [
            Line(f"validation {split}".strip(), curve, DOTS) for split, curve in valid_curves(history, name)
        ]
        lines = [line for line in lines if len(line.curve)]
        note = "".join(f"{value:.4g}" for value in newest)
        figures.append(charts.figure(name, lines, width=350, height=150, note=note))
    return "".join(figures)


def main() -> None:
    """Write the report of a folder and print where the page is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the folder of a run, where metrics.jsonl is")
    folder = parser.parse_args().folder.resolve()
    if not (folder / METRICS).is_file():
        raise SystemExit(f"there is no {METRICS} in {folder}")
    print(write_report(folder))


if __name__ == "__main__":
    main()
