import re
import shlex
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
import yaml

from minigpt4.common.config import shipped_configs
from minigpt4.sample_world.demo import QUICK, WHOLE, Demo, accuracies, addresses, main, opening
from minigpt4.sample_world.demo_steps import (
    NUM_LINES_OF_FAILURE,
    Step,
    StepRunner,
    as_minutes,
    progress,
    share_evaluated,
    share_trained,
    times_table,
)
from minigpt4.sample_world.demo_tables import BENCHMARKS, rows
from minigpt4.sample_world.world import WorldSize

ROOT = Path(__file__).parents[2]
TRAINING = """\
14:17:30 INFO 86144 parameters are trained, 2126520 frozen
14:17:31 INFO epoch 0 step 25/60 loss 2.0961 lr 0.00101 | 242.3 samples/s 12198 tokens/s data wait 8% \
0.8 GiB | eta 0:00:02
14:17:32 INFO epoch 0 step 30/60 loss 1.5955 lr 0.0012 | 239.4 samples/s 13088 tokens/s data wait 8% \
0.8 GiB | eta 0:00:02
14:17:32 INFO saved output/sample_world_dataengine/demo/checkpoint_0.pth
"""
EVALUATION = """\
14:17:41 INFO seed: 33 questions, 0 answered before
seed: 18.18% (8.61 .. 34.39) of 33 questions (1 unanswered, 1 do not parse), 0.2 s
14:17:41 INFO mmbench: 18 questions, 0 answered before
mmbench: 16.67% (5.84 .. 39.22) of 18 questions (0 unanswered, 0 do not parse), 0.1 s
14:17:42 INFO okvqa: 15 questions, 0 answered before
"""
WHOLE_DEMO = Demo(WHOLE, Path("sample_world"), Path("evaluation_results"))
QUICK_DEMO = Demo(QUICK, Path("quick_demo/sample_world"), Path("quick_demo/evaluation_results"))


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def child(title: str, code: str, **kwargs) -> Step:
    return Step(title, ("python", "-c", code), 10.0, **kwargs)


def test_the_share_of_a_training_is_that_of_its_last_line():
    assert share_trained(TRAINING) == 30 / 60
    assert share_trained(TRAINING[:200]) == 25 / 60
    assert share_trained(TRAINING[:60]) == 0
    assert share_trained("INFO epoch 1 step 25/6") == 0  # the line is not whole yet


def test_the_share_of_an_evaluation_counts_benchmarks_with_a_score():
    assert share_evaluated("") == share_evaluated(EVALUATION[:50]) == 0
    assert share_evaluated(EVALUATION) == 2 / 16
    half = EVALUATION + "14:18:12 INFO okvqa: 30 of 60 answered by this process\n"
    assert share_evaluated(half) == 2.5 / 16
    scored = half + "okvqa: accuracy unknown of 120 questions (0 unanswered, 0 do not parse), 40.1 s\n"
    assert share_evaluated(scored) == 3 / 16


def test_all_benchmarks_of_the_evaluation_file_count_as_progress():
    config = yaml.safe_load(shipped_configs()["eval_configs/sample_world"].read_text(encoding="utf-8"))
    splits = {"refcoco": 3, "refcoco+": 3, "refcocog": 2}
    assert list(config["evaluation_datasets"]) == list(dict.fromkeys(name.split("_")[0] for name in BENCHMARKS))
    assert len(BENCHMARKS) == sum(splits.get(name, 1) for name in config["evaluation_datasets"])


def test_a_step_without_lines_of_progress_goes_by_its_expected_time():
    step = Step("draw", ("true",), 20.0)
    assert [step.share(seconds, "") for seconds in (0, 10, 19, 500)] == [0, 0.5, 0.95, 0.95]


def test_a_step_with_lines_of_progress_goes_by_them_after_its_start():
    step = Step("train", ("true",), 107.0, share_trained)
    assert step.share(3.5, "") == 3.5 / 107
    assert step.share(500, "") == 7 / 107
    assert step.share(57, TRAINING) == 57 / 107  # 7 s to start, then half of 100 s
    assert step.share(300, "step 60/60 ") == 1


