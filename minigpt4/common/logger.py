"""Log lines on the terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

from tqdm import tqdm

from minigpt4.common.dist_utils import get_rank


class _TqdmHandler(logging.StreamHandler[Any]):
    """Writes log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def setup_logger() -> None:
    """Log from rank 0 at INFO; the other ranks log only warnings and errors, with their number."""
    rank = get_rank()
    name = "" if rank == 0 else f" [rank {rank}]"
    handler = _TqdmHandler()
    handler.setFormatter(logging.Formatter(f"%(asctime)s{name} %(levelname)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, handlers=[handler], force=True)
