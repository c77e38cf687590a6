"""Config: library defaults under the user's YAML under `--options`, checked by name and type before building."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minigpt4.common import schema
from minigpt4.common.option_texts import lay_options, plain
from minigpt4.common.plugins import load_plugins
from minigpt4.common.ranges import wrong_text, wrong_together, wrong_values
from minigpt4.common.registry import did_you_mean, registry
from minigpt4.common.schema import SECTIONS, hints_of, inner_of
from minigpt4.common.shipped_configs import PACKAGE_DIR, find_config
from minigpt4.common.yaml_reader import number_of, read_yaml_file

MAX_SHOWN = 200
"""Characters of a wrong value that a message shows."""


class Config:
    """The options of one run, merged and checked.

    `run_cfg`, `model_cfg`, `datasets_cfg` and `evaluation_datasets_cfg` are OmegaConf mappings with the keys of
    `minigpt4/common/schema.py`. Raises: ValueError that lists every mistake of the file and of the options at once.
    """

    def __init__(self, args: Any) -> None:
        """Read `args.cfg_path`, a file or the name of a shipped one, and lay `args.options` over it.

        Options are "a.b=c" texts or "a.b" "c" pairs.
        """
        self._path = str(find_config(str(args.cfg_path)))
        self._unset: set[str] = set()  # where a null stands over a default of the library
        tree = read_yaml_file(Path(self._path))
        problems = lay_options(tree, getattr(args, "options", None) or ())
        user = _resolved(plain(tree, None), self._path)
        problems += [_no_such(f"{name}", SECTIONS) for name in user if name not in SECTIONS]
        self.run_cfg = _merge(schema.RunConfig, "run", [user.get("run")], problems, self._unset)
        try:
            load_plugins(self.run_cfg.plugins, folder=Path(self._path).parent)
        except ValueError as error:
            problems += str(error).splitlines()
        self.model_cfg, preprocess = self._merge_model(user, problems)
        layers = [preprocess, user.get("preprocess")]
        self.preprocess_cfg = _merge(schema.PreprocessConfig, "preprocess", layers, problems, self._unset)
        for processor in self.preprocess_cfg.vis_processor.values():
            if processor is not None and processor.image_size is None:
                processor.image_size = self.model_cfg.image_size
        self.datasets_cfg = self._merge_datasets(_named(user, "datasets", problems), problems)
        self.evaluation_datasets_cfg = self._merge_benchmarks(_named(user, "evaluation_datasets", problems), problems)
        self.check_values(problems)

    def check_values(self, problems: Sequence[str] = ()) -> None:
        """Compare all values with their ranges and choices; a command that changed some calls it again.

        Raises: ValueError that lists `problems` and every value that is wrong.
        """
        found = [
            *problems,
            *wrong_values(self.run_cfg, schema.RunConfig, "run"),
            *wrong_values(self.model_cfg, schema.ModelConfig, "model"),
            *wrong_values(self.preprocess_cfg, schema.PreprocessConfig, "preprocess"),
        ]
        for section, entries in (
            ("datasets", self.datasets_cfg),
            ("evaluation_datasets", self.evaluation_datasets_cfg),
        ):
            for name, body in entries.items():
                found += wrong_values(body, SECTIONS[section], f"{section}.{name!s}")
        found += wrong_together(self.model_cfg, self.datasets_cfg)
        if (splits := list(self.run_cfg.train_splits)) != ["train"]:
            found.append(f"run.train_splits: expected [train], the split that is trained on, got {splits}")
        if found:
            joined = "\n  ".join(["", *dict.fromkeys(found)]) if len(found) > 1 else f" {found[0]}"
            raise ValueError(f"{self._path}: these options are wrong:{joined}")

    @classmethod
    def load(cls, path: str | Path, options: Sequence[str] = ()) -> Config:
        """Return the config of a YAML file with options laid over it."""
        return cls(types.SimpleNamespace(cfg_path=str(path), options=list(options)))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain containers; what is unset inside a dataset or processor is left out."""
        return {
            "run": OmegaConf.to_container(self.run_cfg),
            "model": OmegaConf.to_container(self.model_cfg),
            "preprocess": _without_none(OmegaConf.to_container(self.preprocess_cfg), "preprocess", self._unset),
            "datasets": _without_none(OmegaConf.to_container(self.datasets_cfg), "datasets", self._unset),
            "evaluation_datasets": _without_none(
                OmegaConf.to_container(self.evaluation_datasets_cfg), "evaluation_datasets", self._unset
            ),
        }

    def _merge_model(self, user: dict[str, Any], problems: list[str]) -> tuple[DictConfig, Any]:
        section = user.get("model")
        arch = section.get("arch") if isinstance(section, Mapping) else None
        try:
            defaults = _model_defaults("minigpt_v2" if arch is None else str(arch))
        except ValueError as error:
            problems.append(f"model.arch: {error}")
            defaults = _model_defaults("minigpt_v2")
        layers = [defaults.get("model"), section]
        return _merge(schema.ModelConfig, "model", layers, problems, self._unset), defaults.get("preprocess")

    def _merge_datasets(self, section: dict[str, Any], problems: list[str]) -> DictConfig:
        merged = {}
        for name, body in section.items():
            builder_name = str((body.get("type") if isinstance(body, Mapping) else None) or name)
            try:
                builder = registry.get_builder_class(builder_name)
            except ValueError as error:
                problems.append(f"datasets.{name}: {error} (data of your own: type: custom)")
                continue
            defaults = _dataset_defaults(builder, builder_name)
            merged[name] = _merge(schema.DatasetConfig, f"datasets.{name}", [defaults, body], problems, self._unset)
            merged[name].pictures = merged[name].pictures or self.model_cfg.pictures
            for kind in ("vis_processor", "text_processor"):
                if merged[name][kind] is None:
                    merged[name][kind] = schema.ProcessorsConfig(train=self.preprocess_cfg[kind].train)
        return OmegaConf.create(merged)

    def _merge_benchmarks(self, section: dict[str, Any], problems: list[str]) -> DictConfig:
        merged = {}
        for name, body in section.items():
            path = f"evaluation_datasets.{name}"
            try:
                layers = [getattr(registry.get_benchmark_class(name), "DEFAULT_CONFIG", None), body]
            except ValueError:
                known = registry.list_benchmarks()
                problems.append(f"{path}: no such benchmark{did_you_mean(name, known)} (there are {', '.join(known)})")
                continue
            merged[name] = _merge(schema.EvaluationDatasetConfig, path, layers, problems, self._unset)
        for body in merged.values():
            body.pictures = body.pictures or self.model_cfg.pictures
        return OmegaConf.create(merged)


