import json
import logging
import os
import pty
import re
import sys
import termios

import pytest
from omegaconf import OmegaConf

from minigpt4.common.logger import setup_logger
from minigpt4.common.schema import RunConfig
from minigpt4.runners.run_log import RunLog, as_line

METRICS = {
    "epoch": 0,
    "step": 0,
    "lr": 1e-5,
    "loss": 2.5,
    "loss_by_dataset": {"gqa": 2.0, "ocrvqa": 3.0},
    "samples_per_s": 12.34,
    "tokens_per_s": 4321.0,
    "data_wait": 0.02,
    "eta_s": 3723.4,
    "slowest_rank": 3,
    "slowest_rank_share": 1.25,
    "memory_gib": 61.25,
    "mfu": 0.412,
    "num_bad_samples": {"gqa": 1, "ocrvqa": 2},
    "num_too_long": {},
    "num_skipped_steps": 0,
}


def run_log(folder, *, start=0, num_steps=6):
    run_cfg = OmegaConf.merge(OmegaConf.structured(RunConfig), {"iters_per_epoch": 3})
    return RunLog(folder, run_cfg, {}, num_steps=num_steps, start=start)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def own_root_logger():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = before


def test_log_txt_is_short_and_metrics_jsonl_has_everything(tmp_path):
    log = run_log(tmp_path, start=0)
    log.write(METRICS)
    log.write({"epoch": 0, "step": 0, "valid_loss": 1.5, "valid_loss_by_dataset": {"gqa/val": 1.5}})
    log.close()
    short, full = lines_of(tmp_path / "log.txt"), lines_of(tmp_path / "metrics.jsonl")
    assert list(short[0])[:4] == ["epoch", "step", "loss", "lr"]
    assert short[0]["num_bad_samples"] == 3 and "loss_by_dataset" not in short[0]
    assert short[1] == {"epoch": 0, "step": 0, "valid_loss": 1.5}
    assert full[0].pop("time") > 1.7e9
    assert full[0] == {**METRICS, "start_step": 0}


def test_a_loss_that_is_not_finite_is_null_so_that_every_line_is_json(tmp_path):
    log = run_log(tmp_path)
    log.write({"step": 0, "loss": float("nan"), "loss_by_dataset": {"gqa": float("inf")}})
    log.close()
    [line] = lines_of(tmp_path / "metrics.jsonl")
    assert (line["loss"], line["loss_by_dataset"]) == (None, {"gqa": None})


def test_a_resumed_run_appends_also_after_a_torn_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1, "lo')
    log = run_log(tmp_path, start=1)
    log.write({"step": 1, "loss": 1.0})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[:2] == ['{"step": 0}', '{"step": 1, "lo']
    assert json.loads(lines[2])["start_step"] == 1


def test_the_page_is_there_after_every_epoch_and_at_the_end(tmp_path):
    log = run_log(tmp_path)
    page, picture = tmp_path / "report.html", tmp_path / "loss.png"
    log.write({"step": 1, "loss": 2.0})
    assert not page.exists()
    log.write({"step": 2, "loss": 1.5})
    assert page.exists() and picture.exists()
    assert "step 3" in page.read_text()
    log.write({"step": 3, "loss": 1.0})
    log.close()
    assert "step 4" in page.read_text()
    log.close()


def test_a_page_that_cannot_be_written_does_not_end_the_run(tmp_path, caplog):
    (tmp_path / "report.html").mkdir()
    log = run_log(tmp_path)
    log.write({"step": 2, "loss": 1.5})
    log.close()
    assert "the report cannot be written" in caplog.text
    assert len(lines_of(tmp_path / "log.txt")) == 1


def test_the_line_says_all_that_matters_and_nothing_that_is_not_there():
    assert as_line(METRICS, 6) == (
        "epoch 0 step 1/6 loss 2.5000 lr 1e-05 | 12.3 samples/s 4321 tokens/s mfu 41% data wait 2% 61.2 GiB"
        " | rank 3 takes 1.2x the mean | eta 1:02:03"
    )
    assert as_line({"epoch": 0, "step": 2, "valid_loss": 1.5, "mfu": None}, 6) == "epoch 0 step 3/6 valid loss 1.5000"


def test_a_terminal_gets_a_progress_bar_with_the_time_left(tmp_path, monkeypatch, own_root_logger):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        setup_logger()
        log = run_log(tmp_path, start=2)
        log.advance()
        log.write({**METRICS, "step": 2})
        log._bar.refresh()
        log.close()
        terminal.flush()
        shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    bar = [part for part in shown.split("\r") if "3/6" in part and "%|" in part][-1]
    assert re.search(r" 50%\|.*\| 3/6 \[\d\d:\d\d<\d\d:\d\d, .*loss 2\.5000\]", bar)
    assert re.search(r"INFO epoch 0 step 3/6 loss 2.5000 .*eta 1:02:03\r?\n", shown)


def test_a_file_gets_plain_lines_and_no_bar(tmp_path, monkeypatch, own_root_logger):
    with (tmp_path / "stderr").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        setup_logger()
        log = run_log(tmp_path)
        log.advance()
        log.write(METRICS)
        log.close()
    [line] = (tmp_path / "stderr").read_text().split("\n")[:-1]
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO epoch 0 step 1/6 [ -~]*", line)
