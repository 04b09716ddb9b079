"""`python -m micse_utils` is the command `micse`; so it also runs under `torchrun -m`."""

import sys

from micse_utils.cli import main

if __name__ == "__main__":
    sys.exit(main())
