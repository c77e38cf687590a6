"""Plugins: modules outside this package that register datasets, benchmarks, models and other named parts.

`run.plugins` names modules of the user. Installed packages name theirs under the entry point group `minigpt4.plugins`.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path

from minigpt4.common.registry import did_you_mean, registry

logger = logging.getLogger(__name__)
GROUP = "minigpt4.plugins"
LIBRARIES = (str(Path(__file__).parents[1]), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))


def load_plugins(names: Sequence[str], *, folder: Path | None = None) -> None:
    """Import modules that are installed, in the working folder or in `folder` (of the YAML file), each once.

    Both folders go to the end of Python's search path, so no file there hides a library. Data workers inherit the path.
    Raises: ValueError with a line for each module that is missing or raises.
    """
    if not names:
        return
    folders = [Path.cwd(), *([folder.resolve()] if folder else [])]
    sys.path += [path for path in map(str, folders) if path not in sys.path]
    importlib.invalidate_caches()  # a file may be newer than the listing of its folder
    wrong = [f"run.plugins: {problem}" for name in names if (problem := _wrong_plugin(name, folders))]
    if wrong:
        raise ValueError("\n".join(wrong))


@functools.cache
def load_installed() -> Sequence[str]:
    """Import the plugins of installed packages; return and log a line for each that raises."""
    wrong = []
    for point in entry_points(group=GROUP):
        if problem := _import(point.module):
            wrong.append(f"the plugin {point.name} of the package {point.dist.name if point.dist else '?'}: {problem}")
            logger.warning("%s", wrong[-1])
    return wrong


def _wrong_plugin(name: str, folders: Sequence[Path]) -> str | None:
    """Import a module that the user names; return why it cannot be used, or None."""
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
        near = did_you_mean(Path(name).stem, [Path(name).stem]) if name.endswith(".py") else ""
        return f"expected the name of a module, got {name!r}{near}"
    if name in sys.modules:
        return None
    before = registry.added()
    problem = _import(name)
    if problem is None and registry.added() == before and os.environ.get("RANK", "0") == "0":
        logger.warning("run.plugins: %s (%s) registers nothing", name, sys.modules[name].__file__)
    if problem == "":
        where = " or ".join(dict.fromkeys(map(str, folders)))
        return f"no module '{name}' in {where}, nor installed{did_you_mean(name, _modules_in(folders))}"
    return problem


def _import(name: str) -> str | None:
    """Import a module; return one line about what it raises and where, "" if it does not exist, else None."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return ""
        return _raised(name, error)
    except (Exception, SystemExit) as error:
        return _raised(name, error)
    return None


def _raised(name: str, error: BaseException) -> str:
    """Return what a module raised, with the last line of the traceback outside of libraries."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    file, line = (own or frames)[-1].filename, (own or frames)[-1].lineno
    if isinstance(error, SyntaxError):
        file, line = error.filename or file, error.lineno
    said = (str(error).splitlines() or ["no message"])[0]
    return f"the module {name} raises at {file}:{line}: {type(error).__name__}: {said}"


def _modules_in(folders: Sequence[Path]) -> Iterator[str]:
    for folder in folders:
        for path in folder.iterdir():
            if path.suffix == ".py" or (path / "__init__.py").is_file():
                yield path.stem
