"""What a process is set up with."""

import os
import subprocess
import sys

PROGRAM = """
import logging
logging.basicConfig(format="%(message)s")
from custom_modules.processes import prepare_process
prepare_process()
from speechbrain.utils.train_logger import logger
logger.warning("something else")
"""


def test_a_process_starts_in_silence():
    """But for what concerns the user."""
    # SpeechBrain leaves this behind in a process in which it has started.
    environment = {k: v for k, v in os.environ.items() if k != "SB_LOG_LEVEL"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stderr == "something else\n"
