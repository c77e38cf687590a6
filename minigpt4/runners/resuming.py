"""Resumes a run from a checkpoint, unless its options make it another run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from minigpt4.common import schema
from minigpt4.common.checkpoint import NEEDED_TO_RESUME, read_checkpoint
from minigpt4.common.config import Config
from minigpt4.common.dist_utils import is_main_process
from minigpt4.common.model_match import check_match, refuse_mismatch, unset_options
from minigpt4.common.option import shown
from minigpt4.common.schema import RunConfig
from minigpt4.runners.checkpoints import AUTO, read_newest
from minigpt4.runners.train_state import TrainState
from minigpt4.tasks.base_task import Datasets

logger = logging.getLogger(__name__)

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
    """Return the number of training rows of each dataset; None for a stream, which has no number."""
    trained = {name: splits["train"] for name, splits in datasets.items()}
    return {name: None if dataset.is_stream else len(dataset) for name, dataset in trained.items()}


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
    return "(not set)" if value is None else shown(value)


def resume(state: TrainState, cfg: Config, datasets: Datasets, folder: Path) -> Path | None:
    """Load the checkpoint of `run.resume_ckpt_path` into `state`, and return its path, None without a checkpoint.

    Raises: ValueError naming the file when it cannot be resumed, or its options make it another run.
    """
    opened = _open(cfg.run_cfg, folder)
    if opened is None:
        if cfg.run_cfg.resume_ckpt_path == AUTO:
            logger.info("run.resume_ckpt_path is auto and %s has no checkpoint: the run starts at step 0", folder)
        return None
    source, checkpoint = opened
    changes = _changes(cfg, datasets, checkpoint, source)
    if not isinstance(checkpoint.get("config"), Mapping):
        logger.info("%s holds no config, so its options are not compared with those of this run", source)
    if changes and is_main_process():
        refused = [change.option for change in changes if change.refused]
        allowed = f"\nrun.allow_changes allows {', '.join(refused)}" if refused else ""
        logger.warning("%s%s", _listed(changes, source), allowed)
    found = check_match(checkpoint, cfg.model_cfg, source, allowed=cfg.run_cfg.allow_changes)
    state.model.mismatches = list(dict.fromkeys([*state.model.mismatches, *found]))
    state.load_state_dict(checkpoint, source=source)
    step = checkpoint.get("step")
    state.changes += [{"checkpoint": source, "step": step, **asdict(change)} for change in changes]
    num_steps = cfg.run_cfg.max_epoch * cfg.run_cfg.iters_per_epoch
    logger.info("resuming %s at step %d", source, state.step)
    if state.step >= num_steps:
        logger.info("nothing is left to do: the run has run.max_epoch * run.iters_per_epoch = %d steps", num_steps)
    return Path(source)


def refuse_changes(cfg: Config, datasets: Datasets, job_id: str) -> None:
    """Refuse the checkpoint of `run.resume_ckpt_path` as `resume` would, before the model is built.

    Rank 0 alone reads it. Raises: ValueError as `resume`.
    """
    found = _open(cfg.run_cfg, Path(cfg.run_cfg.output_dir) / job_id) if is_main_process() else None
    if found is not None:
        source, checkpoint = found
        _changes(cfg, datasets, checkpoint, source)
        refuse_mismatch(checkpoint, cfg.model_cfg, source, allowed=cfg.run_cfg.allow_changes)


def _open(run_cfg: RunConfig, folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Return the path and content of the checkpoint to resume; with `auto` the newest of the job's folder."""
    path = run_cfg.resume_ckpt_path
    if not path:
        return None
    newest = (
        read_newest(folder, iters_per_epoch=run_cfg.iters_per_epoch) if path == AUTO else (path, read_checkpoint(path))
    )
    if newest is None:
        return None
    source, state = str(newest[0]), newest[1]
    missing = [key for key in NEEDED_TO_RESUME if key not in state]
    if missing:
        raise ValueError(f"run.resume_ckpt_path: {source} cannot be resumed, it has no {', '.join(missing)}")
    return source, state


def _changes(cfg: Config, datasets: Datasets, state: Mapping[str, Any], source: str) -> list[Change]:
    """Return the options that differ from those of the checkpoint.

    Raises: ValueError that lists all of them when one needs `run.allow_changes`.
    """
    config = state.get("config")
    if not isinstance(config, Mapping):
        return []
    rows_now = num_rows_of(datasets)
    changes = changed_options(config, cfg.to_dict(), rows_before=state.get("num_rows"), rows_now=rows_now)
    if cfg.run_cfg.evaluate:  # no step is taken, so only the model counts
        changes = [change for change in changes if change.option.startswith("model.")]
    allowed = ("model.",) if cfg.model_cfg.allow_mismatch else ()
    refused = [one.option for one in changes if one.refused and not one.option.startswith(allowed)]
    if refused and not cfg.run_cfg.allow_changes:
        raise ValueError(
            f"{_listed(changes, source)}\nthis run would not continue that one, because of {', '.join(refused)}; "
            "to resume all the same: --options run.allow_changes=True"
        )
    return changes


def _listed(changes: Sequence[Change], source: str) -> str:
    lines = "\n  ".join(map(str, changes))
    return f"{source} was trained with other options (checkpoint -> this run):\n  {lines}"
