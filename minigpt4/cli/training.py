"""`minigpt4 train`, `check` and `preview`."""

from __future__ import annotations

import argparse

from torch.distributed.elastic.multiprocessing.errors import record

from minigpt4.api import build_runner
from minigpt4.common import dist_utils
from minigpt4.common.config import Config
from minigpt4.common.files import NotWrittenError
from minigpt4.common.liveness import told_end
from minigpt4.common.logger import setup_logger
from minigpt4.common.user_errors import plain_errors
from minigpt4.datasets.preview import write_preview
from minigpt4.preflight.images import check_images
from minigpt4.preflight.preflight import run_preflight
from minigpt4.runners.checkpoints import choose_job
from minigpt4.runners.resuming import refuse_changes
from minigpt4.runners.stop import EXIT_CODE as STOPPED


def run(args: argparse.Namespace, prog: str) -> int:
    """Train, or with `args.check` or `args.preview` only check; return the exit code.

    Raises: SystemExit with a message when training cannot start.
    """
    reported = record(told_end(prog, fine=(0, STOPPED))(_run))  # torchrun ends with the first rank's traceback
    return reported(args, prog) or 0


def _run(args: argparse.Namespace, prog: str) -> int:
    dist_utils.use_expandable_segments()
    with plain_errors(prog):
        cfg = Config(args)
        if args.check or args.preview is not None:
            return preflight(cfg, every_image=args.check == "full", num_samples=args.preview)
        dist_utils.init_distributed_mode(cfg.run_cfg)
        setup_logger()
        runner = build_runner(cfg)
    try:
        result = runner.train()
    except (NotWrittenError, KeyboardInterrupt):  # a full disk or a second Ctrl-C: one line, no traceback
        with plain_errors(prog):
            raise
    dist_utils.leave_distributed_mode()
    return STOPPED if result.stopped else 0


def preflight(cfg: Config, *, every_image: bool, num_samples: int | None) -> int:
    """Print what the check finds and write the preview; return 1 when training cannot start, else 0."""
    setup_logger()
    report = run_preflight(cfg)
    if every_image:
        check_images(report, cfg.run_cfg)
    if not report.problems and cfg.run_cfg.resume_ckpt_path:
        try:
            refuse_changes(cfg, report.built(), choose_job(cfg.run_cfg))
        except ValueError as error:
            report.problems.append(str(error))
    print(report.table(), report.summary(), sep="\n")
    if num_samples is not None and not report.problems:
        print("wrote", write_preview(cfg, report.built(), num_samples=num_samples))
    return int(bool(report.problems))
