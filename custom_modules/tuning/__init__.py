"""Search for hyperparameters: W&B's sweep files, run by Optuna without a service."""
