"""Config: library defaults under the user's YAML under `--options`, checked by name and type before building."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minigpt4.common import schema
from minigpt4.common.registry import registry

PACKAGE_DIR = Path(__file__).resolve().parent.parent
SECTIONS: dict[str, type] = {
    "run": schema.RunConfig,
    "model": schema.ModelConfig,
    "preprocess": schema.PreprocessConfig,
    "datasets": schema.DatasetConfig,
    "evaluation_datasets": schema.EvaluationDatasetConfig,
}
NAMES = {"amp_dtype": ("auto", "bfloat16", "float16"), "strategy": ("ddp", "fsdp"), "compile": ("vit", "llm")}
"""The names that options of the run section take."""
NAMED_SECTIONS = ("datasets", "evaluation_datasets")


class Config:
    """The options of one run, merged and checked.

    `run_cfg`, `model_cfg`, `datasets_cfg` and `evaluation_datasets_cfg` are OmegaConf mappings with the keys of
    `minigpt4/common/schema.py`. Raises: ValueError that lists every mistake of the file and of the options at once.
    """

    def __init__(self, args: Any) -> None:
        """Read `args.cfg_path` and lay `args.options` ("a.b=c" or "a.b c" pairs) over it."""
        user = _read_user(Path(args.cfg_path), getattr(args, "options", None) or ())
        problems = [_no_such(f"{name}", SECTIONS) for name in user if name not in SECTIONS]
        self.run_cfg = _merge(schema.RunConfig, "run", [user.get("run")], problems)
        self.model_cfg, preprocess = self._merge_model(user, problems)
        layers = [preprocess, user.get("preprocess")]
        self.preprocess_cfg = _merge(schema.PreprocessConfig, "preprocess", layers, problems)
        for processor in self.preprocess_cfg.vis_processor.values():
            if processor is not None and processor.image_size is None:
                processor.image_size = self.model_cfg.image_size
        self.datasets_cfg = self._merge_datasets(_named(user, "datasets", problems), problems)
        self.evaluation_datasets_cfg = self._merge_benchmarks(_named(user, "evaluation_datasets", problems), problems)
        problems += _wrong_values(self.run_cfg)
        if problems:
            raise ValueError(f"{args.cfg_path}: " + "\n  ".join(["these options are wrong", *problems]))

    @classmethod
    def load(cls, path: str | Path, options: Sequence[str] = ()) -> Config:
        """Return the config of a YAML file with options laid over it."""
        return cls(types.SimpleNamespace(cfg_path=str(path), options=list(options)))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain containers; what is unset inside a dataset or processor is left out."""
        return {
            "run": OmegaConf.to_container(self.run_cfg),
            "model": OmegaConf.to_container(self.model_cfg),
            "preprocess": _without_none(OmegaConf.to_container(self.preprocess_cfg)),
            "datasets": _without_none(OmegaConf.to_container(self.datasets_cfg)),
            "evaluation_datasets": _without_none(OmegaConf.to_container(self.evaluation_datasets_cfg)),
        }

    def _merge_model(self, user: dict[str, Any], problems: list[str]) -> tuple[DictConfig, Any]:
        section = user.get("model")
        arch = section.get("arch", "minigpt_v2") if isinstance(section, Mapping) else "minigpt_v2"
        known = {path.stem: path for path in (PACKAGE_DIR / "configs" / "models").glob("*.yaml")}
        if arch not in known:
            problems.append(f"model.arch: no model is registered as '{arch}'{_near(arch, known)}")
            arch = "minigpt_v2"
        defaults = _read_yaml(known[arch])
        return _merge(schema.ModelConfig, "model", [defaults.get("model"), section], problems), defaults["preprocess"]

    def _merge_datasets(self, section: dict[str, Any], problems: list[str]) -> DictConfig:
        merged = {}
        for name, body in section.items():
            builder_name = (body.get("type") if isinstance(body, Mapping) else None) or name
            try:
                builder = registry.get_builder_class(builder_name)
            except ValueError as error:
                problems.append(f"datasets.{name}: {error} (data of your own: type: custom)")
                continue
            defaults = _read_yaml(PACKAGE_DIR / builder.DATASET_CONFIG_DICT["default"])["datasets"][builder_name]
            merged[name] = _merge(schema.DatasetConfig, f"datasets.{name}", [defaults, body], problems)
            for kind in ("vis_processor", "text_processor"):
                if merged[name][kind] is None:
                    merged[name][kind] = schema.ProcessorsConfig(train=self.preprocess_cfg[kind].train)
        return OmegaConf.create(merged)

    def _merge_benchmarks(self, section: dict[str, Any], problems: list[str]) -> DictConfig:
        known = registry.list_benchmarks() if section else []
        problems += [
            f"evaluation_datasets.{name}: no such benchmark{_near(name, known)} (there are {', '.join(known)})"
            for name in section
            if name not in known
        ]
        of = schema.EvaluationDatasetConfig
        merged = {k: _merge(of, f"evaluation_datasets.{k}", [v], problems) for k, v in section.items() if k in known}
        return OmegaConf.create(merged)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} is not the YAML that it should be: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected sections (model, datasets, run), got {type(content).__name__}")
    return typing.cast(dict[str, Any], content)


