import glob
import logging
import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest

from minigpt4.runners import sinks
from minigpt4.runners.sinks import Sinks, flat, wandb_mode

HOST = "https://wandb.example.org"


class FakeRun:
    def __init__(self):
        self.logged, self.finished = [], False

    def define_metric(self, name, step_metric):
        assert (name, step_metric) == ("*", "step")

    def log(self, numbers):
        self.logged.append(numbers)

    def finish(self):
        self.finished = True


def fake_wandb(monkeypatch, init):
    """Put a package in wandb's place that starts runs with `init`; the real one may not be installed."""
    module = ModuleType("wandb")
    module.init = init
    module.Settings = lambda **options: SimpleNamespace(base_url=HOST, **options)
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", "/nonexistent")


def started(folder, *, start=0, wandb_log=True):
    run_cfg = SimpleNamespace(wandb_log=wandb_log, job_name="fine-tuning")
    return Sinks(folder, run_cfg, {"run": {"seed": 42}}, start=start)


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_numbers_by_name_are_flattened_and_the_rest_left_out():
    metrics = {"step": 3, "loss": 1.5, "mfu": None, "by": {"gqa": 2, "vg": float("nan")}, "time": 9.0, "who": "x"}
    assert flat(metrics) == {"loss": 1.5, "by/gqa": 2}


def test_wandb_gets_every_number_offline_without_a_key(tmp_path, monkeypatch, caplog):
    run, options = FakeRun(), {}
    fake_wandb(monkeypatch, lambda **given: options.update(given) or run)
    watchers = started(tmp_path)
    watchers.write({"step": 0, "loss": 1.5, "loss_by_dataset": {"gqa": 2.0}})
    watchers.write({"step": 1, "loss": 1.0})
    watchers.close()
    assert run.logged == [{"step": 0, "loss": 1.5, "loss_by_dataset/gqa": 2.0}, {"step": 1, "loss": 1.0}]
    assert run.finished
    assert (options["mode"], options["name"], options["config"]) == ("offline", "fine-tuning", {"run": {"seed": 42}})
    assert warnings(caplog) == []


def test_a_resumed_run_keeps_its_wandb_id_and_a_new_run_does_not(tmp_path, monkeypatch):
    ids = []
    fake_wandb(monkeypatch, lambda **given: ids.append(given["id"]) or FakeRun())
    for start in (0, 5, 0):
        started(tmp_path, start=start).close()
    assert ids[0] == ids[1] != ids[2]


def test_wandb_that_is_not_installed_is_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    watchers = started(tmp_path)
    watchers.write({"step": 0, "loss": 1.5})
    watchers.close()
    [warning] = warnings(caplog)
    assert "pip install wandb" in warning


def test_wandb_that_does_not_start_is_one_warning(tmp_path, monkeypatch, caplog):
    def init(**options):
        raise RuntimeError("no room")

    fake_wandb(monkeypatch, init)
    watchers = started(tmp_path)
    watchers.write({"step": 0, "loss": 1.5})
    watchers.close()
    assert warnings(caplog) == ["wandb fails, the run continues without it: no room"]


def test_wandb_that_cannot_connect_continues_offline(tmp_path, monkeypatch, caplog):
    run, modes = FakeRun(), []

    def init(**options):
        modes.append(options["mode"])
        if options["mode"] == "online":
            raise RuntimeError("no such host")
        return run

    fake_wandb(monkeypatch, init)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    watchers = started(tmp_path)
    watchers.write({"step": 0, "loss": 1.5})
    watchers.close()
    assert modes == ["online", "offline"]
    assert run.logged == [{"step": 0, "loss": 1.5}]
    assert len(warnings(caplog)) == 1


def test_wandb_that_hangs_does_not_delay_the_run(tmp_path, monkeypatch, caplog):
    let_go = threading.Event()
    fake_wandb(monkeypatch, lambda **options: let_go.wait() and FakeRun())
    monkeypatch.setattr(sinks, "SECONDS_TO_FINISH", 0.05)
    watchers = started(tmp_path)
    watchers.write({"step": 0, "loss": 1.5})
    watchers.close()
    let_go.set()
    assert "wandb is not done" in warnings(caplog)[0]


def test_a_key_of_the_environment_or_of_netrc_makes_wandb_online(tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine wandb.example.org login user password k\n")
    netrc.chmod(0o600)
    nowhere = {"NETRC": str(tmp_path / "none")}
    assert wandb_mode(nowhere, HOST) == "offline"
    assert wandb_mode({**nowhere, "WANDB_MODE": "online"}, HOST) == "offline"
    assert wandb_mode({**nowhere, "WANDB_API_KEY": "k"}, HOST) == "online"
    assert wandb_mode({"NETRC": str(netrc)}, HOST) == "online"
    assert wandb_mode({"NETRC": str(netrc)}, "https://other.example.org") == "offline"
    assert wandb_mode({**nowhere, "WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, HOST) == "disabled"


def test_without_tensorboard_there_is_no_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    watchers = started(tmp_path, wandb_log=False)
    watchers.write({"step": 0, "loss": 1.5})
    watchers.close()
    assert warnings(caplog) == []
    assert not (tmp_path / "tensorboard").exists()


def test_tensorboard_shows_the_steps_of_a_resumed_run_once(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start, loss in ((0, 1.0), (2, 2.0)):
        watchers = started(tmp_path, start=start, wandb_log=False)
        for step in range(start, 4):
            watchers.write({"step": step, "loss": loss, "loss_by_dataset": {"gqa": loss}})
        watchers.close()
    assert glob.glob(str(tmp_path / "tensorboard" / "events*"))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss_by_dataset/gqa")] == [(0, 1), (1, 1), (2, 2), (3, 2)]


def test_a_watcher_that_fails_to_close_leaves_the_others_to_be_closed(tmp_path, monkeypatch, caplog):
    class FailingWriter:
        def __init__(self, folder, purge_step):
            self.folder = folder

        def add_scalar(self, name, number, step):
            assert (name, number, step) == ("loss", 1.5, 0)

        def close(self):
            raise OSError("no space left")

    tensorboard = ModuleType("torch.utils.tensorboard")
    tensorboard.SummaryWriter = FailingWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", tensorboard)
    run = FakeRun()
    fake_wandb(monkeypatch, lambda **options: run)
    watchers = started(tmp_path)
    watchers.write({"step": 0, "loss": 1.5})
    watchers.close()
    assert run.finished
    assert warnings(caplog) == ["TensorBoard fails, the run continues without it: no space left"]
