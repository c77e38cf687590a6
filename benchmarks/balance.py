"""How uneven the ranks' work is, and what sharing out the samples of all draws changes; needs no model and no data.

    python benchmarks/balance.py --ranks 8 64
    python benchmarks/balance.py --ranks 512 --together 8   # eight draws an update, put through together

Prints for each number of ranks the mean over steps of the largest rank's cost over the mean rank's, on the shipped
mixture: as each rank draws, shared out by number of samples, and by estimated length as a training does. An image costs
256 tokens, the text of a row an exponentially distributed number (mean 60), whose estimate is off by a fifth. And how
long a rank plans a step.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np

from minigpt4.common.config import PACKAGE_DIR, Config
from minigpt4.datasets.mixture import MixtureComponent, MixtureSampler

MIXTURE = PACKAGE_DIR.parent / "train_configs" / "minigptv2_finetune_dataengine.yaml"
NUM_ROWS = 1000


def shipped_mixture() -> tuple[dict[str, np.ndarray], list[MixtureComponent]]:
    """Return the drawn tokens of each row by dataset, and the 25 datasets of the shipped mixture with estimates."""
    rng = np.random.default_rng(0)
    tokens, components = {}, []
    for name, body in Config.load(MIXTURE).datasets_cfg.items():
        image = 0 if name == "unnatural_instruction" else 256
        text = rng.exponential(60, NUM_ROWS)
        tokens[str(name)] = image + text
        lengths = image + text * rng.normal(1, 0.2, NUM_ROWS)
        components.append(MixtureComponent(str(name), NUM_ROWS, body.batch_size, body.sample_ratio, lengths=lengths))
    return tokens, components


def cost_ratio(
    num_ranks: int, *, num_steps: int, together: int = 1, balance: bool = True, by_length: bool = True
) -> float:
    """Return the mean over steps, `together` at a time, of the largest rank's cost over the mean rank's."""
    tokens, components = shipped_mixture()
    if not by_length:
        components = [replace(component, lengths=None) for component in components]
    at: dict[str, Any] = {"num_steps": num_steps, "seed": 1, "world_size": num_ranks, "balance": balance}
    sampler = MixtureSampler(components, **at, steps_per_batch=[together] * (num_steps // together))
    ratios = []
    for plan in sampler.plans():
        costs = [sum(tokens[ref.dataset][ref.row] for ref in draws) for draws in plan]
        ratios.append(max(costs) / np.mean(costs))
    return float(np.mean(ratios))


def planning_ms(num_ranks: int, *, num_steps: int) -> float:
    """Return the milliseconds that a rank takes to plan a step of all ranks."""
    _, components = shipped_mixture()
    sampler = MixtureSampler(components, num_steps=num_steps, seed=1, world_size=num_ranks, balance=True)
    began = time.perf_counter()
    num_draws = sum(map(len, sampler))
    assert num_draws > 0
    return 1000 * (time.perf_counter() - began) / num_steps


def main() -> None:
    """Print one JSON object a number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--together", type=int, default=1, help="draws an update, a divisor of --steps")
    args = parser.parse_args()
    for num_ranks in args.ranks:
        at = {"num_steps": args.steps, "together": args.together}
        figures = {
            "as_drawn": cost_ratio(num_ranks, **at, balance=False),
            "by_number": cost_ratio(num_ranks, **at, by_length=False),
            "by_length": cost_ratio(num_ranks, **at),
        }
        figures["planning_ms"] = planning_ms(num_ranks, num_steps=args.steps)
        print(json.dumps({"ranks": num_ranks} | {name: round(figure, 3) for name, figure in figures.items()}))


if __name__ == "__main__":
    main()
