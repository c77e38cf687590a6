"""Is everything there? Builds the datasets, looks at the weight files, and says all that is wrong at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from minigpt4.common.config import Config
from minigpt4.common.llama_folder import TOKENIZERS, look_at_llama
from minigpt4.common.model_match import judge_checkpoint
from minigpt4.common.paths import wrong_output_folder
from minigpt4.common.registry import registry
from minigpt4.common.tables import as_table
from minigpt4.common.weight_files import WeightFile, weight_files
from minigpt4.conversation.tokenizer import load_tokenizer
from minigpt4.datasets.bad_samples import open_each, open_images, read_report, write_report
from minigpt4.datasets.base_dataset import InstructionDataset
from minigpt4.datasets.data_path import DataPath
from minigpt4.datasets.images import Listings
from minigpt4.datasets.picture_kinds import lines_of
from minigpt4.datasets.report import MAX_EXAMPLES
from minigpt4.datasets.shards import open_shards

logger = logging.getLogger(__name__)
HEADER = ("", "rows", "kept", "no image", "unreadable", "", "file or folder", "set by", "download from")


@dataclass
class DatasetCheck:
    """What was found of one dataset; `splits` stays None when it cannot be built."""

    name: str
    places: Sequence[DataPath]
    splits: dict[str, InstructionDataset] | None = None
    num_unreadable: int = 0  # rows whose image does not decode; only a full check knows
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def lines(self) -> list[Sequence[str]]:
        """Return the dataset's lines of the table: its counts, and each of its files."""
        counts = ["-", "-", "-", "-"]
        if self.splits is not None:
            dataset, report = self.splits["train"], self.splits["train"].report
            endless = dataset.is_stream
            without_image = f"{report.num_left_out + report.num_missing:,}"
            unreadable = f"{report.num_bad + self.num_unreadable:,}"
            counts = ["endless"] * 2 + ["-"] * 2 if endless else [f"{report.num_rows:,}", f"{len(dataset):,}"]
            counts += [] if endless else [without_image, unreadable]
        state = "PROBLEM" if self.problems else "ok"
        first, *more = _lines_of(self.places)
        return [(self.name, *counts, state, *first), *(("",) * 6 + line for line in more)]


@dataclass
class Checkup:
    """What was found of a whole run: `problems` are the reasons why training could not start, all of them."""

    datasets: list[DatasetCheck]
    weights: list[WeightFile]
    problems: list[str]
    remarks: list[str] = field(default_factory=list)

    def built(self) -> dict[str, dict[str, Any]]:
        """Return {name: {split: dataset}} of what could be built."""
        return {check.name: check.splits for check in self.datasets if check.splits is not None}

    def found(self) -> str:
        """Return the table of all datasets and weight files, then what the user should know."""
        lines = [line for check in self.datasets for line in check.lines()]
        for file in self.weights:
            state = "PROBLEM" if file.problem else "ok"
            lines.append((file.key.rpartition(".")[2], "", "", "", "", state, file.path, file.key, file.address))
        remarks = [*self.remarks, *self.boxes()]
        return "\n".join([as_table([HEADER, *lines], right=(1, 2, 3, 4)), *(f"- {text}" for text in remarks)])

    def boxes(self) -> list[str]:
        """Return what is wrong with the boxes of each dataset."""
        datasets = [splits["train"] for splits in self.built().values()]
        return [f"{one.name}: {line}" for one in datasets for line in one.report.boxes(one.name, one.bad_boxes)]

    def verdict(self) -> str:
        """Return whether training could start, and all that stands against it."""
        if not self.problems:
            return "training could start"
        return "\n  - ".join(["training cannot start:", *self.problems])


def check(cfg: Config) -> Checkup:
    """Build every dataset and look at every file that the config names; what fails is collected, not raised."""
    problems = [] if cfg.datasets_cfg else ["datasets: the YAML names none to train on"]
    try:
        bad_samples = read_report(cfg.run_cfg.bad_samples_report)
    except ValueError as error:
        bad_samples = frozenset()
        problems.append(str(error))
    listings = Listings()
    datasets = []
    for name, body in cfg.datasets_cfg.items():
        builder = registry.get_builder_class(body.type or str(name))(
            body, name=str(name), seed=cfg.run_cfg.seed, listings=listings, bad_samples=bad_samples
        )
        datasets.append(_build(builder))
    weights = [_with_tokenizer(file) for file in weight_files(cfg.model_cfg, cfg.run_cfg)]
    checkup = Checkup(datasets, weights, problems)
    checkup.problems += [problem for one in datasets for problem in one.problems]
    checkup.remarks += [remark for one in datasets for remark in one.remarks]
    checkup.problems += [file.problem for file in weights if file.problem]
    checkup.problems += _image_sizes_that_differ(cfg)
    output = os.path.join(cfg.run_cfg.output_dir, *([cfg.run_cfg.job_id] if cfg.run_cfg.job_id else []))
    checkup.problems += [wrong] if (wrong := wrong_output_folder("run.output_dir", output)) else []
    checkup.remarks += [f"{file.key}: {file.path}: {file.remark}" for file in weights if file.remark]
    if cfg.run_cfg.device.startswith("cuda") and not torch.cuda.is_available():
        checkup.remarks.append(f"run.device is {cfg.run_cfg.device}, which this machine does not have")
    _judge_checkpoints(cfg, checkup)
    _judge_bad_rows(checkup, cfg.run_cfg.max_bad_samples)
    checkup.problems += [] if checkup.problems else _absent_splits(cfg.run_cfg, checkup.built())
    return checkup


