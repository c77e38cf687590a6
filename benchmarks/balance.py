"""How uneven the ranks' work is, and what sharing out the samples of all draws changes; needs no model and no data.

    python benchmarks/balance.py --ranks 8 64

Prints for each number of ranks the mean over steps of the largest rank's cost over the mean rank's, on the shipped
mixture: an image costs 256 tokens, the text of a row an exponentially distributed number (mean 60).
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from minigpt4.common.config import PACKAGE_DIR, Config
from minigpt4.datasets.mixture import Ingredient, MixtureSampler

MIXTURE = PACKAGE_DIR.parent / "train_configs" / "minigptv2_finetune_dataengine.yaml"
NUM_ROWS = 1000


def shipped_ingredients() -> list[Ingredient]:
    """Return the 25 datasets of the shipped mixture with drawn lengths of their rows."""
    rng = np.random.default_rng(0)
    ingredients = []
    for name, body in Config.load(MIXTURE).datasets_cfg.items():
        image = 0 if name == "unnatural_instruction" else 256
        lengths = image + rng.exponential(60, NUM_ROWS)
        ingredients.append(Ingredient(str(name), NUM_ROWS, body.batch_size, body.sample_ratio, lengths=lengths))
    return ingredients


def cost_ratio(num_ranks: int, *, balance: bool, num_steps: int) -> float:
    """Return the mean over steps of the largest rank's cost over the mean rank's."""
    ingredients = shipped_ingredients()
    by_name = {ingredient.name: ingredient for ingredient in ingredients}
    at: dict[str, Any] = {"num_steps": num_steps, "seed": 1, "world_size": num_ranks}
    costs = [
        [sum(by_name[draw.dataset].cost(draw.row) for draw in draws) for draws in sampler]
        for sampler in (MixtureSampler(ingredients, **at, rank=r, balance=balance) for r in range(num_ranks))
    ]
    per_step = np.array(costs).T
    return float((per_step.max(1) / per_step.mean(1)).mean())


def main() -> None:
    """Print one JSON object a number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    for num_ranks in args.ranks:
        drawn, shared = (cost_ratio(num_ranks, balance=balance, num_steps=args.steps) for balance in (False, True))
        print(json.dumps({"ranks": num_ranks, "as_drawn": round(drawn, 3), "shared_out": round(shared, 3)}))


if __name__ == "__main__":
    main()
