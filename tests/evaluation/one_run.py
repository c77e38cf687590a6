"""A whole evaluation of one benchmark, as the scripts do it, in one call."""

from pathlib import Path
from typing import Any

from minigpt4.evaluation.asking import infer
from minigpt4.evaluation.benchmark import Benchmark
from minigpt4.evaluation.parts import remove_parts
from minigpt4.evaluation.planning import plan
from minigpt4.evaluation.results import score_file


def order_asked(benchmark: Benchmark) -> list[int]:
    """Return the rows in the order in which one process asks them."""
    units = plan(benchmark.questions(), benchmark.cfg.batch_size)
    return [row for unit in units for batch in unit.batches for row in batch]


def run(benchmark: Benchmark, model: Any, processor: Any, *, save_path: Path, **options: Any) -> dict[str, Any]:
    """Ask, write the result file, and return the score."""
    if hasattr(model, "rows"):
        model.rows = order_asked(benchmark)
    questions = benchmark.questions()
    infer(benchmark, model, processor, save_path=save_path, questions=questions, **options)
    score = score_file(benchmark, questions, save_path)
    remove_parts(save_path, benchmark.name)
    return score
