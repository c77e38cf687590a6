"""All drivers, each in a separate process: python -m tests.null_gpu.drivers FOLDER

They are forked from one that has imported what they need, as importing takes longer than most drivers.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.null_gpu import answers, commands, machines, ranks, training

DRIVERS = {
    "training": training.main,
    "ranks": ranks.main,
    "commands": commands.main,
    "answers": answers.main,
    "old_gpu": machines.old_gpu,
    "second_gpu": machines.second_gpu,
}


def main() -> None:
    """Write NAME.json for each driver: how its process ended, the end of what it said, and the facts of its cases."""
    folder = Path(sys.argv.pop(1))
    for name, driver in DRIVERS.items():
        said, facts = folder / f"{name}.stderr", folder / f"{name}.lines"
        child = os.fork()
        if not child:
            for path, stream in ((facts, 1), (said, 2)):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            driver()
            return
        _, status = os.waitpid(child, 0)
        cases = {line["case"]: line for line in map(json.loads, facts.read_text().splitlines())}
        ended = {"returncode": os.waitstatus_to_exitcode(status), "stderr": said.read_text()[-3000:], "cases": cases}
        (folder / f"{name}.json").write_text(json.dumps(ended))


if __name__ == "__main__":
    main()
