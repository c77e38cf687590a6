"""Processes for tests, forked from a server that has imported the package: one starts in milliseconds.

pytest's own process cannot be forked: PyTorch's autograd does not work after a fork. The server computes nothing.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

import torch
from torch import multiprocessing as torch_multiprocessing

ROOT = Path(__file__).parents[1]
SECONDS = 600
"""After which a process is taken to hang, on a machine that is busy with other work."""
IMPORTED = (
    "pytest",
    "matplotlib.figure",
    "peft",
    "timm",
    "torch.distributed.fsdp",
    "torch.nn.parallel",
    "transformers.models.llama.modeling_llama",
    "minigpt4.api",
    "minigpt4.cli.evaluation",
    "minigpt4.cli.training",
    "minigpt4.datasets.builders",
    "minigpt4.models",
)
_running = set()


def environment():
    """Return the variables of a process that computes on one thread, without a network."""
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    alone = {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "HF_HUB_OFFLINE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return {**os.environ, **one_thread, **alone}


def _serving():
    """Start the server, which lives as long as this process; return the context of its processes."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    with mock.patch.dict(os.environ, environment()):
        forkserver.ensure_running()
    return context


def on_ranks(function, args, *, num_ranks=2):
    """Call `function(rank, *args)` in a process for each rank. Raises: the first exception of one of them."""
    _serving()
    torch_multiprocessing.start_processes(function, args=args, nprocs=num_ranks, start_method="forkserver")


class Script:
    """A process that runs a script of the repository with arguments, in a process group that it leads."""

    def __init__(self, words, *, cwd, stdout, stderr=None, variables=None):
        self.words, self._files = words, (Path(stdout), Path(stderr or stdout))
        script, *arguments = map(str, words)
        settings = (str(cwd), str(stdout), str(stderr or stdout), {**environment(), **(variables or {})})
        self._process = _serving().Process(target=_run, args=(script, arguments, *settings))
        self._process.start()
        _running.add(self)

    @property
    def pid(self):
        return self._process.pid

    def poll(self):
        """Return the exit code, below 0 for a signal, or None while the process runs."""
        return self._process.exitcode

    def wait(self, timeout=SECONDS):
        """Return the exit code. Raises: TimeoutExpired."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("a script", timeout)
        _running.discard(self)
        return self.poll()

    def kill(self):
        """Kill the process and those that it started."""
        os.killpg(self.pid, signal.SIGKILL)

    def finished(self):
        """Wait; return what `subprocess.run` would."""
        code = self.wait()
        return subprocess.CompletedProcess(
            self.words, code, *(file.read_text(encoding="utf-8") for file in self._files)
        )


def run_script(words, *, cwd):
    """Run a script to its end, as `python SCRIPT ARGUMENTS` does; return what `subprocess.run` would."""
    with tempfile.TemporaryDirectory() as folder:
        return Script(words, cwd=cwd, stdout=f"{folder}/stdout", stderr=f"{folder}/stderr").finished()


def start_ranks(words, folder, *, cwd, num_ranks=2):
    """Start a script on ranks that meet by a file in a folder, without torchrun; the last words are `--options`."""
    sizes = {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
    return [
        Script(
            [*words, f"run.dist_url=file://{folder}/meeting"],
            cwd=cwd,
            stdout=f"{folder}/stdout{rank}",
            stderr=f"{folder}/stderr{rank}",
            variables={"RANK": str(rank), "LOCAL_RANK": str(rank), **sizes},
        )
        for rank in range(num_ranks)
    ]


def run_ranks(words, *, cwd, num_ranks=2):
    """Run a script on ranks to its end; return what rank 0's `subprocess.run` would. All ranks must end alike."""
    with tempfile.TemporaryDirectory() as folder:
        main, *others = [rank.finished() for rank in start_ranks(words, folder, cwd=cwd, num_ranks=num_ranks)]
    for done in others:
        assert done.returncode == main.returncode, done.stderr
    return main


def _run(script, arguments, cwd, stdout, stderr, variables):
    os.setsid()
    for path, stream in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.chdir(cwd)
    os.environ.clear()  # those of the server are from its start
    os.environ.update(variables)
    multiprocessing.set_start_method("fork", force=True)  # of data workers, as in a process that nobody forked
    torch.set_num_threads(1)
    sys.argv[:] = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    runpy.run_path(script, run_name="__main__")


@atexit.register
def _end_all():
    """Kill what a failed test left, which multiprocessing would wait for."""
    for script in _running:
        with contextlib.suppress(ProcessLookupError):
            script.kill()