def _model_defaults(arch: str) -> dict[str, Any]:
    """Return the defaults of a model: its YAML in the package, or the one that its registered class names.

    Raises: ValueError when no such model is registered, or its YAML cannot be read.
    """
    known = {path.stem: path for path in (PACKAGE_DIR / "configs" / "models").glob("*.yaml")}
    if arch in known:  # found without importing the models, which takes seconds
        return _defaults(known[arch])
    model = registry.get_model_class(arch)
    return _defaults_of(model, getattr(model, "DEFAULT_CONFIG", None))


def _dataset_defaults(builder: Any, name: str) -> Any:
    """Return the defaults of a dataset: those under `datasets.NAME`, or all of a dictionary that lacks this section.

    Raises: ValueError when a YAML file lacks the section.
    """
    given = builder.DATASET_CONFIG_DICT.get("default")
    defaults = _defaults_of(builder, given)
    if isinstance(given, str) and name not in (defaults.get("datasets") or {}):
        raise ValueError(f"datasets.{name}: {given}, the file of its defaults, has no section datasets.{name}")
    return defaults["datasets"][name] if "datasets" in defaults else defaults


def _defaults_of(cls: Any, given: Any) -> dict[str, Any]:
    """Return the defaults of a class: a dictionary, or a YAML file beside its module, below minigpt4, or absolute."""
    if not isinstance(given, str):
        return dict(given or {})
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    beside = Path(file or "").parent / given
    return _defaults(beside if file and beside.is_file() else PACKAGE_DIR / given)


@cache
def _defaults(path: Path) -> dict[str, Any]:
    """Return what a YAML file of the library says."""
    return typing.cast(dict[str, Any], plain(read_yaml_file(path), None))


def _resolved(user: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the user's options with every ${a.b} replaced by what it names."""
    try:
        return typing.cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(user), resolve=True))
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: a ${{..}} leads back to itself, or options are nested too deeply") from error


