"""Damaged files of every kind through the check and the readers: errors that name the file, and nothing else."""

import functools
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from minigpt4.api import open_picture
from minigpt4.common.config import Config
from minigpt4.common.registry import registry
from minigpt4.datasets.images import read_image
from minigpt4.evaluation.evaluator import prepare
from minigpt4.preflight.images import check_images
from minigpt4.preflight.preflight import run_preflight
from minigpt4.sample_world.world import WorldSize, write_world
from tests.fuzz.mutations import mutate

SECONDS = 120
"""An input that takes longer counts as a hang."""
NUM_QUICK, NUM_SLOW = 100, 2000
NUM_FETCHED = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Iterator[Path]:
    """Yield a small sample world below the working directory, since its YAML files have relative paths."""
    folder = tmp_path_factory.mktemp("fuzz").resolve()
    before = os.getcwd()
    os.chdir(folder)
    write_world(Path("world"), WorldSize(num_train_scenes=40, num_eval_scenes=150), seed=1)
    config = OmegaConf.load("world/train_configs/sample_world_all.yaml")
    config.datasets.mine = {
        "type": "custom",
        "build_info": {"ann_path": "world/mine.jsonl", "image_path": "world/train_dataset/textcaps"},
    }
    rows = '{"question": "What is it?", "answer": "a ball"}\n{"conversations": [{"from": "human", "value": "Who?"}, '
    Path("world/mine.jsonl").write_text(rows + '{"from": "gpt", "value": "me"}]}\n')
    config.datasets.cc_sbu = {"build_info": {"storage": "world/train_dataset/cc_sbu_dataset/{00000..00001}.tar"}}
    OmegaConf.save(config, "world/train_configs/sample_world_all.yaml")
    yield folder / "world"
    os.chdir(before)


@contextmanager
def at_most(seconds: int, what: str) -> Iterator[None]:
    """Raise TimeoutError when the body takes longer."""

    def stop(number: int, frame: object) -> None:
        raise TimeoutError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def damaged(path: Path, rng: random.Random, *, kind: str) -> Iterator[None]:
    """Keep a damaged copy in the place of a file while the body runs."""
    content = path.read_bytes()
    path.write_bytes(mutate(content, rng, kind=kind))
    try:
        yield
    finally:
        path.write_bytes(content)
        for left in path.parent.glob(f"{path.name}.*"):  # an index of the damaged file
            left.unlink()


def train_config(world: Path, names: list[str]) -> Config:
    cfg = Config.load(
        world / "train_configs/sample_world_all.yaml", [f"run.output_dir={world / 'out'}", "run.num_workers=1"]
    )
    cfg.datasets_cfg = OmegaConf.create({name: cfg.datasets_cfg[name] for name in names})
    return cfg


@functools.cache
def readers(world: Path) -> dict[Path, list[str]]:
    """Return the training datasets that read each file."""
    cfg = Config.load(world / "train_configs/sample_world_all.yaml")
    found: dict[Path, list[str]] = {}
    for name, body in cfg.datasets_cfg.items():
        builder = registry.get_builder_class(body.type or str(name))(body, name=str(name))
        for place in builder.data_paths():
            if not place.folder and place.find():
                found.setdefault(Path(str(place.find())).resolve(), []).append(str(name))
    return found


def try_training_file(world: Path, path: Path, rng: random.Random) -> None:
    """Check and fetch what reads a file."""
    cfg = train_config(world, readers(world)[path][:2])
    report = run_preflight(cfg)
    if rng.random() < 0.3:
        check_images(report, cfg.run_cfg)
    names = (path.name, *(one.name for one in report.datasets))
    assert not report.problems or any(name in report.summary() for name in names)
    assert report.table() and report.summary()
    for name, splits in report.built().items():
        dataset = splits["train"]
        count = 50 if dataset.is_stream else len(dataset)
        for row in rng.sample(range(count), min(NUM_FETCHED, count)):
            try:
                dataset.get(row, random.Random(row))
            except ValueError as error:
                assert f"{name}[{row}]" in str(error)


def try_evaluation_file(world: Path, path: Path, rng: random.Random) -> None:
    """Prepare every benchmark that reads a file, and open its pictures."""
    cfg = Config.load(world / "eval_configs/sample_world.yaml")
    folder = path.relative_to(world / "evaluation_dataset").parts[0]
    for name, entry in cfg.evaluation_datasets_cfg.items():
        if f"/{folder}" not in str(entry.eval_file_path):
            continue
        for benchmark in registry.get_benchmark_class(str(name)).build(entry, name=str(name)):
            try:
                prepared = prepare([benchmark], save_path=world / "results")
            except ValueError as error:
                assert benchmark.name in str(error)
                continue
            for question in prepared[0].questions[:NUM_FETCHED]:
                try:
                    benchmark.open_image(question)
                except ValueError as error:
                    assert f"{benchmark.name}[{question.id}]" in str(error)


def try_yaml(world: Path, path: Path, rng: random.Random) -> None:
    """Load and check a YAML file."""
    try:
        cfg = Config.load(path)
    except ValueError as error:
        assert path.name in str(error)
        return
    report = run_preflight(cfg)
    assert report.table() and report.summary()


def try_picture(world: Path, path: Path, rng: random.Random) -> None:
    """Read a picture in the ways of training and of questions."""
    for read in (read_image, open_picture):
        try:
            read(str(path))
        except ValueError as error:
            assert path.name in str(error)


def files_of(world: Path, kind: str) -> tuple[list[Path], Callable[[Path, Path, random.Random], None]]:
    """Return the files of a kind, with the function that tries one."""
    train, evaluation = world / "train_dataset", world / "evaluation_dataset"
    if kind == "yaml":
        return [*world.glob("*_configs/*.yaml")], try_yaml
    if kind == "json":
        return [
            path for path in (*train.rglob("*.json"), *train.rglob("*.p")) if path in readers(world)
        ], try_training_file
    if kind == "jsonl":
        return [world / "mine.jsonl"], try_training_file
    if kind == "tar":
        return [path for path in train.rglob("*.tar") if path in readers(world)], try_training_file
    if kind == "evaluation":
        return [
            path for suffix in ("json", "jsonl", "tsv") for path in evaluation.rglob(f"*.{suffix}")
        ], try_evaluation_file
    pictures = [*train.rglob("*.jpg"), *evaluation.rglob("*.png"), *(evaluation / "SEED-Bench-image").iterdir()]
    return sorted(pictures)[:200], try_picture


def fuzz(world: Path, kind: str, *, seeds: range) -> None:
    """Damage one file a seed and read it. Raises: AssertionError that names seed and file."""
    files, read = files_of(world, kind)
    for seed in seeds:
        rng = random.Random(f"{kind} {seed}")
        path = rng.choice(sorted(files))
        with damaged(path, rng, kind=path.suffix[1:]):
            try:
                with at_most(SECONDS, str(path)):
                    read(world, path, rng)
            except Exception as error:
                shutil.copyfile(path, world.parent / f"failed_{kind}_{seed}")
                raise AssertionError(
                    f"seed {seed}: {path.relative_to(world)}: {type(error).__name__}: {error}"
                ) from error


KINDS = ("yaml", "json", "jsonl", "tar", "evaluation", "picture")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gives_an_error_that_names_it_and_nothing_else(world, kind):
    fuzz(world, kind, seeds=range(NUM_QUICK // len(KINDS) + 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_damaged_file_of_many_hangs_or_ends_in_a_traceback(world, kind):
    fuzz(world, kind, seeds=range(NUM_QUICK, NUM_QUICK + NUM_SLOW // len(KINDS) + 1))
