"""The number of answers that differ between two evaluations, such as one in float32 and one in 16 bits.

python -m minigpt4.evaluation.compare results_float32 results_16
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minigpt4.common.json_records import read_json
from minigpt4.evaluation.mistakes import WRONG
from minigpt4.evaluation.results import RESULTS


def compare(first: Path, second: Path) -> list[str]:
    """Return a line for each result file that both folders have: the number of its answers that differ.

    Raises: ValueError when they have none in common, or one of them holds another number of answers.
    """
    found = sorted(path for path in first.glob("*.json*") if path.suffix in (".json", ".jsonl"))
    shared = [path.name for path in found if path.name not in (RESULTS, WRONG) and (second / path.name).is_file()]
    if not shared:
        raise ValueError(f"{first} and {second} have no result file in common")
    lines = []
    for name in shared:
        ours, theirs = (read_json(folder / name, any_text=True) for folder in (first, second))
        if len(ours) != len(theirs):
            raise ValueError(f"{name} holds {len(ours)} answers in {first} and {len(theirs)} in {second}")
        differing = sum(a != b for a, b in zip(ours, theirs, strict=True))
        lines.append(f"{name}: {differing} of {len(ours)} answers differ")
    return lines


def main() -> None:
    """Print a line for each result file."""
    prog = "python -m minigpt4.evaluation.compare"
    parser = argparse.ArgumentParser(prog=prog, description="How many answers differ between two evaluations")
    parser.add_argument("folders", nargs=2, type=Path, metavar="FOLDER", help="run.save_path of an evaluation")
    args = parser.parse_args()
    try:
        print("\n".join(compare(*args.folders)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
