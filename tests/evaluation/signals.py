"""Jobs for the scorer, made of noise."""

import numpy as np
import torch

from custom_modules.evaluation.scoring import ScoringJob
from custom_modules.metrics import align, si_sdr_of_signals
from custom_modules.mmipc import variants_of

GROUPS = ("sdr", "pesq", "stoi")


def noise(*shape, seed=0):
    """Noise that comes and goes, as speech does, at a level of speech."""
    random = np.random.default_rng(seed)
    time = shape[0]
    envelope = 0.05 * (1.2 + np.sin(np.arange(time) / 900))
    samples = random.standard_normal(shape) * envelope.reshape(
        -1, *[1] * len(shape[1:])
    )
    return samples.astype(np.float32)


def job(targets, mixtures, estimates, groups=GROUPS, rate=8000, environment="indoor"):
    """A job as the runner makes it; ``mixtures`` and ``estimates`` by variant."""
    aligned, si_sdr = {}, {}
    batch = torch.from_numpy(targets)[None]
    for variant, mixture in mixtures.items():
        estimate = align(torch.from_numpy(estimates[variant])[None], batch)
        scores = si_sdr_of_signals(estimate, batch, torch.from_numpy(mixture)[None])
        aligned[variant] = estimate[0].numpy()
        si_sdr[variant] = {key: value[0].tolist() for key, value in scores.items()}
    existing = variants_of(environment)
    return ScoringJob("x", rate, groups, existing, targets, mixtures, aligned, si_sdr)
