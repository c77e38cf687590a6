"""`python -m minigpt4.cli COMMAND`: what torchrun starts."""

import sys

from minigpt4.cli import main

if __name__ == "__main__":
    sys.exit(main())
