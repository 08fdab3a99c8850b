"""`python -m yoloprune` is the same as `yoloprune`."""

import sys

from yoloprune.cli import main

if __name__ == "__main__":
    sys.exit(main())
