"""Stands in for train.py: writes a history that depends on lr alone.

python fake_training.py hparams.yaml --lr=1e-3 --output_folder=FOLDER

A value of 0 is best, at lr 1e-3. With --wait_for=FILE it waits after the first epoch
until there is such a file; with --fail_above=LR it fails where the rate is higher.
"""

import math
import os
import sys
import time


def main(options):
    """Writes four epochs, or fails."""
    folder, lr = options["output_folder"], float(options["lr"])
    print(f"pid {os.getpid()} begins", flush=True)
    if lr > float(options.get("fail_above", "inf")):
        sys.exit("error: epoch 1: the loss is not finite; lower --lr")
    for epoch in range(1, 5):
        value = epoch - 4 - abs(math.log10(lr) + 3)
        new = not os.path.exists(f"{folder}/history.csv")
        with open(f"{folder}/history.csv", "a", encoding="utf-8") as stream:
            stream.write("epoch,valid_si_sdr\n" * new + f"{epoch},{value}\n")
        while "wait_for" in options and not os.path.exists(options["wait_for"]):
            time.sleep(0.05)


if __name__ == "__main__":
    main(dict(a[2:].split("=", 1) for a in sys.argv[1:] if a.startswith("--")))