def check_images(checkup: Checkup, run_cfg: Any) -> None:
    """Open every image of every dataset, add what does not decode to the checkup, and write the report."""
    report = run_cfg.bad_samples_report or os.path.join(run_cfg.output_dir, "bad_samples.json")
    listings, shown = Listings(), {}
    for one in checkup.datasets:
        if one.splits is not None and not one.splits["train"].is_stream:
            shown[one.name] = one.splits["train"].image_paths(listings)
    paths = sorted({path for images in shown.values() for path in images})
    num_processes = run_cfg.num_workers or os.cpu_count() or 1
    bad, kinds = open_images(paths, Path(f"{report}.part"), num_processes=num_processes)
    rows: dict[str, str] = {}
    for one in checkup.datasets:
        if one.name not in shown or one.splits is None:
            continue
        rows |= one.splits["train"].bad_rows()
        mine = {path: count for path, count in shown[one.name].items() if path in bad and listings.has(path)}
        one.num_unreadable = sum(mine.values())
        if mine:
            named = "; ".join(f"{path}: {bad[path]}" for path in list(mine)[:MAX_EXAMPLES])
            checkup.remarks.append(f"{one.name}: {len(mine):,} images cannot be read: {named}")
        dataset = one.splits["train"]
        checkup.remarks += lines_of(one.name, shown[one.name], kinds, dataset.pictures)
        dataset.look_at_boxes()
    shards = _open_shards(checkup, Path(f"{report}.shards.part"), num_processes)
    num_images = len(paths) + sum(found["num_samples"] for found in shards.values())
    write_report(Path(report), images=bad, rows=rows, num_images=num_images, shards=shards)
    checkup.remarks.append(f"{num_images:,} images were opened; {report} names the bad samples")
    num_unreadable = sum(one.num_unreadable for one in checkup.datasets)
    if num_unreadable > run_cfg.max_bad_samples and not run_cfg.bad_samples_report:
        checkup.problems.append(
            f"{num_unreadable:,} rows show an image that cannot be read, run.max_bad_samples allows "
            f"{run_cfg.max_bad_samples}; leave them out with run.bad_samples_report={report}"
        )


def _open_shards(checkup: Checkup, journal: Path, num_processes: int) -> dict[str, Any]:
    """Open every sample of every shard of the streams; add what is wrong to the checkup and return it by shard."""
    shards: dict[str, Any] = {}
    for one in checkup.datasets:
        stream: Any = one.splits["train"] if one.splits is not None else None
        if stream is None or not stream.is_stream:
            continue
        look = partial(open_shards, stream.read_row)
        opened = open_each(stream.shards, look, journal, chunk=1, unit="shard", num_processes=num_processes)
        found = opened.get("shards", {})
        shards |= found
        num_samples = sum(shard["num_samples"] for shard in found.values())
        bad = {f"{path}/{name}": why for path, shard in found.items() for name, why in shard["bad"].items()}
        remarks = [f"{one.name}: {remark}" for shard in found.values() for remark in shard["remarks"]]
        kinds = {f"{path}/{name}": kinds for path, shard in found.items() for name, kinds in shard["kinds"].items()}
        remarks += lines_of(one.name, kinds, kinds, stream.pictures)
        if bad:
            named = "; ".join(f"{name}: {bad[name]}" for name in list(bad)[:MAX_EXAMPLES])
            remarks.append(f"{one.name}: {len(bad):,} of {num_samples:,} samples cannot be read: {named}")
        checkup.remarks += [remark for remark in remarks if remark not in checkup.remarks]
        checkup.problems += [
            f"{one.name}: not one of the {shard['num_samples']:,} samples of {path} can be read"
            for path, shard in found.items()
            if shard["num_samples"] and len(shard["bad"]) == shard["num_samples"]
        ]
    return shards


