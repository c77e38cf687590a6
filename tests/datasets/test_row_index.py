import errno
import importlib
import json
import logging
import multiprocessing
import os
import pickle
import random
import resource
import sys

import pytest
from filelock import FileLock
from PIL import Image

from minigpt4.common import locks
from minigpt4.datasets import row_index

NUM_ROWS = 2000


@pytest.fixture
def gqa(tmp_path, build, monkeypatch, caplog):
    """Return a function that builds GQA of 2,000 rows over two pictures, which is taken for a large file."""
    monkeypatch.setattr(row_index, "SMALLEST", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    caplog.set_level(logging.INFO)
    (tmp_path / "images").mkdir()
    for name in ("0.jpg", "1.jpg"):
        Image.new("RGB", (5, 4)).save(tmp_path / "images" / name)
    rows = [{"image": f"{n % 2}.jpg", "question": f"Q{n} é?", "answer": "a"} for n in range(NUM_ROWS)]
    rows[7] = {"image": "0.jpg", "question": 7, "answer": "a"}
    (tmp_path / "a.json").write_text(json.dumps(rows))
    storage = {"annotations": {"train": {"storage": f"{tmp_path}/a.json"}}, "images": {"storage": f"{tmp_path}/images"}}
    return lambda: build("gqa", storage)


def num_scans(caplog):
    return caplog.text.count("finding its rows, once")


def indexes(folder):
    return sorted(path.name for path in folder.glob("*.index"))


def questions(dataset, *rows):
    return [dataset.row(row)["question"] for row in rows]


def test_a_large_file_is_scanned_once(gqa, tmp_path, caplog):
    first, second = gqa(), gqa()
    assert num_scans(caplog) == 1
    assert len(indexes(tmp_path)) == 1
    assert not (tmp_path / "cache").exists()
    for dataset in (first, second):
        assert (len(dataset), dataset.report.num_bad) == (NUM_ROWS, 1)
        assert questions(dataset, 0, 6, 1999) == ["Q0 é?", "Q6 é?", "Q1999 é?"]
        assert dataset.report.bad == [f"{tmp_path}/a.json: record 8: 'question' should be a text, not 7"]


def test_a_small_file_gets_no_index(gqa, tmp_path, monkeypatch):
    monkeypatch.setattr(row_index, "SMALLEST", 1 << 22)
    gqa()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "images"]


