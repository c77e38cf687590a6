"""The wheel: it is built, installed where the checkout cannot be seen, and trains and evaluates from another folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from minigpt4 import __version__
from tests.old_folders import ROOT

PACKED = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "minigpt4",
    "train_configs",
    "eval_configs",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the wheel, built from a copy so that no build folder stays in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(out)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    [path] = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Return the folder of commands of an environment with the wheel; it sees the packages that the tests run with."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    packages = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    seen = dict.fromkeys(sysconfig.get_paths()[name] for name in ("purelib", "platlib"))
    # Python reads no .pth files in these folders, so one that names the checkout has no effect
    (packages / "packages_of_the_tests.pth").write_text("".join(f"{path}\n" for path in seen))
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(folder / "bin/python"),
        "install",
        "--ignore-installed",  # an editable install among the packages of the tests counts as installed
        "--no-deps",
        "--no-index",
    ]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bin"


def run(installed, cwd, *words):
    """Run a command of the environment in a folder, without the checkout on the path; return what it prints."""
    alone = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment = {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **alone}
    command, *rest = words
    done = subprocess.run(
        [str(installed / command), *rest], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_shipped_files_and_no_tools(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("train_configs", "eval_configs"):
        shipped = {f"minigpt4/{folder}/{path.name}" for path in (ROOT / folder).glob("*.yaml")}
        assert {name for name in names if name.startswith(f"minigpt4/{folder}/")} == shipped
    assert {name.partition("/")[0] for name in names} == {
        "minigpt4",
        wheel.name[: -len("-py3-none-any.whl")] + ".dist-info",
    }
    data = {str(path.relative_to(ROOT)) for path in (ROOT / "minigpt4").rglob("*") if path.is_file()}
    unpacked = {name for name in data if "__pycache__" not in name} - set(names)
    assert unpacked == set(), "files of the package that the wheel lacks"


def test_the_wheel_says_that_the_package_has_types_and_who_made_it(wheel):
    archive = zipfile.ZipFile(wheel)
    assert "minigpt4/py.typed" in archive.namelist()
    [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    said = archive.read(metadata).decode()
    assert "\nAuthor: The MLLM-DataEngine for MiniGPT-v2 contributors\n" in said
    assert "\nClassifier: Typing :: Typed\n" in said


def test_the_installed_command_shows_its_help_version_and_environment(installed, tmp_path):
    assert run(installed, tmp_path, "minigpt4", "--help").startswith("usage: minigpt4")
    assert run(installed, tmp_path, "minigpt4", "--version") == f"minigpt4 {__version__}\n"
    assert f"minigpt4         {__version__}" in run(installed, tmp_path, "minigpt4", "env")
    where = run(installed, tmp_path, "python", "-c", "import minigpt4; print(minigpt4.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)


@pytest.mark.slow
def test_the_installed_package_trains_and_evaluates_from_another_folder(installed, tmp_path):
    size = ["--num-train-scenes", "40", "--num-eval-scenes", "150"]
    run(installed, tmp_path, "python", "-m", "minigpt4.sample_world", "--out", "sample_world", *size)
    steps = ["run.max_epoch=1", "run.iters_per_epoch=2", "run.num_workers=0", "run.job_id=job"]
    run(installed, tmp_path, "minigpt4", "train", "--cfg-path", "sample_world_dataengine", "--options", *steps)
    job = tmp_path / "output/sample_world_dataengine/job"
    assert [json.loads(line)["step"] for line in (job / "log.txt").read_text().splitlines()]
    words = ["--cfg-path", "eval_configs/sample_world.yaml", "--ckpt", str(job / "checkpoint_0.pth")]
    said = run(installed, tmp_path, "minigpt4", "eval", *words, "--dataset", "seed", "--max_new_tokens", "2")
    assert "seed: " in said
    assert (tmp_path / "evaluation_results/report.html").is_file()
    files = ["--annotation-file", "sample_world/evaluation_dataset/seed/SEED-Bench-image.json"]
    files += ["--result-file", "evaluation_results/seed.jsonl"]
    assert "Total accuracy: " in run(installed, tmp_path, "minigpt4", "convert", "seed", *files)
