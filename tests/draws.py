"""What the tests draw: the same in each run, or by ``DRAWS=7 make test`` else."""

import os

DRAWS = int(os.environ.get("DRAWS", "0"))
