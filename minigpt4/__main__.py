"""`python -m minigpt4 COMMAND`: the command line without an installed `minigpt4`."""

import sys

from minigpt4.cli import main

if __name__ == "__main__":
    sys.exit(main())
