"""Config: merges library defaults, a YAML file (also a shipped one, by name) and `--options`, and checks all."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from minigpt4.common import schema
from minigpt4.common.option import options_of, shown, wrong_text
from minigpt4.common.plugins import load_plugins
from minigpt4.common.registry import did_you_mean, registry
from minigpt4.common.schema import NAMED_SECTIONS, SECTIONS
from minigpt4.common.yaml_reader import merge_options, read_yaml_file

PACKAGE_DIR = Path(__file__).resolve().parents[1]
FOLDERS = ("train_configs", "eval_configs")


class Config:
    """The options of one run, merged and checked.

    `run_cfg`, `model_cfg`, `preprocess_cfg`, `datasets_cfg` and `evaluation_datasets_cfg` are OmegaConf mappings with
    the keys of `minigpt4/common/schema.py`. Raises: ValueError that lists every mistake of the file and of the options
    at once.
    """

    def __init__(self, args: Any) -> None:
        """Read `args.cfg_path`, a file or the name of a shipped one; `args.options` override it.

        Options are "a.b=c" texts or "a.b" "c" pairs.
        """
        self._path = str(find_config(str(args.cfg_path)))
        self._problems: list[str] = []
        self._unset: set[str] = set()  # where a null replaces a default of the library
        tree = read_yaml_file(Path(self._path))
        self._problems += merge_options(tree, getattr(args, "options", None) or ())
        user = _resolved(tree, self._path)
        self._problems += [_no_such(name, SECTIONS) for name in user if name not in SECTIONS]
        # typed by the schema, though OmegaConf holds the values: a misspelt `run_cfg.x` in our code is an error of mypy
        self.run_cfg = typing.cast(schema.RunConfig, self._merge("run", user.get("run")))
        try:
            load_plugins(self.run_cfg.plugins, folder=Path(self._path).parent)
        except ValueError as error:
            self._problems += str(error).splitlines()
        defaults = self._model_defaults(user.get("model"))
        model_cfg = self._merge("model", defaults.get("model"), user.get("model"))
        self.model_cfg = typing.cast(schema.ModelConfig, model_cfg)
        self.preprocess_cfg = self._merge("preprocess", defaults.get("preprocess"), user.get("preprocess"))
        for processor in self.preprocess_cfg.vis_processor.values():
            if processor is not None and processor.image_size is None:
                processor.image_size = self.model_cfg.image_size
        self.datasets_cfg = self._merge_entries("datasets", user, self._dataset_defaults)
        for body in self.datasets_cfg.values():
            for kind in ("vis_processor", "text_processor"):
                if body[kind] is None:
                    body[kind] = schema.ProcessorsConfig(train=self.preprocess_cfg[kind].train)
        self.evaluation_datasets_cfg = self._merge_entries("evaluation_datasets", user, self._benchmark_defaults)
        self.check_values()

    def check_values(self) -> None:
        """Compare all values with their ranges and choices. A command that changes values calls this again.

        Raises: ValueError that lists every mistake.
        """
        found = list(self._problems)
        for name, section in SECTIONS.items():
            config = getattr(self, f"{name}_cfg")
            nodes = config.items() if name in NAMED_SECTIONS else [(None, config)]
            for key, node in nodes:
                found += _wrong_values(node, section, name if key is None else f"{name}.{key!s}")
        found += _wrong_together(self)
        if found:
            joined = "\n  ".join(["", *dict.fromkeys(found)]) if len(found) > 1 else f" {found[0]}"
            raise ValueError(f"{self._path}: these options are wrong:{joined}")

    @classmethod
    def load(cls, path: str | Path, options: Sequence[str] = ()) -> Config:
        """Return the config of a YAML file; `options` override it."""
        return cls(types.SimpleNamespace(cfg_path=str(path), options=list(options)))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain containers; what is unset inside a dataset or processor is left out."""
        whole = {name: OmegaConf.to_container(getattr(self, f"{name}_cfg")) for name in SECTIONS}
        keeps_unset = ("run", "model")
        return {k: v if k in keeps_unset else _without_none(v, k, self._unset) for k, v in whole.items()}

    def _merge_entries(self, name: str, user: Mapping[str, Any], defaults_of: typing.Callable[..., Any]) -> DictConfig:
        """Return the entries of `datasets` or `evaluation_datasets`, without those that have an unknown name."""
        entries = user.get(name) or {}
        if not isinstance(entries, dict):
            self._problems.append(f"{name}: expected names with their options, got {shown(entries)}")
            entries = {}
        merged = {}
        for key, body in entries.items():
            try:
                if wrong := wrong_text(key):
                    raise ValueError(f"{name}: {wrong}")
                defaults = defaults_of(key, body)
            except ValueError as error:
                self._problems.append(str(error))
                continue
            merged[key] = self._merge(f"{name}.{key}", defaults, body)
            merged[key].pictures = merged[key].pictures or self.model_cfg.pictures
        return OmegaConf.create(merged)

    def _model_defaults(self, section: Any) -> dict[str, Any]:
        """Return the defaults of a model: its YAML in the package, or what its registered class names."""
        arch = section.get("arch") if isinstance(section, Mapping) else None
        known = {path.stem: path for path in (PACKAGE_DIR / "configs" / "models").glob("*.yaml")}
        if arch is not None and str(arch) not in known:  # importing the models takes seconds
            try:
                model = registry.get_model_class(str(arch))
                return _defaults_of(model, getattr(model, "DEFAULT_CONFIG", None))
            except ValueError as error:
                self._problems.append(f"model.arch: {error}")
                arch = None
        return _defaults(known[str(arch or "minigpt_v2")])

    def _dataset_defaults(self, key: str, body: Any) -> Any:
        """Return the defaults of a dataset: those under `datasets.NAME`, or all of a dictionary without this section.

        Raises: ValueError when no such dataset is registered, or when its YAML file lacks the section.
        """
        name = str((body.get("type") if isinstance(body, Mapping) else None) or key)
        try:
            builder = registry.get_builder_class(name)
            given = builder.DATASET_CONFIG_DICT.get("default")
            defaults = _defaults_of(builder, given)
            if isinstance(given, str) and name not in (defaults.get("datasets") or {}):
                raise ValueError(f"{given}, the file of its defaults, has no section datasets.{name}")
        except ValueError as error:
            raise ValueError(f"datasets.{key}: {error} (your own data: type: custom)") from error
        return defaults["datasets"][name] if "datasets" in defaults else defaults

    def _benchmark_defaults(self, key: str, body: Any) -> Any:
        try:
            return getattr(registry.get_benchmark_class(key), "DEFAULT_CONFIG", None)
        except ValueError as error:
            known = registry.list_benchmarks()
            near = f"{did_you_mean(key, known)} (there are {', '.join(known)})"
            raise ValueError(f"evaluation_datasets.{key}: no such benchmark{near}") from error

    def _merge(self, path: str, *layers: Any) -> DictConfig:
        """Return a section's options: its defaults, overridden by the layers in their order."""
        section = SECTIONS[path.partition(".")[0]]
        node: DictConfig = OmegaConf.structured(section)
        for layer in layers:
            self._overlay(node, section, layer, path)
        return node

    def _overlay(self, node: DictConfig, section: type, layer: Any, path: str) -> None:
        """Write `layer` into `node` and collect all mistakes; OmegaConf alone would stop at the first one."""
        if layer is None:
            return
        if not isinstance(layer, Mapping):
            self._problems.append(f"{path}: expected options, got {shown(layer)}")
            return
        options = options_of(section)
        for key, value in layer.items():
            at, option = f"{path}.{key}", options.get(key)
            if option is None:
                self._problems.append(_no_such(at, options))
            elif option.section is not None and value is not None:
                if node[key] is None:
                    node[key] = OmegaConf.structured(option.section)
                self._overlay(node[key], option.section, value, at)
            elif wrong := option.wrong_type(value):
                self._problems.append(f"{at}{wrong}")
            else:
                if value is None and not OmegaConf.is_missing(node, key) and node[key] is not None:
                    self._unset.add(at)
                try:
                    OmegaConf.update(node, key, value, merge=False)  # converts 1 to 1.0, '7' to 7
                except (OmegaConfBaseException, OverflowError, ValueError):
                    self._problems.append(f"{at}: expected {option.type_name}, got {shown(value)}")