def _named(user: dict[str, Any], name: str, problems: list[str]) -> dict[str, Any]:
    section = user.get(name) or {}
    if not isinstance(section, dict):
        problems.append(f"{name}: expected names with their options, got {_shown(section)}")
        return {}
    problems += [f"{name}: {wrong}" for key in section if (wrong := wrong_text(key))]
    return section


def _merge(cls: type, path: str, layers: Sequence[Any], problems: list[str], unset: set[str]) -> DictConfig:
    """Return the options of `cls` with the layers over its defaults, the last one on top."""
    node = OmegaConf.structured(cls)
    for layer in layers:
        _overlay(node, cls, layer, path, problems, unset)
    problems += [f"{path}.{key} is not set" for key in sorted(OmegaConf.missing_keys(node))]
    return node


def _overlay(node: DictConfig, cls: type, layer: Any, path: str, problems: list[str], unset: set[str]) -> None:
    """Write `layer` into `node`, and what does not fit into `problems`; OmegaConf alone stops at the first mistake."""
    if layer is None:
        return
    if not isinstance(layer, Mapping):
        problems.append(f"{path}: expected options, got {_shown(layer)}")
        return
    hints = hints_of(cls)
    known = [f.name for f in fields(cls)]
    for key, value in layer.items():
        if key not in known:
            problems.append(_no_such(f"{path}.{key}", known))
            continue
        inner = inner_of(hints[key])
        if inner is not None and value is not None:
            if node[key] is None:
                node[key] = OmegaConf.structured(inner)
            _overlay(node[key], inner, value, f"{path}.{key}", problems, unset)
            continue
        texts = list(_texts_of(value))
        if "???" in texts:
            problems.append(f"{path}.{key} is not set")
            continue
        if any("${" in text for text in texts):
            problems.append(f"{path}.{key}: got {_shown(value)}; ${{ is no part of a text here")
            continue
        rules = next(f.metadata for f in fields(cls) if f.name == key)
        if rules.get("kind") == "paths" and not _is_paths(value):
            problems.append(f"{path}.{key}: expected a path or a list of paths, got {_shown(value)}")
            continue
        if value is None and not OmegaConf.is_missing(node, key) and node[key] is not None:
            unset.add(f"{path}.{key}")
        try:
            node[key] = _converted(value, _leaves(hints[key]))
        except (OmegaConfBaseException, OverflowError, ValueError):
            problems.append(f"{path}.{key}: expected {_type_name(hints[key])}, got {_shown(value)}")


def _texts_of(value: Any) -> typing.Iterator[str]:
    """Yield the texts in a value, in its lists and dictionaries too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _texts_of(inner)


def _leaves(hint: Any) -> set[Any]:
    """Return the types that a hint is made of, without lists and unions."""
    inner = typing.get_args(hint)
    return set().union(*map(_leaves, inner)) if inner else {hint}


def _converted(value: Any, types_: set[Any]) -> Any:
    """Return a value in the type of its option where no doubt is possible: 1 as 1.0, "1e-5" in quotes as a number.

    Raises: ValueError for a number that is no flag.
    """
    if isinstance(value, list):
        return [_converted(element, types_) for element in value]
    if isinstance(value, str) and types_ & {int, float}:
        value = number_of(value)
    if float in types_ and type(value) is int:
        return float(value)
    if str in types_ and type(value) in (int, float):  # what a ${..} names
        return str(value)
    if bool in types_ and type(value) in (int, float):
        if value not in (0, 1):
            raise ValueError(f"{value} is no flag")
        return bool(value)
    return value


def _is_paths(value: Any) -> bool:
    """Return whether a value is null, a text or a list of texts."""
    return (
        value is None or isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}.."


def _no_such(path: str, known: typing.Iterable[str]) -> str:
    return f"{path}: no such option{did_you_mean(path.rpartition('.')[2], known, quote='')}"


def _type_name(hint: Any) -> str:
    names = [getattr(t, "__name__", str(t)) for t in (typing.get_args(hint) or (hint,))]
    if typing.get_origin(hint) in (list, dict):
        return str(hint)
    return " or ".join("null" if name == "NoneType" else name for name in names)


def _without_none(tree: Any, path: str, unset: set[str]) -> Any:
    """Return a tree without the values that are not set; a null that stands over a default stays."""
    if isinstance(tree, dict):
        inner = {key: (value, f"{path}.{key}") for key, value in tree.items()}
        return {k: _without_none(v, at, unset) for k, (v, at) in inner.items() if v is not None or at in unset}
    return tree
