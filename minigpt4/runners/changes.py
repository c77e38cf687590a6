"""Options that differ between a checkpoint and the run that resumes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf

from minigpt4.common import schema
from minigpt4.common.model_match import unset_options
from minigpt4.datasets.mixture import ENDLESS

Keys = tuple[str, ...]
REFUSED = {
    "run": {"seed", "accum_grad_iters"},
    "model": {
        *("arch", "vit_model", "vit", "vit_options", "language_model", "llama_config", "image_size"),
        *("end_sym", "chat_template", "prompt_template", "lora_r", "lora_alpha", "lora_target_modules"),
    },
}
"""A run with other values of these is another run: only `run.allow_changes` allows it."""
REFUSED_OF_DATASETS = {
    *(("type",), ("batch_size",), ("sample_ratio",), ("num_rows",)),
    *(("vis_processor", "train", "image_size"), ("text_processor", "train", "prompt")),
}
IGNORED = {
    "run": {
        *("name", "job_name", "job_id", "output_dir", "save_path", "resume_ckpt_path", "allow_changes", "evaluate"),
        *("distributed", "dist_url", "world_size"),
    },
    "model": {"model_type", "prompt", "allow_mismatch"},
}
"""Options without effect on any step."""
IGNORED_OF_DATASETS = {"data_type", "url", "md5", "eval"}
"""Keys of datasets, at any depth, without effect on any step."""
UNSET_OF_DATASETS: dict[Keys, Any] = {
    ("vis_processor", "train", "image_size"): 224,
    ("text_processor", "train", "prompt"): "",
    ("text_processor", "train", "max_words"): 50,
}
"""The values of datasets' options that are null, by their path without the dataset's name."""
MAX_LENGTH = 200


@dataclass(frozen=True)
class Change:
    """One option that differs: its YAML path, its values, and whether only `run.allow_changes` allows the change."""

    option: str
    before: Any
    now: Any
    refused: bool

    def __str__(self) -> str:
        return f"{self.option}: {_shown(self.before)} -> {_shown(self.now)}"


def num_rows_of(datasets: Mapping[str, Mapping[str, Any]]) -> dict[str, int | None]:
    """Return the number of training rows of each dataset; None for a stream."""
    numbers = {name: len(splits["train"]) for name, splits in datasets.items()}
    return {name: None if number == ENDLESS else number for name, number in numbers.items()}


def changed_options(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    *,
    rows_before: Mapping[str, int | None] | None,
    rows_now: Mapping[str, int | None],
) -> list[Change]:
    """Return every option of the sections model, datasets and run that differs between two configs.

    An absent option has its default, so a checkpoint may lack options that its trainer did not know. A section that
    the checkpoint lacks is not compared, nor are numbers of rows that it lacks.
    """
    changes: list[Change] = []
    for section, cls in (("model", schema.ModelConfig), ("run", schema.RunConfig)):
        if isinstance(before.get(section), Mapping):
            changes += _changed(*(_complete(config[section], cls, (section,)) for config in (before, now)))
    if isinstance(before.get("datasets"), Mapping):
        changes += _changed_datasets(before["datasets"], now["datasets"], rows_before or {}, rows_now)
    return changes


def _changed(before: Mapping[Keys, Any], now: Mapping[Keys, Any]) -> Iterator[Change]:
    """Yield the changed options of the model or run section."""
    for path, values in _differing(before, now):
        section, key, *_ = path
        if key not in IGNORED[section]:
            yield Change(".".join(path), *values, refused=key in REFUSED[section])


def _changed_datasets(
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    rows_before: Mapping[str, int | None],
    rows_now: Mapping[str, int | None],
) -> Iterator[Change]:
    for name in dict.fromkeys([*before, *now]):
        if name not in before or name not in now:
            yield Change(f"datasets.{name}", _described(before.get(name)), _described(now.get(name)), refused=True)
            continue
        leaves = [_of_dataset(name, config[name]) for config in (before, now)]
        numbers = rows_before.get(name), rows_now.get(name)
        if None not in numbers:
            leaves = [{**one, ("num_rows",): number} for one, number in zip(leaves, numbers, strict=True)]
        for path, values in _differing(*leaves):
            if not IGNORED_OF_DATASETS.intersection(path):
                yield Change(".".join(("datasets", name, *path)), *values, refused=path in REFUSED_OF_DATASETS)
    order_before, order_now = [name for name in before if name in now], [name for name in now if name in before]
    if order_before != order_now:  # a step chooses its dataset by the position in the mixture
        yield Change("the order of datasets", order_before, order_now, refused=True)


def _differing(before: Mapping[Keys, Any], now: Mapping[Keys, Any]) -> Iterator[tuple[Keys, tuple[Any, Any]]]:
    """Yield the path and both values of each option that differs; null equals the option's default."""
    for path in dict.fromkeys([*before, *now]):
        values = before.get(path), now.get(path)
        if not _same(*values) and not _same(_meaning(path, before), _meaning(path, now)):
            yield path, values


def _of_dataset(name: str, given: Any) -> dict[Keys, Any]:
    options = _complete(given, schema.DatasetConfig)
    return {**options, ("type",): options[("type",)] or name}


def _complete(given: Any, cls: type, above: Keys = ()) -> dict[Keys, Any]:
    """Return the values of a section by path: its options that this version knows, over their defaults."""
    known = {one.name for one in fields(cls)}
    given = {key: value for key, value in given.items() if key in known} if isinstance(given, Mapping) else {}
    defaults: Any = OmegaConf.to_container(OmegaConf.structured(cls))
    return _leaves(defaults, above) | _leaves(given, above)


def _leaves(tree: Mapping[Any, Any], above: Keys = ()) -> dict[Keys, Any]:
    found: dict[Keys, Any] = {}
    for key, value in tree.items():
        path = (*above, str(key))
        found |= _leaves(value, path) if isinstance(value, Mapping) else {path: value}
    return found


def _meaning(path: Keys, leaves: Mapping[Keys, Any]) -> Any:
    """Return the value that an option has, also where it is null."""
    value = leaves.get(path)
    if path == ("run", "warmup_lr") and (value is None or (isinstance(value, (int, float)) and value < 0)):
        return leaves[("run", "init_lr")]
    if path == ("model", "lora_target_modules") and isinstance(value, list):
        return sorted(value)
    return _unset_value(path, leaves) if value is None else value


def _unset_value(path: Keys, leaves: Mapping[Keys, Any]) -> Any:
    if path[0] == "model":
        return unset_options({"language_model": leaves.get(("model", "language_model"))}).get(path[-1])
    return UNSET_OF_DATASETS.get(path)


def _same(before: Any, now: Any) -> bool:
    """Return whether two values are equal; a list of one path is that path."""
    single = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in (before, now)]
    return bool(single[0] == single[1])


def _described(body: Any) -> dict[str, Any] | None:
    """Return a dataset's main options for a message; None for an absent dataset."""
    if not isinstance(body, Mapping):
        return None
    return {key: body[key] for key in ("type", "batch_size", "sample_ratio") if body.get(key) is not None}


def _shown(value: Any) -> str:
    if value is None:
        return "(not set)"
    text = repr(value)
    return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}.."
