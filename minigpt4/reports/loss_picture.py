"""loss.png: the loss of a run as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from minigpt4.common.files import write_bytes
from minigpt4.reports.charts import DOTS, MEAN, RAW, Chart

LOOKS: dict[str, dict[str, Any]] = {
    RAW: {"color": "#a8cdf5", "linewidth": 0.7},
    MEAN: {"color": "#0969da", "linewidth": 1.6},
    DOTS: {"color": "#bc4c00", "marker": "o", "markersize": 4},
}


def write_loss_picture(path: Path, chart: Chart) -> None:
    """Draw a chart with matplotlib. Raises: NotWrittenError."""
    from matplotlib.figure import Figure  # late: importing it takes half a second

    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss", xlim=chart.x, ylim=chart.y)
    axes.set_title(chart.title, parse_math=False)
    for line in chart.lines:
        thin = line.curve.thinned(2000)
        axes.plot(thin.steps, thin.values, label=line.label, **LOOKS[line.style])
    for number, step in enumerate(chart.marks):
        axes.axvline(step, color="#656d76", linestyle="--", linewidth=0.8, label="_" * bool(number) + "resumed")
    axes.grid(color="#e6eaef")
    axes.spines[["top", "right"]].set_visible(False)
    if chart.lines:
        axes.legend(frameon=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_bytes(path, picture.getvalue())