def test_an_annotation_that_changes_is_scanned_again(gqa, tmp_path, caplog):
    gqa()
    rows = [{"image": "0.jpg", "question": "new?", "answer": "a"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert questions(gqa(), 0) == ["new?"]
    os.utime(tmp_path / "a.json", ns=(1, 1))  # the same size at another time
    assert len(gqa()) == 1
    assert num_scans(caplog) == 3
    assert len(indexes(tmp_path)) == 1


OLD_INDEX = b"minigpt4 rows\0\0"
"""How an index of an earlier version begins."""


@pytest.mark.parametrize("damage", [b"", b"no index at all", OLD_INDEX, None])
def test_a_damaged_index_is_written_again(gqa, tmp_path, caplog, damage):
    gqa()
    index = tmp_path / indexes(tmp_path)[0]
    whole = index.read_bytes()
    rest = whole[len(OLD_INDEX) :] if damage == OLD_INDEX else b""
    index.write_bytes(whole[:-100] if damage is None else damage + rest)
    assert questions(gqa(), 1999) == ["Q1999 é?"]
    assert num_scans(caplog) == 2


def test_an_image_that_goes_is_noticed_although_the_index_stays(gqa, tmp_path, caplog):
    gqa()
    (tmp_path / "images" / "1.jpg").unlink()
    report = gqa().report
    assert (report.num_missing, report.missing) == (NUM_ROWS // 2 - 1, [f"{tmp_path}/images/1.jpg"])  # row 7 is bad
    assert num_scans(caplog) == 1


def test_a_read_only_folder_has_its_index_in_the_cache_folder(gqa, tmp_path, caplog):
    gqa()
    (index,) = indexes(tmp_path)
    (tmp_path / index).unlink()
    (tmp_path / f"{index}.lock").unlink()
    (tmp_path / f"{index}.lock").mkdir()  # nobody can write it, not even root
    gqa()
    assert questions(gqa(), 3) == ["Q3 é?"]
    assert (num_scans(caplog), len(indexes(tmp_path)), len(indexes(tmp_path / "cache" / "minigpt4"))) == (2, 0, 1)


def test_a_dataset_travels_to_another_process_as_the_path_of_its_index(gqa):
    data = pickle.dumps(gqa())
    assert len(data) < 4000  # the arrays have 24 bytes a row: 48,000
    assert questions(pickle.loads(data), 1998) == ["Q1998 é?"]


def build_and_count(gqa, start, counts):
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("minigpt4").addHandler(handler)
    start.wait()
    counts.put((len(gqa()), sum("finding its rows" in line for line in lines)))


def test_one_process_scans_the_file_and_the_others_wait(gqa):
    context = multiprocessing.get_context("fork")
    start, counts = context.Event(), context.Queue()
    processes = [context.Process(target=build_and_count, args=(gqa, start, counts)) for _ in range(3)]
    for process in processes:
        process.start()
    start.set()
    found = [counts.get(timeout=300) for _ in processes]
    for process in processes:
        process.join()
    assert [length for length, _ in found] == [NUM_ROWS] * 3
    assert sum(scans for _, scans in found) == 1


MODULE = """
from minigpt4.datasets.base_builder import BaseDatasetBuilder
from minigpt4.datasets.vqa import GQADataset

class Mine(GQADataset):
    def rows_of(self, record):
        return [{**record, "question": "%s"}]

class MineBuilder(BaseDatasetBuilder):
    train_dataset_cls = Mine
"""


def test_code_that_changes_scans_the_file_again(gqa, tmp_path, build, caplog, monkeypatch):
    gqa()
    monkeypatch.syspath_prepend(tmp_path)
    info = {"annotations": {"train": {"storage": f"{tmp_path}/a.json"}}, "images": {"storage": f"{tmp_path}/images"}}
    for text in ("one", "two, longer", "two, longer"):
        (tmp_path / "mine.py").write_text(MODULE % text)
        sys.modules.pop("mine", None)
        importlib.invalidate_caches()
        dataset = build(importlib.import_module("mine").MineBuilder, info)
        assert questions(dataset, 0) == [text]
    assert num_scans(caplog) == 3
    sys.modules.pop("mine")


def test_datasets_that_find_the_same_rows_share_an_index(recorded_dataset, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(row_index, "SMALLEST", 0)
    monkeypatch.setattr(
        row_index, "_index_files", lambda path, key: [f"{tmp_path}/{path.replace('/', '-')}.{key}.index"]
    )
    caplog.set_level(logging.INFO)
    for name, scans in {"refcoco": 1, "invrefcoco": 1, "engine_mc": 2, "engine_mcp": 2, "engine_da": 3}.items():
        recorded_dataset(name).get(0, random.Random(0))
        assert num_scans(caplog) == scans, name


def test_the_log_names_a_lock_that_another_process_keeps_and_the_scan_does_without_it(
    gqa, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(locks, "FIRST_LINE", 0.5)
    monkeypatch.setattr(locks, "NO_SIGN", 3.0)
    gqa()
    (index,) = indexes(tmp_path)
    (tmp_path / index).unlink()
    caplog.clear()
    with FileLock(f"{tmp_path}/{index}.lock"):
        assert questions(gqa(), 3) == ["Q3 é?"]
    first, second = [record.getMessage() for record in caplog.records if ".lock" in record.getMessage()]
    assert first == f"{tmp_path}/a.json: another process writes its index ({index}.lock); waiting"
    assert second.endswith("; continuing without it")
    assert (len(indexes(tmp_path)), len(indexes(tmp_path / "cache" / "minigpt4"))) == (0, 1)


def test_nobody_waits_for_a_lock_that_the_file_system_refuses(gqa, tmp_path, caplog, monkeypatch):
    """As on file servers that answer ENOLCK."""

    def refuse(*args, **kwargs):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert questions(gqa(), 3) == ["Q3 é?"]
    assert "no folder can hold its index; it is scanned at every start" in caplog.text


def test_half_an_index_that_a_killed_process_left_is_removed(gqa, tmp_path):
    gqa()
    (index,) = indexes(tmp_path)
    (tmp_path / index).unlink()
    (tmp_path / f"{index}.abc.part").write_bytes(b"half")
    gqa()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", index, f"{index}.lock", "images"]


def test_an_index_that_does_not_fit_on_the_disk_is_left_out_with_a_warning(gqa, tmp_path, caplog):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        assert questions(gqa(), 3) == ["Q3 é?"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ".index cannot be written: File too large (needs " in caplog.text
    assert not list(tmp_path.glob("*.part")) and not indexes(tmp_path)