def _read_user(path: Path, options: Sequence[str]) -> dict[str, Any]:
    try:
        user = OmegaConf.merge(_read_yaml(path), OmegaConf.from_dotlist(_dotlist(options)))
    except (yaml.YAMLError, OmegaConfBaseException, TypeError) as error:  # TypeError: a list where a mapping is
        raise ValueError(f"--options {' '.join(options)}: {error}") from error
    return typing.cast(dict[str, Any], OmegaConf.to_container(user, resolve=True))


def _dotlist(options: Sequence[str]) -> list[str]:
    """Return "key=value" strings; a key without "=" takes the next word as its value."""
    words, dotlist = iter(options), []
    for word in words:
        if "=" in word:
            dotlist.append(word)
            continue
        value = next(words, None)
        if value is None:
            raise ValueError(f"--options: '{word}' has no value; write {word}=VALUE")
        dotlist.append(f"{word}={value}")
    return dotlist


def _named(user: dict[str, Any], name: str, problems: list[str]) -> dict[str, Any]:
    section = user.get(name) or {}
    if not isinstance(section, dict):
        problems.append(f"{name}: expected names with their options, got {section!r}")
        return {}
    return section


def _merge(cls: type, path: str, layers: Sequence[Any], problems: list[str]) -> DictConfig:
    """Return the options of `cls` with the layers over its defaults, the last one on top."""
    node = OmegaConf.structured(cls)
    for layer in layers:
        _overlay(node, cls, layer, path, problems)
    problems += [f"{path}.{key} is not set" for key in sorted(OmegaConf.missing_keys(node))]
    return node


def _overlay(node: DictConfig, cls: type, layer: Any, path: str, problems: list[str]) -> None:
    """Write `layer` into `node`, and what does not fit into `problems`; OmegaConf alone stops at the first mistake."""
    if layer is None:
        return
    if not isinstance(layer, Mapping):
        problems.append(f"{path}: expected options, got {layer!r}")
        return
    hints = typing.get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    for key, value in layer.items():
        if key not in known:
            problems.append(_no_such(f"{path}.{key}", known))
            continue
        inner = next((t for t in (hints[key], *typing.get_args(hints[key])) if is_dataclass(t)), None)
        if isinstance(inner, type) and value is not None:
            if node[key] is None:
                node[key] = OmegaConf.structured(inner)
            _overlay(node[key], inner, value, f"{path}.{key}", problems)
            continue
        try:
            node[key] = float(value) if hints[key] in (float, float | None) and type(value) is int else value
        except OmegaConfBaseException:
            problems.append(f"{path}.{key}: expected {_type_name(hints[key])}, got {value!r}")


def _wrong_values(run: DictConfig) -> list[str]:
    """Return what is wrong with numbers and names whose type is right."""
    from_one = (
        *("max_epoch", "iters_per_epoch", "accum_grad_iters", "log_freq", "prefetch_factor"),
        *("keep_last", "save_every_steps", "max_tokens_per_forward"),
    )
    from_zero = ("num_workers", "warmup_steps", "max_bad_samples", "init_lr", "min_lr", "weight_decay")
    lowest = dict.fromkeys(from_one, 1) | dict.fromkeys((*from_zero, "max_skipped_steps"), 0)
    lowest["timeout_seconds"] = 10  # a heartbeat comes every 5
    wrong = {key: low for key, low in lowest.items() if run[key] is not None and run[key] < low}
    problems = [f"run.{key}: expected at least {low}, got {run[key]}" for key, low in wrong.items()]
    for key, names in NAMES.items():
        given = run[key] if OmegaConf.is_list(run[key]) else [run[key]]
        wrong_names = [name for name in given if name not in names]
        problems += [f"run.{key}: expected one of {', '.join(names)}, got '{name}'" for name in wrong_names]
    return problems


def _no_such(path: str, known: typing.Iterable[str]) -> str:
    return f"{path}: no such option{_near(path.rpartition('.')[2], known, quote='')}"


def _near(name: Any, known: typing.Iterable[str], *, quote: str = "'") -> str:
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {quote}{near[0]}{quote}?" if near else ""


def _type_name(hint: Any) -> str:
    names = [getattr(t, "__name__", str(t)) for t in (typing.get_args(hint) or (hint,))]
    if typing.get_origin(hint) in (list, dict):
        return str(hint)
    return " or ".join("null" if name == "NoneType" else name for name in names)


def _without_none(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _without_none(value) for key, value in tree.items() if value is not None}
    return tree
