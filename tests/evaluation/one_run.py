"""A whole evaluation of one benchmark, as the scripts do it, in one call."""

from pathlib import Path
from typing import Any

from minigpt4.evaluation.batches import make_batches
from minigpt4.evaluation.benchmark import Benchmark
from minigpt4.evaluation.results import score_file
from minigpt4.evaluation.shards import remove_shards
from minigpt4.evaluation.worker import infer


def order_asked(benchmark: Benchmark) -> list[int]:
    """Return the rows in the order in which one process asks them."""
    units = make_batches(benchmark.questions(), benchmark.cfg.batch_size)
    return [row for unit in units for batch in unit.batches for row in batch]


def run(benchmark: Benchmark, model: Any, processor: Any, *, save_path: Path, **options: Any) -> dict[str, Any]:
    """Ask, write the result file, and return the score."""
    if hasattr(model, "rows"):
        model.rows = order_asked(benchmark)
    questions = benchmark.questions()
    infer(benchmark, model, processor, save_path=save_path, questions=questions, **options)
    score = score_file(benchmark, questions, save_path)
    remove_shards(save_path, benchmark.name)
    return score
