import numpy as np
import pytest

from minigpt4.evaluation.benchmarks.scorers import bootstrap, wilson


def test_wilsons_interval_is_the_textbook_one():
    # 7 of 16: centre (7/16 + z2/32) / (1 + z2/16), half width z sqrt(pq/16 + z2/1024) / (1 + z2/16), z2 = 3.8415
    assert wilson(7, 16) == pytest.approx((23.0987, 66.8214), abs=1e-3)
    assert wilson(50, 100) == pytest.approx((40.3832, 59.6168), abs=1e-3)


def test_wilsons_interval_stays_between_0_and_100_and_knows_nothing_of_nothing():
    assert wilson(0, 10) == pytest.approx((0.0, 27.7533), abs=1e-3)
    assert wilson(10, 10) == pytest.approx((72.2467, 100.0), abs=1e-3)
    assert wilson(0, 0) == (0.0, 100.0)


def test_the_bootstrap_of_graded_answers_is_as_wide_as_their_deviation_says():
    values = [0.0, 1 / 3, 2 / 3, 1.0] * 100
    low, high = bootstrap(values, seed=1)
    half = 1.96 * 100 * np.std(values) / 20
    assert (low, high) == pytest.approx((50 - half, 50 + half), abs=0.15)


def test_the_bootstrap_is_a_function_of_its_seed():
    values = [0.0, 0.3, 1.0, 1.0]
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap([1.0, 1.0], seed=1) == (100.0, 100.0)