def test_the_time_left_follows_the_pace_of_this_machine():
    steps = [Step("a", ("a",), 30.0), Step("b", ("b",), 60.0), Step("c", ("c",), 10.0)]
    assert progress(steps, []) == "0 % done, about 1:40 left"
    assert progress(steps, [30.0]) == "30 % done, about 1:10 left"
    assert progress(steps, [90.0]) == "30 % done, about 2:20 left"  # (30 + 90) / (30 + 30): half as fast
    assert progress(steps, [30.0], 30.0, 0.5) == "60 % done, about 0:40 left"


def test_seconds_are_shown_as_minutes():
    assert [as_minutes(seconds) for seconds in (0, 59.4, 59.6, 245, 3600)] == ["0:00", "0:59", "1:00", "4:05", "60:00"]


def test_the_time_of_each_step_and_of_all_is_shown():
    steps = [Step("draw", ("a",), 1.0), Step("train it", ("b",), 1.0)]
    assert times_table(steps, [4.6, 120.0]).splitlines() == [
        "step      time",
        "draw      0:05",
        "train it  2:00",
        "all       2:05",
    ]


def test_a_screen_shows_commands_and_progress_and_a_file_their_output(tmp_path):
    screen, log = StringIO(), tmp_path / "results/demo.log"
    steps = [child("say one", "print('one')"), child("complain", "import sys; print('two', file=sys.stderr)")]
    printed = StepRunner(steps, log, screen).run()
    assert printed == {"say one": "one\n", "complain": "two\n"}
    lines = [re.sub(r"about .* left", "about M:SS left", line) for line in screen.getvalue().splitlines()]
    assert lines == [
        "",
        "[1/2] say one .. 0 % done, about M:SS left",
        "$ python -c 'print('\"'\"'one'\"'\"')'",
        lines[3],
        "",
        "[2/2] complain .. 50 % done, about M:SS left",
        f"$ {shlex.join(steps[1].command)}",
        lines[7],
    ]
    assert re.fullmatch(r"took \d+:\d\d", lines[3]) and re.fullmatch(r"took \d+:\d\d", lines[7])
    said = log.read_text(encoding="utf-8")
    assert said == f"\n$ {shlex.join(steps[0].command)}\none\n\n$ {shlex.join(steps[1].command)}\ntwo\n"


def test_the_log_holds_one_demo_only(tmp_path):
    for _ in range(2):
        StepRunner([child("say", "print('once')")], tmp_path / "demo.log", StringIO()).run()
    assert (tmp_path / "demo.log").read_text(encoding="utf-8").count("\nonce\n") == 1


def test_a_terminal_shows_in_one_line_what_a_command_has_done(tmp_path):
    """The child waits for the screen to show its line, so the test needs no idle machine."""
    seen = tmp_path / "seen"

    class Seeing(Terminal):
        def write(self, text: str) -> int:
            if "50 % done" in text:
                seen.touch()
            return super().write(text)

    code = f"""
import pathlib, time
print('14:17:32 INFO epoch 0 step 30/60 loss 1.5955', flush=True)
end = time.monotonic() + 120
while not pathlib.Path({str(seen)!r}).exists() and time.monotonic() < end:
    time.sleep(0.05)
"""
    step = Step("train", ("python", "-c", code), 1e6, share_trained)  # so long that only its line counts
    screen = Seeing()
    StepRunner([step], tmp_path / "demo.log", screen).run()
    live = [line for line in screen.getvalue().split("\n") if "50 % done" in line]
    assert len(live) == 1 and live[0].startswith("\r\033[K") and live[0].endswith("\r\033[Ktook " + live[0][-4:])


@pytest.mark.parametrize(("line_seconds", "is_renewed"), [(1e6, False), (0.0, True)])
def test_a_file_gets_a_line_of_progress_now_and_then(tmp_path, monkeypatch, line_seconds, is_renewed):
    monkeypatch.setattr("minigpt4.sample_world.demo_steps.POLL_SECONDS", 0.01)
    monkeypatch.setattr("minigpt4.sample_world.demo_steps.LINE_SECONDS", line_seconds)
    screen = StringIO()
    StepRunner([child("wait", "import time; time.sleep(0.5)")], tmp_path / "demo.log", screen).run()
    assert (screen.getvalue().count("% done") > 1) == is_renewed  # the heading is the first
    assert "\r" not in screen.getvalue()


