"""The sample world: small drawn data in every layout of the real downloads, and a tiny model to train on them.

python -m minigpt4.sample_world --out sample_world --num-train-scenes 4000 --num-eval-scenes 6400 --seed 0
python -m minigpt4.sample_world --out small --num-train-scenes 40 --num-eval-scenes 150     # the least, in seconds
"""

from __future__ import annotations

import argparse
from pathlib import Path

from minigpt4.sample_world.world import WorldSize, write_world


def main() -> None:
    """Read the command line and write the world."""
    prog = "python -m minigpt4.sample_world"
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog=prog, description=__doc__, formatter_class=kind)
    size = WorldSize()
    parser.add_argument("--out", type=Path, required=True, help="folder to write; made when absent")
    parser.add_argument("--num-train-scenes", type=int, default=size.num_train_scenes)
    parser.add_argument("--num-eval-scenes", type=int, default=size.num_eval_scenes)
    dev_help = "more scenes in dev_dataset, to choose steps and rates by; none as a rule"
    parser.add_argument("--num-dev-scenes", type=int, default=size.num_dev_scenes, help=dev_help)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        size = WorldSize(args.num_train_scenes, args.num_eval_scenes, args.num_dev_scenes)
    except ValueError as error:
        parser.error(str(error))
    write_world(args.out, size, seed=args.seed)
    print(f"wrote {args.out}: train_dataset, evaluation_dataset, the tiny model, train_configs, eval_configs")


if __name__ == "__main__":
    main()
