"""Files on a full disk: a limit on the size of files stands in for one."""

import errno
import os
import resource
import subprocess
import sys

import pytest
import torch

from minigpt4.common import files
from minigpt4.common.checkpoint import write_checkpoint
from minigpt4.common.files import NotWrittenError, append_text, no_room, write_text

LIMIT = 20_000


@pytest.fixture
def small_files():
    """Files may have 20,000 bytes; Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_text_comes_back_and_leaves_nothing_beside_it(tmp_path):
    write_text(tmp_path / "new" / "a.json", "é\ud800", errors="replace")
    assert (tmp_path / "new" / "a.json").read_bytes() == "é?".encode()
    assert os.listdir(tmp_path / "new") == ["a.json"]


def test_a_checkpoint_that_does_not_fit_is_named_with_the_bytes(tmp_path, small_files):
    path = tmp_path / "checkpoint_0.pth"
    with pytest.raises(NotWrittenError) as refused:
        write_checkpoint(path, {"model": {"w": torch.zeros(250_000)}, "epoch": 1})
    said = str(refused.value)
    assert said.startswith(f"{path} cannot be written: File too large (needs 1.0 MB, ")
    assert said.endswith("MB are free; a file may have 0.0200 MB, see `ulimit -f`)")
    assert os.listdir(tmp_path) == []


def test_a_text_that_does_not_fit_leaves_the_one_before(tmp_path, small_files):
    write_text(tmp_path / "results.json", "{}")
    with pytest.raises(NotWrittenError, match=r"results\.json cannot be written: File too large \(needs 0\.1 MB, "):
        write_text(tmp_path / "results.json", "x" * 100_000)
    assert (tmp_path / "results.json").read_text() == "{}"
    assert os.listdir(tmp_path) == ["results.json"]


def test_lines_that_do_not_fit_are_named_once_and_closing_raises_nothing_more(tmp_path, small_files):
    path = tmp_path / "log.txt"
    with path.open("w") as file, pytest.raises(NotWrittenError, match=r"log\.txt cannot be written: File too large"):
        for _ in range(10):
            append_text(file, path, "x" * 9_000)


def test_a_device_without_space_says_so():
    with (
        pytest.raises(NotWrittenError, match=r"^/dev/full cannot be written: No space left on device \(needs"),
        open("/dev/full", "w") as file,
    ):
        append_text(file, "/dev/full", "x" * 100)


def test_a_folder_that_is_a_file_is_named_without_bytes(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(NotWrittenError, match=r"a/b\.json cannot be written: (File exists|Not a directory)$"):
        write_text(tmp_path / "a" / "b.json", "x")


def test_what_a_writer_raises_for_another_reason_stays(tmp_path):
    with pytest.raises(ZeroDivisionError):
        files.write_whole(tmp_path / "a", lambda file: 1 / 0, num_bytes=lambda: 0)
    assert os.listdir(tmp_path) == []


def test_room_is_looked_for_before(tmp_path, small_files):
    assert no_room(tmp_path / "new" / "x.pth", LIMIT) is None
    assert "x.pth cannot be written: File too large (needs 0.0200 MB, " in no_room(tmp_path / "x.pth", LIMIT + 1)


def test_a_disk_that_is_too_small_is_found_before(tmp_path):
    problem = no_room(tmp_path / "x.pth", 1 << 60)
    assert f"x.pth cannot be written: {os.strerror(errno.ENOSPC)} (needs 1152921504606.8 MB, " in problem


def test_a_process_with_a_limit_on_files_gets_an_error_and_no_signal(tmp_path):
    program = "import sys; from minigpt4.common.files import write_text; write_text(sys.argv[1], 'x' * 100_000)"
    command = ["bash", "-c", f'ulimit -f 20; "{sys.executable}" -c "{program}" {tmp_path}/a']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        f"minigpt4.common.files.NotWrittenError: {tmp_path}/a cannot be written: File too large"
    )