def test_a_failing_command_shows_the_end_of_its_output_and_where_the_rest_is(tmp_path):
    screen, log = StringIO(), tmp_path / "demo.log"
    code = "import sys\nfor number in range(100): print('line', number)\nsys.exit(3)"
    with pytest.raises(SystemExit) as failed:
        StepRunner([child("fail", code), child("never", "print('never')")], log, screen).run()
    assert str(failed.value).startswith("failed with status 3: python -c") and str(failed.value).endswith(str(log))
    shown = screen.getvalue().splitlines()[-NUM_LINES_OF_FAILURE:]
    assert shown == [f"line {number}" for number in range(70, 100)]
    assert "line 0\n" in log.read_text(encoding="utf-8") and "never" not in log.read_text(encoding="utf-8")


def test_children_find_this_package_and_use_one_thread(tmp_path):
    code = "import os, minigpt4; print(os.environ['OMP_NUM_THREADS'], minigpt4.__file__)"
    printed = StepRunner([child("look", code)], tmp_path / "demo.log", StringIO()).run()
    assert printed["look"].split() == ["1", str(ROOT / "minigpt4/__init__.py")]


def test_the_demo_makes_the_world_then_trains_twice_and_evaluates_both():
    assert [step.title for step in WHOLE_DEMO.steps()] == [
        "make the sample world",
        "write the page of training samples",
        "train the baseline model",
        "train the model with the engine's data",
        "evaluate the baseline model",
        "score SEED-Bench of the baseline model",
        "write MMBench's sheet of the baseline model",
        "evaluate the model with the engine's data",
        "score SEED-Bench of the model with the engine's data",
        "write MMBench's sheet of the model with the engine's data",
    ]
    commands = [shlex.join(step.command) for step in WHOLE_DEMO.steps()]
    torchrun = "python -m torch.distributed.run --standalone --nproc_per_node 2 -m minigpt4.cli"
    configs = "sample_world/train_configs"
    assert commands[:5] == [
        "python -m minigpt4.sample_world --out sample_world",
        f"python -m minigpt4 preview 4 --cfg-path {configs}/sample_world_dataengine.yaml",
        f"{torchrun} train --cfg-path {configs}/sample_world.yaml --options run.job_id=demo",
        f"{torchrun} train --cfg-path {configs}/sample_world_dataengine.yaml --options run.job_id=demo",
        f"{torchrun} eval --cfg-path sample_world/eval_configs/sample_world.yaml"
        " --ckpt output/sample_world/demo/checkpoint_1.pth --resample"
        " --options run.save_path=evaluation_results/baseline",
    ]


def test_the_output_folders_are_those_of_the_shipped_files():
    for row in rows(Path("evaluation_results")):
        config = yaml.safe_load(shipped_configs()[f"train_configs/{row.config}"].read_text(encoding="utf-8"))
        assert config["run"]["output_dir"] == str(WHOLE_DEMO.output(row))
        assert config["run"]["max_epoch"] == 2  # so that checkpoint_1.pth is the last


def test_the_quick_demo_writes_nothing_into_the_folders_of_the_whole_one():
    for step in QUICK_DEMO.steps():
        paths = [word.split("=")[-1] for word in step.command if "/" in word]
        assert all(path.startswith("quick_demo/") for path in paths), paths
    trainings = [step for step in QUICK_DEMO.steps() if step.title.startswith(("train", "write the page"))]
    assert len(trainings) == 3
    assert all(any("run.output_dir=quick_demo/output/" in word for word in step.command) for step in trainings)
    assert all(str(page).startswith("quick_demo/") for page in QUICK_DEMO.pages().values())