def _wrong_values(node: DictConfig, section: type, path: str) -> Iterator[str]:
    """Yield values of a section that are missing, out of range or not among the choices."""
    for name, option in options_of(section).items():
        at = f"{path}.{name}"
        if OmegaConf.is_missing(node, name):
            yield f"{at} is not set"
        elif option.section is None:
            yield from (f"{at}: {problem}" for problem in option.problems(node[name]))
        elif node[name] is not None:
            yield from _wrong_values(node[name], option.section, at)


def _wrong_together(cfg: Config) -> Iterator[str]:
    """Yield values that do not fit together, though each is in its range."""
    model = cfg.model_cfg
    yield from _wrong_parts(model)
    if model.prompt_template is not None:
        yield from _wrong_template(model.prompt_template)
    if model.lora_r > 0 and not model.lora_target_modules:
        yield "model.lora_target_modules: expected at least one layer, got none; model.lora_r=0 trains without LoRA"
    if len(cfg.datasets_cfg) and all(body.sample_ratio == 0 for body in cfg.datasets_cfg.values()):
        yield "datasets: at least one sample_ratio should be above 0"
    if (job_id := cfg.run_cfg.job_id) and (Path(job_id).is_absolute() or ".." in Path(job_id).parts):
        yield f"run.job_id: expected a folder below run.output_dir, got {shown(job_id)}"
    if (splits := list(cfg.run_cfg.train_splits)) != ["train"]:
        yield f"run.train_splits: expected [train], the only split for training, got {splits}"


