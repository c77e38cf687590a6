import numpy as np
import pytest

from minigpt4.reports.charts import RAW, Chart, Line, short, ticks, value_range
from minigpt4.reports.metrics_log import Curve
from minigpt4.reports.page import render


def curve(*values):
    return Curve(np.arange(1.0, len(values) + 1), np.array(values, dtype=float))


def drawn_chart(lines, **options):
    return render("chart.html.j2", chart=Chart(title="loss", lines=lines, **options))


def test_a_value_is_drawn_at_its_place_on_the_scale():
    drawn = drawn_chart(
        [Line("value", Curve(np.array([0.0, 10]), np.array([0.0, 100])))], width=264, height=134, x=(0, 10)
    )
    left, right, top, bottom, _, _, low, high = (float(v) for v in drawn.split('data-scale="')[1].split('"')[0].split())
    points = drawn.split('points="')[1].split('"')[0].split(" ")
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points)
    assert (x0, x1) == (left, right)
    assert low + (bottom - y0) / (bottom - top) * (high - low) == pytest.approx(0, abs=0.01)
    assert low + (bottom - y1) / (bottom - top) * (high - low) == pytest.approx(100, abs=0.01)


def test_numbers_on_axes_are_short():
    assert [short(v) for v in (0, 0.25, 1e-5, 950, 1500, 30000, 2.5e6)] == [
        "0",
        "0.25",
        "1e-05",
        "950",
        "1.5k",
        "30k",
        "2.5M",
    ]


def test_one_outlier_does_not_flatten_a_noisy_curve():
    noisy = curve(*[1.0] * 500, 1000.0, *[2.0] * 500)
    low, high = value_range([Line("raw", noisy, RAW)])
    assert (low, high) == (0.96, 2.04)


def test_a_constant_and_no_curve_have_a_range_too():
    assert value_range([Line("value", curve(2, 2))]) == (1.9, 2.1)
    assert value_range([])[0] < value_range([])[1]


def test_ticks_are_round():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(1e-6, 1.1e-5) == [2e-6, 4e-6, 6e-6, 8e-6, 1e-5]
    assert ticks(-0.3, 0.3) == [-0.2, 0, 0.2]