def test_the_quick_demo_has_enough_scenes_to_fill_every_file():
    options = dict(zip(QUICK.world_options[::2], map(int, QUICK.world_options[1::2]), strict=True))
    size = WorldSize(options["--num-train-scenes"], options["--num-eval-scenes"])
    assert size.num_train_scenes < WorldSize().num_train_scenes and size.num_eval_scenes < WorldSize().num_eval_scenes


@pytest.mark.parametrize("demo", [WHOLE_DEMO, QUICK_DEMO])
def test_a_seed_reaches_both_trainings_and_not_the_world(demo):
    steps = Demo(demo.length, demo.world, demo.results, seed=7).steps()
    seeded = [step.title for step in steps if "run.seed=7" in step.command]
    assert seeded == ["train the baseline model", "train the model with the engine's data"]
    changed = [new.title for new, old in zip(steps, demo.steps(), strict=True) if new != old]
    assert changed == seeded


def test_the_opening_says_what_happens_and_how_long_it_takes():
    text = opening(QUICK_DEMO, [Step("a", ("a",), 61.0)])
    assert "fine-tunes a tiny model on it twice" in text and "about 2 minutes on two idle cores" in text
    assert "quick_demo/evaluation_results/demo.log" in text and "its numbers mean little" in text
    assert "mean little" not in opening(WHOLE_DEMO, [Step("a", ("a",), 61.0)])


def test_the_expected_times_keep_the_promised_limits():
    assert sum(step.seconds for step in WHOLE_DEMO.steps()) <= 600
    assert sum(step.seconds for step in QUICK_DEMO.steps()) <= 120


def test_the_addresses_of_three_pages_open_in_a_browser(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for page in WHOLE_DEMO.pages().values():
        page.parent.mkdir(parents=True, exist_ok=True)
        page.touch()
    assert addresses(WHOLE_DEMO).splitlines() == [
        "Open in a browser:",
        f"  training    file://{tmp_path}/output/sample_world_dataengine/demo/report.html",
        f"  evaluation  file://{tmp_path}/evaluation_results/report.html",
        f"  samples     file://{tmp_path}/output/sample_world_dataengine/preview.html",
    ]
    (tmp_path / "evaluation_results/report.html").unlink()
    with pytest.raises(
        SystemExit, match=r"not written: evaluation_results/report.html; .* evaluation_results/demo.log"
    ):
        addresses(WHOLE_DEMO)


def test_the_score_of_seed_is_that_of_its_converter(tmp_path):
    _, engine = rows(tmp_path)
    (tmp_path / "results.json").write_text('{"seed": {"accuracy": 1.0}, "vsr": {"accuracy": 2.5}}', encoding="utf-8")
    assert accuracies(engine, "Scene: 1.00%\nTotal accuracy: 60.25%\n") == {"seed": 60.25, "vsr": 2.5}


def test_make_passes_quick_on():
    for setting, quick in (("QUICK=1", True), ("QUICK=0", False), ("QUICK=", False)):
        command = ["make", "--dry-run", "demo", setting]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert ("minigpt4.sample_world.demo --quick" in done.stdout) == quick


def test_help_names_the_quick_demo_and_the_seed(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "--quick" in said and "--seed" in said and said.startswith("usage: minigpt4 demo")


@pytest.mark.slow
def test_the_quick_demo_ends_with_tables_times_and_pages(tmp_path):
    command = [sys.executable, "-m", "minigpt4", "demo", "--quick", "--seed", "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    for title in ("| None (baseline) ", "| MLLM-DataEngine ", "| (guessing) "):
        assert done.stdout.count(title) == 2
    pages = re.findall(r"^  \w+ +file://(\S+)$", done.stdout, re.MULTILINE)
    assert len(pages) == 3 and all(Path(page).stat().st_size > 1000 for page in pages)
    assert re.search(r"^all +\d+:\d\d$", done.stdout, re.MULTILINE)
    assert len(done.stdout.splitlines()) < 150
    assert [path.name for path in tmp_path.iterdir()] == ["quick_demo"]
    config = yaml.safe_load((tmp_path / "quick_demo/output/sample_world/demo/run.json").read_text(encoding="utf-8"))
    assert config["seed"] == 5