def _with_tokenizer(file: WeightFile) -> WeightFile:
    """Return what was found of the language model with what is wrong with its tokenizer, which is read for it."""
    if file.key != "model.llama_model" or file.problem or not os.path.isdir(file.path):
        return file
    if not any(os.path.isfile(os.path.join(file.path, name)) for name in TOKENIZERS):
        return file  # a hub id of which the cache has a part
    try:
        num_tokens = load_tokenizer(file.path).vocab_size
    except ValueError as error:
        text = str(error)
        return replace(file, problem=text if text.startswith(file.key) else f"{file.key}: {text}")
    num_rows = look_at_llama(file.path).config.get("vocab_size", num_tokens)
    if num_tokens > num_rows:
        wrong = f"its tokenizer has {num_tokens:,} tokens, its config.json says vocab_size {num_rows:,}"
        return replace(file, problem=f"{file.key}: {file.path}: {wrong}")
    return file


def _build(builder: Any) -> DatasetCheck:
    """Build one dataset, or say why that cannot be."""
    found = DatasetCheck(builder.name, ())
    try:
        found.places, found.problems = builder.data_paths(), builder.problems()
        if not found.problems:
            found.remarks = builder.remarks()
            found.splits = builder.build_datasets()
            found.remarks += getattr(found.splits["train"], "remarks", ())
    except (ValueError, OSError) as error:
        text = str(error)
        starts = (builder.name, f"datasets.{builder.name}")
        found.problems.append(text if text.startswith(starts) else f"{builder.name}: {text}")
    return found


def _judge_bad_rows(checkup: Checkup, max_bad_samples: int) -> None:
    """Tell whether more rows are bad than the run tolerates; the datasets have logged what they leave out."""
    reports = {name: splits["train"].report for name, splits in checkup.built().items()}
    mistakes = [f"{name}: {line}" for name, report in reports.items() for line in report.mistakes()]
    num_bad = sum(report.num_unusable for report in reports.values())
    tolerated = f"run.max_bad_samples allows {max_bad_samples}"
    if num_bad > max_bad_samples:
        way_out = "or `--check full` writes a report of them for run.bad_samples_report"
        checkup.problems += [*mistakes, f"{num_bad:,} rows are bad, {tolerated}; repair them, raise it, {way_out}"]
    elif num_bad:
        checkup.remarks.append(f"{num_bad:,} rows are bad: tolerated, {tolerated}")


def _lines_of(places: Sequence[DataPath]) -> list[tuple[str, str, str]]:
    """Return (file or folder, key, address) of each place; many files of one key are one line."""
    lines: dict[tuple[str, bool], list[DataPath]] = {}
    for place in places:
        several = len(places) > 2 * MAX_EXAMPLES
        lines.setdefault((place.key if several else f"{place.key} {place.paths}", place.folder), []).append(place)
    texts = []
    for first, *more in lines.values():
        path = first.find() or (f"{first.paths[0]} (MISSING)" if first.paths else "(not set)")
        texts.append((path + (f" and {len(more):,} more" if more else ""), first.key, first.url))
    return texts


def _judge_checkpoints(cfg: Config, checkup: Checkup) -> None:
    """Tell whether the checkpoints that are there fit the configured model."""
    for file in checkup.weights:
        resumed = file.key == "run.resume_ckpt_path"
        if (resumed or file.key == "model.ckpt") and not (file.problem or file.remark):
            allowed = resumed and cfg.run_cfg.allow_changes
            problems, remarks = judge_checkpoint(file.key, file.path, cfg.model_cfg, resumed=resumed, allowed=allowed)
            checkup.problems += problems
            checkup.remarks += remarks


def _absent_splits(run_cfg: Any, built: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the option whose held-out splits no dataset has: validation would have nothing to compute."""
    there = {split for splits in built.values() for split in splits}
    key, asked = "run.valid_splits", list(run_cfg.valid_splits)
    if run_cfg.evaluate:
        key, asked = "run.evaluate needs run.valid_splits or run.test_splits", [*asked, *run_cfg.test_splits]
    if not (asked or run_cfg.evaluate) or there.intersection(asked):
        return []
    return [f"{key}: no dataset has one of the splits {asked}; they come from build_info.annotations"]


def _image_sizes_that_differ(cfg: Config) -> list[str]:
    sizes: Mapping[str, int] = {
        f"datasets.{name!s}.vis_processor.train.image_size": body.vis_processor.train.image_size
        for name, body in cfg.datasets_cfg.items()
        if body.vis_processor.train is not None and body.vis_processor.train.image_size is not None
    }
    expected = cfg.model_cfg.image_size
    return [f"{key} is {size} but model.image_size is {expected}" for key, size in sizes.items() if size != expected]
