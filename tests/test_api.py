"""`minigpt4.train`: a training that other programs call, which leaves their process as it was."""

import json
import logging
import random
import signal
import threading

import pytest
import torch
import torch.distributed as dist

import minigpt4
from minigpt4.common.config import Config
from tests.process_state import assert_same, process_state, set_torchrun
from tests.runners.tiny import DATA, tiny_config, write_config


@pytest.fixture(autouse=True)
def where_the_data_lie(monkeypatch):
    monkeypatch.chdir(DATA)


def config(tmp_path, *options, **run):
    """Return the config of two steps with two data workers, in a mode that changes what it can in the process."""
    run = {"max_epoch": 1, "iters_per_epoch": 2, "num_workers": 2, "deterministic": True, **run}
    return Config.load(write_config(tmp_path, tiny_config(**run)), [f"run.output_dir={tmp_path / 'out'}", *options])


def test_a_training_leaves_the_process_as_it_was(tmp_path):
    cfg = config(tmp_path)
    before = process_state()
    result = minigpt4.train(cfg)
    assert_same(before, process_state())
    assert (result.stopped, result.num_steps) == (False, 2)


def test_a_training_says_how_it_ended_and_prints_nothing(tmp_path, capfd):
    result = minigpt4.train(config(tmp_path, num_workers=0))
    assert (result.folder, result.checkpoint) == (tmp_path / "out/job", tmp_path / "out/job/checkpoint_0.pth")
    [*_, last] = [json.loads(line) for line in (result.folder / "log.txt").read_text().splitlines()]
    assert last["loss"] == result.figures["loss"] and last["grad_norm"] == result.figures["grad_norm"] > 0
    assert capfd.readouterr().out == ""


def test_the_same_config_trains_the_same_again(tmp_path):
    """The second run follows the first in the process, with other random numbers before it."""
    first = minigpt4.train(config(tmp_path, "run.job_id=first", num_workers=0))
    torch.manual_seed(123), random.seed(5)
    second = minigpt4.train(config(tmp_path, "run.job_id=second", num_workers=0))
    one, two = (torch.load(result.checkpoint, weights_only=True)["model"] for result in (first, second))
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_training_in_another_thread_leaves_the_process_as_it_was(tmp_path):
    cfg, results = config(tmp_path), []
    before = process_state()
    thread = threading.Thread(target=lambda: results.append(minigpt4.train(cfg)))
    thread.start()
    thread.join()
    assert_same(before, process_state())
    assert results[0].num_steps == 2


def test_a_training_that_fails_leaves_the_process_as_it_was(tmp_path):
    """No picture can be read: the data workers are up by then."""
    folder = tmp_path / "textcaps"
    folder.mkdir()
    for image in (DATA / "train_dataset/textcaps/train_images").iterdir():
        (folder / image.name).write_bytes(b"this is no picture")
    given = tiny_config(max_epoch=1, num_workers=2, deterministic=True, output_dir=str(tmp_path / "out"))
    given["datasets"] = {"textcaps_caption": {"batch_size": 1, "build_info": {"image_path": str(folder)}}}
    cfg = Config.load(write_config(tmp_path, given))
    before = process_state()
    with pytest.raises(ValueError, match=r"1 bad samples where run\.max_bad_samples allows 0"):
        minigpt4.train(cfg)
    assert_same(before, process_state())


@pytest.fixture
def torchrun(monkeypatch):
    set_torchrun(monkeypatch)


def test_the_process_group_of_torchrun_is_joined_and_left(tmp_path, torchrun):
    cfg = config(tmp_path, num_workers=0)
    before = process_state()
    result = minigpt4.train(cfg)
    assert_same(before, process_state())
    assert torch.load(result.checkpoint, weights_only=True)["history"] == [(0, 1)]


def test_a_process_group_that_the_caller_joined_stays(tmp_path, torchrun):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        minigpt4.train(config(tmp_path, num_workers=0))
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


def test_a_signal_stops_a_training_after_its_update_with_a_checkpoint(tmp_path):
    """The signal comes when the first log line is written."""

    class Interrupting(logging.Handler):
        def emit(self, record):
            if "step 1/400" in record.getMessage():
                signal.raise_signal(signal.SIGTERM)

    handler, log = Interrupting(), logging.getLogger("minigpt4.runners.run_log")
    before, level = signal.getsignal(signal.SIGTERM), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        result = minigpt4.train(config(tmp_path, num_workers=0, iters_per_epoch=400))
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    assert result.stopped and 1 <= result.num_steps < 400
    assert result.checkpoint.name == f"checkpoint_step_{result.num_steps}.pth" and result.checkpoint.exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_run_with_nothing_left_to_do_ends_with_the_checkpoint_that_it_resumed(tmp_path):
    first = minigpt4.train(config(tmp_path, num_workers=0))
    again = minigpt4.train(config(tmp_path, f"run.resume_ckpt_path={first.checkpoint}", num_workers=0))
    assert (again.num_steps, again.checkpoint, again.stopped) == (2, first.checkpoint, False)


def test_losses_alone_are_the_figures_of_a_run_that_only_evaluates(tmp_path):
    rows = json.loads((DATA / "train_dataset/gqa/train_balanced_questions.json").read_text())
    (tmp_path / "rows.json").write_text(json.dumps(rows[:3]))
    given = tiny_config(evaluate=True, valid_splits=["val"], max_tokens_per_forward=1, output_dir=str(tmp_path))
    annotations = {split: {"storage": [str(tmp_path / "rows.json")]} for split in ("train", "val")}
    given["datasets"] = {"gqa": {"batch_size": 2, "build_info": {"annotations": annotations}}}
    result = minigpt4.train(Config.load(write_config(tmp_path, given)))
    assert list(result.figures) == ["gqa/val"] and result.checkpoint is None and result.num_steps == 0


@pytest.mark.parametrize(("num_updates", "steps"), [(2, 6), (50, 5)])
def test_a_profile_of_some_updates_is_written_as_a_trace(tmp_path, num_updates, steps):
    """The second run ends before all of them: the trace has those that there were."""
    result = minigpt4.train(config(tmp_path, num_workers=0, iters_per_epoch=steps, profile=num_updates))
    trace = json.loads((result.folder / "profile.json").read_text())
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert sum(name.startswith("Optimizer.step#AdamW") for name in names) == min(num_updates, steps - 3)
