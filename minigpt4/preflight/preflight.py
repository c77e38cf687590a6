"""Builds the datasets, looks at the weight files, and collects all that is wrong before a training starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from minigpt4.common.config import Config
from minigpt4.common.paths import wrong_output_folder
from minigpt4.common.registry import registry
from minigpt4.datasets.images import Listings
from minigpt4.preflight.preflight_report import DatasetCheck, PreflightReport, read_bad_samples
from minigpt4.preflight.weights import check_checkpoints, weight_files


def run_preflight(cfg: Config) -> PreflightReport:
    """Build every dataset and look at every file that the config names; errors are collected, not raised."""
    run = cfg.run_cfg
    problems = [] if cfg.datasets_cfg else ["datasets: the YAML names none to train on"]
    bad_samples = frozenset[str]()
    try:
        bad_samples = read_bad_samples(run.bad_samples_report)
    except ValueError as error:
        problems.append(str(error))
    listings = Listings()
    datasets = [
        _build(
            registry.get_builder_class(body.type or str(name))(
                body, name=str(name), seed=run.seed, listings=listings, bad_samples=bad_samples
            )
        )
        for name, body in cfg.datasets_cfg.items()
    ]
    report = PreflightReport(datasets, weight_files(cfg.model_cfg, run), problems)
    report.problems += [problem for one in datasets for problem in one.problems]
    report.remarks += [remark for one in datasets for remark in one.remarks]
    report.problems += [file.problem for file in report.weights if file.problem]
    report.problems += _image_sizes_that_differ(cfg)
    wrong = wrong_output_folder("run.output_dir", os.path.join(run.output_dir, run.job_id or "").rstrip("/"))
    report.problems += [wrong] if wrong else []
    report.remarks += [f"{file.key}: {file.path}: {file.remark}" for file in report.weights if file.remark]
    if run.device.startswith("cuda") and not torch.cuda.is_available():
        report.remarks.append(f"run.device is {run.device}, which this machine does not have")
    for found, remarks in check_checkpoints(report.weights, cfg):
        report.problems += found
        report.remarks += remarks
    _count_bad_rows(report, run.max_bad_samples)
    report.problems += [] if report.problems else _absent_splits(run, report.built())
    return report


def _build(builder: Any) -> DatasetCheck:
    """Build one dataset, or say why that fails."""
    found = DatasetCheck(builder.name)
    try:
        found.data_paths, found.problems = builder.data_paths(), builder.problems()
        if not found.problems:
            found.remarks = builder.remarks()
            found.splits = builder.build_datasets()
            found.remarks += getattr(found.dataset, "remarks", ())
    except (ValueError, OSError) as error:
        text = str(error)
        starts = (builder.name, f"datasets.{builder.name}")
        found.problems.append(text if text.startswith(starts) else f"{builder.name}: {text}")
    return found


def _count_bad_rows(report: PreflightReport, max_bad_samples: int) -> None:
    """Report whether more rows are bad than the run tolerates; the datasets have logged the rows that they skip."""
    reports = {name: splits["train"].report for name, splits in report.built().items()}
    mistakes = [f"{name}: {line}" for name, rows in reports.items() for line in rows.mistakes()]
    num_bad = sum(rows.num_unusable for rows in reports.values())
    tolerated = f"run.max_bad_samples allows {max_bad_samples}"
    if num_bad > max_bad_samples:
        way_out = "or `--check full` writes a report of them for run.bad_samples_report"
        report.problems += [*mistakes, f"{num_bad:,} rows are bad, {tolerated}; repair them, raise it, {way_out}"]
    elif num_bad:
        report.remarks.append(f"{num_bad:,} rows are bad: tolerated, {tolerated}")


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
    expected = cfg.model_cfg.image_size
    sizes = {
        f"datasets.{name!s}.vis_processor.train.image_size": body.vis_processor.train.image_size
        for name, body in cfg.datasets_cfg.items()
        if body.vis_processor.train is not None
    }
    return [
        f"{key} is {size} but model.image_size is {expected}"
        for key, size in sizes.items()
        if size not in (None, expected)
    ]
