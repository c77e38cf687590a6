"""Train on the mixture of datasets that a YAML file describes.

torchrun --nproc_per_node 8 train.py --cfg-path train_configs/minigptv2_finetune_dataengine.yaml
python train.py --cfg-path my.yaml --options run.device=cpu run.max_epoch=1   # one process
python train.py --cfg-path my.yaml --check          # is everything there? `--check full` opens every image too
python train.py --cfg-path my.yaml --preview 4      # preview.html: samples as the model gets them
"""

from __future__ import annotations

import argparse

from torch.distributed.elastic.multiprocessing.errors import record

from minigpt4.api import RunResult, build_runner
from minigpt4.common.config import Config
from minigpt4.common.dist_utils import init_distributed_mode, leave_distributed_mode, use_expandable_segments
from minigpt4.common.files import NotWrittenError
from minigpt4.common.liveness import told_end
from minigpt4.common.logger import setup_logger
from minigpt4.common.user_errors import plain_errors
from minigpt4.datasets.check import check, check_images
from minigpt4.datasets.preview import write_preview
from minigpt4.runners import RunnerBase
from minigpt4.runners.checkpoints import choose_job
from minigpt4.runners.resuming import refuse_changes
from minigpt4.runners.stop import EXIT_CODE as STOPPED


def parse_args() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg-path", required=True, help="the YAML file of the run")
    parser.add_argument(
        "--options", nargs="+", action="extend", default=[], help="run.max_epoch=9 model.ckpt=x.pth ...: over the YAML"
    )
    parser.add_argument(
        "--check", nargs="?", const="quick", choices=("quick", "full"), help="only say what is missing or broken"
    )
    parser.add_argument("--preview", type=int, metavar="N", help="only write preview.html: N samples of each dataset")
    return parser.parse_args()


def look(cfg: Config, args: argparse.Namespace) -> int:
    """Check the files, or write the preview; return the exit code: 1 when training could not start."""
    setup_logger()
    checkup = check(cfg)
    if args.check == "full":
        check_images(checkup, cfg.run_cfg)
    if not checkup.problems and cfg.run_cfg.resume_ckpt_path:
        try:
            refuse_changes(cfg, checkup.built(), choose_job(cfg.run_cfg))
        except ValueError as error:
            checkup.problems.append(str(error))
    print(checkup.found(), checkup.verdict(), sep="\n")
    if args.preview is not None and not checkup.problems:
        print("wrote", write_preview(cfg, checkup.built(), num_samples=args.preview))
    return int(bool(checkup.problems))


def train(runner: RunnerBase) -> RunResult:
    """Train to the end; a full disk and a second Ctrl-C end the script with one line."""
    try:
        return runner.train()
    except (NotWrittenError, KeyboardInterrupt):
        with plain_errors("train.py"):
            raise


@record  # torchrun ends with the traceback of the rank that raised first
@told_end("train.py", fine=(0, STOPPED))
def main() -> None:
    """Parse, check, build, train."""
    use_expandable_segments()
    args = parse_args()
    with plain_errors("train.py"):
        cfg = Config(args)
        if args.check or args.preview is not None:
            raise SystemExit(look(cfg, args))
        init_distributed_mode(cfg.run_cfg)
        setup_logger()
        runner = build_runner(cfg)
    result = train(runner)
    leave_distributed_mode()
    if result.stopped:
        raise SystemExit(STOPPED)


if __name__ == "__main__":
    main()
