"""A whole evaluation of one benchmark, as the scripts do it, in one call."""

from pathlib import Path
from typing import Any

from minigpt4.evaluation.benchmark import Benchmark
from minigpt4.evaluation.mistakes import mistakes, write_mistakes
from minigpt4.evaluation.results import read_results, write_results
from minigpt4.evaluation.shards import remove_shards
from minigpt4.evaluation.worker import InferenceWorker, make_batches


def order_asked(benchmark: Benchmark) -> list[int]:
    """Return the rows in the order in which one process asks them."""
    groups = make_batches(benchmark.questions(), benchmark.cfg.batch_size)
    return [row for group in groups for batch in group.batches for row in batch]


def run(
    benchmark: Benchmark, model: Any, processor: Any, *, save_path: Path, settings: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Ask, write the result file, and return the score."""
    if hasattr(model, "rows"):
        model.rows = order_asked(benchmark)
    questions = benchmark.questions()
    benchmark.check_images(questions)
    worker = InferenceWorker(benchmark=benchmark, model=model, image_processor=processor)
    predictions = worker.infer(questions, save_path, settings)
    score = benchmark.score(predictions)
    rows = mistakes(benchmark, predictions, score.get("accuracy_by_type", {}), save_path=save_path)
    write_mistakes(save_path, {benchmark.name: rows})
    remove_shards(save_path, benchmark.name)
    return score


def add_result(save_path: Path, name: str, facts: dict[str, Any]) -> None:
    """Put a benchmark's facts into results.json, beside those of the others."""
    write_results(save_path, {**read_results(save_path), name: facts})
