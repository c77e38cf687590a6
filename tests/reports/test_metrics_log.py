import json

import numpy as np

from minigpt4.reports.metrics_log import Curve, read_metrics_log


def log_of(tmp_path, *lines):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return read_metrics_log(path)


def curve(*values):
    return Curve(np.arange(1.0, len(values) + 1), np.array(values, dtype=float))


def test_what_a_resumed_run_does_again_replaces_what_was_there(tmp_path):
    first = [{"step": step, "loss": 1.0, "start_step": 0} for step in range(6)]
    again = [{"step": step, "loss": 2.0, "start_step": 3} for step in range(3, 5)]
    log = log_of(tmp_path, *first, *again)
    assert [(line["step"], line["loss"]) for line in log.lines] == [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2)]
    assert log.resumed_at == [3]


def test_steps_that_go_back_are_a_resumed_run_also_without_its_start(tmp_path):
    log = log_of(tmp_path, *({"step": step} for step in (0, 1, 2, 3, 2, 3, 4)))
    assert [line["step"] for line in log.lines] == [0, 1, 2, 3, 4]
    assert log.resumed_at == [2]


def test_a_run_from_step_0_in_an_old_folder_shows_nothing_of_the_old_one(tmp_path):
    lines = [{"step": step, "loss": 1.0, "start_step": 0} for step in (0, 1, 2, 0)]
    log = log_of(tmp_path, *lines)
    assert [line["step"] for line in log.lines] == [0]
    assert log.resumed_at == []


def test_an_earlier_resumption_goes_with_the_steps_that_are_done_again(tmp_path):
    lines = [*((step, 0) for step in range(6)), (4, 4), (5, 4), (2, 2), (3, 2)]
    log = log_of(tmp_path, *({"step": step, "start_step": start} for step, start in lines))
    assert [line["step"] for line in log.lines] == [0, 1, 2, 3]
    assert log.resumed_at == [2]


def test_a_validation_joins_the_line_of_its_step(tmp_path):
    log = log_of(tmp_path, {"step": 0, "loss": 1.0}, {"step": 0, "valid_loss": 2.0})
    assert log.lines == [{"step": 0, "loss": 1.0, "valid_loss": 2.0}]


def test_torn_lines_are_counted_and_left_out(tmp_path):
    log = log_of(tmp_path, {"step": 0}, '{"step": 1, "lo', "[1]", '{"step": "x"}', "", {"step": 2})
    assert [line["step"] for line in log.lines] == [0, 2]
    assert log.num_unreadable == 3


def test_a_file_that_is_not_there_is_an_empty_log(tmp_path):
    assert read_metrics_log(tmp_path / "metrics.jsonl").lines == []


def test_curves_count_steps_from_one_and_hold_finite_numbers_only(tmp_path):
    lines = [
        {"step": 0, "loss": 1.5, "loss_by_dataset": {"gqa": 2.0}},
        {"step": 1, "loss": None, "loss_by_dataset": {}},
        {"step": 2, "loss": float("nan"), "loss_by_dataset": {"ocrvqa": 3.0}},
        {"step": 3, "loss": 4, "loss_by_dataset": {"gqa": 5.0}},
    ]
    log = log_of(tmp_path, *lines)
    loss, gqa = log.values("loss"), log.values("loss_by_dataset", "gqa")
    assert (loss.steps.tolist(), loss.values.tolist()) == ([1, 4], [1.5, 4])
    assert (gqa.steps.tolist(), gqa.values.tolist()) == ([1, 4], [2, 5])
    assert log.names("loss_by_dataset") == ["gqa", "ocrvqa"]
    assert len(log.values("no such key")) == 0


def test_smoothing_takes_the_mean_of_the_points_around():
    smooth = curve(*[0, 9] * 5).smoothed().values
    assert np.allclose(smooth[[0, 4, 5, 9]], [18 / 5, 36 / 9, 45 / 9, 27 / 5], atol=1e-12)
    assert np.allclose(curve(*[3] * 500).smoothed().values, 3, atol=1e-12)


def test_thinning_keeps_the_extremes_of_every_stretch_in_order():
    values = np.zeros(1000)
    values[[123, 777]] = 5, -5
    thin = curve(*values).thinned(20)
    assert len(thin) <= 20
    assert (5 in thin.values) and (-5 in thin.values)
    assert thin.steps[thin.values == 5].tolist() == [124]
    assert (np.diff(thin.steps) > 0).all()


def test_few_points_are_not_thinned():
    assert curve(1, 2, 3).thinned(20).values.tolist() == [1, 2, 3]
