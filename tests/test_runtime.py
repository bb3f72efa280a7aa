"""What a process is set up with."""

import subprocess
import sys

PROGRAM = """
import logging
logging.basicConfig(format="%(message)s")
from custom_modules.runtime import prepare_process
prepare_process()
from speechbrain.utils.train_logger import logger
logger.warning("something else")
"""


def test_a_process_starts_in_silence():
    """But for what concerns the user."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    )
    assert "something else\n" in done.stderr
    assert "torchvision" not in done.stderr
