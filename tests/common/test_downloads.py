"""Downloads: one for each machine, and an error within seconds when no server answers."""

import contextlib
import http.server
import logging
import socket
import threading
import time

import pytest

from minigpt4.common import downloads, locks
from minigpt4.common.downloads import UnreachableError, answers, download_once, from_hub, is_hub_id
from minigpt4.conversation.tokenizer import load_tokenizer
from minigpt4.models.vision.eva import fetch
from tests.runners.tiny import ASSETS


@pytest.fixture
def silent(monkeypatch):
    """The address of a server that takes connections and never answers."""
    monkeypatch.setattr(downloads, "PATIENCE", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Return a function that sets the address of the hub, whose cache is empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return lambda address: monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)


def cached(tmp_path, name, content):
    """Put a file of nobody/model into the hub's cache."""
    folder = tmp_path / "cache" / "models--nobody--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / name).write_bytes(content)


REASON = (
    r"model\.llama_model: cannot reach the hub for nobody/model \(http://127.0.0.1:\d+\), and its cache does not hold "
    r"it; download it elsewhere and set model\.llama_model to its folder \(docs/data\.md\)"
)


def test_a_hub_that_never_answers_is_an_error_with_the_local_alternative(silent, hub):
    hub(silent)
    with pytest.raises(UnreachableError, match=REASON):
        load_tokenizer("nobody/model")


def test_a_hub_whose_connections_are_refused_is_an_error_with_the_local_alternative(hub, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    hub(f"http://127.0.0.1:{port}")
    with pytest.raises(UnreachableError, match=REASON):
        load_tokenizer("nobody/model")


def test_without_a_network_the_files_in_the_cache_are_used(silent, hub, tmp_path):
    hub(silent)
    cached(tmp_path, "tokenizer.model", (ASSETS / "llama_tiny" / "tokenizer.model").read_bytes())
    assert load_tokenizer("nobody/model").bos_id == 1


def test_without_a_network_a_cache_with_tokenizer_json_alone_is_a_repository_without_tokenizer_model(
    silent, hub, tmp_path
):
    hub(silent)
    cached(tmp_path, "tokenizer.json", b"no tokenizer")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        load_tokenizer("nobody/model")


def test_an_error_of_a_hub_that_answers_is_the_callers(hub, served):
    hub(served({}))

    def fail(local_only):
        assert not local_only
        raise OSError("gated")

    with pytest.raises(OSError, match="gated"):
        from_hub("model.llama_model", "nobody/model", fail)


@pytest.mark.parametrize(
    ("name", "expected"), [("a/b", True), ("./a", False), ("/a", False), ("a", False), ("~/a", False)]
)
def test_a_hub_id_has_an_owner_and_a_repository(name, expected):
    assert is_hub_id(name) == expected


@pytest.fixture
def served(monkeypatch):
    """Return a function that serves files by path; a length may announce more than comes."""
    monkeypatch.setattr(downloads, "PATIENCE", 120.0)  # the server shares the cores of this machine
    with contextlib.ExitStack() as stack:

        def serve(files, announced=None):
            class Handler(http.server.BaseHTTPRequestHandler):
                def do_GET(self):
                    requests.append(self.path)
                    content = files.get(self.path)
                    self.send_response(404 if content is None else 200)
                    self.send_header("Content-Length", str(announced or len(content or b"")))
                    self.end_headers()
                    self.wfile.write(content or b"")

                def do_HEAD(self):
                    self.send_response(404)
                    self.end_headers()

                def log_message(self, *args):
                    pass

            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            return f"http://127.0.0.1:{server.server_port}"

        requests = []
        serve.requests = requests
        yield serve


def test_a_server_that_answers_anything_is_reached(served):
    assert answers(served({}))


def test_a_file_is_downloaded_once_and_nothing_lies_beside_it(served, tmp_path):
    address = served({"/x.pth": b"weights"})
    path = tmp_path / "new" / "x.pth"
    for _ in range(2):
        download_once(f"{address}/x.pth", path)
    assert path.read_bytes() == b"weights"
    assert served.requests == ["/x.pth"]
    assert sorted(file.name for file in path.parent.iterdir()) in (["x.pth"], ["x.pth", "x.pth.lock"])


def test_half_a_file_is_an_error_and_leaves_nothing(served, tmp_path):
    address = served({"/x.pth": b"weights"}, announced=100)
    with pytest.raises(OSError, match="7 bytes came of 100"):
        download_once(f"{address}/x.pth", tmp_path / "x.pth")
    assert not list(tmp_path.glob("x.pth*.part")) and not (tmp_path / "x.pth").exists()


def test_weights_at_a_server_that_never_answers_are_an_error_with_the_local_alternative(silent, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    advice = "download it elsewhere and set model.vit_ckpt to the file"
    with pytest.raises(ValueError, match=rf"model\.vit_ckpt: cannot download {silent}/x\.pth: .*timed out; {advice}"):
        fetch(f"{silent}/x.pth")


def test_a_download_by_another_process_is_waited_for_while_it_grows(served, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "FIRST_LINE", 0.1)
    monkeypatch.setattr(locks, "NO_SIGN", 3.0)
    caplog.set_level(logging.INFO)
    path = tmp_path / "x.pth"
    lock = locks.FileLock(f"{path}.lock", thread_local=False)
    lock.acquire()

    def download():
        part = tmp_path / "x.pth.abc.part"
        for _ in range(25):  # for longer than NO_SIGN, and often in this time
            with part.open("ab") as file:
                file.write(b"12")
            time.sleep(0.2)
        part.rename(path)
        lock.release()

    other = threading.Thread(target=download)
    other.start()
    download_once(served({}) + "/x.pth", path)
    other.join()
    assert path.read_bytes() == b"12" * 25 and served.requests == []
    assert f"{path}: another process downloads it (x.pth.lock); waiting" in caplog.text