def _wrong_parts(model: schema.ModelConfig) -> Iterator[str]:
    """Yield what the classes of a model's parts say of their options, unless these are the defaults."""
    parts = {
        "vision_tower": ("vit_model", "image_size", "vit", "vit_options"),
        "language_model": ("language_model", "lora_target_modules"),
    }
    defaults = OmegaConf.structured(schema.ModelConfig)
    for kind, (name, *options) in parts.items():
        if any(getattr(model, key) != defaults[key] for key in (name, *options)):
            try:
                part = getattr(registry, f"get_{kind}_class")(getattr(model, name))
            except ValueError:  # `_wrong_values` has named it
                continue
            yield from part.wrong_options(model) if hasattr(part, "wrong_options") else ()


def _wrong_template(template: str) -> Iterator[str]:
    if "{}" not in template:
        yield f"model.prompt_template: {template!r} has no {{}} where the question goes"
        return
    try:
        template.format("")
    except (LookupError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__} {error}"
        yield f"model.prompt_template: {template!r} cannot be filled in: {reason}; {{{{ and }}}} are single braces"


def _defaults_of(cls: Any, given: Any) -> dict[str, Any]:
    """Return the defaults of a class: a dictionary, or a YAML file beside its module, below minigpt4, or absolute."""
    if not isinstance(given, str):
        return dict(given or {})
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    beside = Path(file or "").parent / given
    return _defaults(beside if file and beside.is_file() else PACKAGE_DIR / given)


_defaults = cache(read_yaml_file)


def _resolved(user: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the user's options with every ${a.b} replaced by what it names."""
    try:
        return typing.cast(dict[str, Any], OmegaConf.to_container(OmegaConf.create(user), resolve=True))
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: a ${{..}} leads back to itself, or options are nested too deeply") from error


def _no_such(path: str, known: Iterable[str]) -> str:
    return f"{path}: no such option{did_you_mean(path.rpartition('.')[2], known, quote='')}"


def _without_none(tree: Any, path: str, unset: set[str]) -> Any:
    """Return a tree without the values that are not set; a null that replaces a default stays."""
    if isinstance(tree, dict):
        inner = {key: (value, f"{path}.{key}") for key, value in tree.items()}
        return {k: _without_none(v, at, unset) for k, (v, at) in inner.items() if v is not None or at in unset}
    return tree


def shipped_configs() -> dict[str, Path]:
    """Return every shipped file by its path without the suffix, as train_configs/minigptv2_finetune."""
    return {f"{folder}/{path.stem}": path for folder in FOLDERS for path in sorted(folder_of(folder).glob("*.yaml"))}


def folder_of(name: str) -> Path:
    """Return a folder of shipped files: inside the installed package, or beside the package in a checkout."""
    inside = PACKAGE_DIR / name
    return inside if inside.is_dir() else PACKAGE_DIR.parent / name


def find_config(given: str) -> Path:
    """Return the YAML file that a user names: a file that exists, else a shipped one, with or without its folder.

    Another path is returned as it is; reading it gives the error.
    Raises: ValueError for a name without a suffix that no shipped file has, or that two of them have.
    """
    if Path(given).is_file():
        return Path(given)
    shipped, wanted = shipped_configs(), Path(given.removesuffix(".yaml")).as_posix()
    found = [name for name in shipped if wanted in (name, name.partition("/")[2])]
    if len(found) == 1:
        return shipped[found[0]]
    if found:
        raise ValueError(f"{given} names two files that the package ships: {' and '.join(found)}; give one of these")
    if "/" in wanted or Path(given).suffix or Path(given).exists():
        return Path(given)
    names = [name.partition("/")[2] for name in shipped]
    known = "".join(f"\n  {name}" for name in shipped)
    raise ValueError(
        f"{given}: no such file, and the package ships no YAML file of this name{did_you_mean(given, names)}. "
        f"It ships:{known}"
    )
