"""Jobs for the scorer, made of noise."""

import numpy as np
import torch

from custom_modules.evaluation.scoring import ScoringJob, score_mixture
from custom_modules.evaluation.summary import ROW_KEYS, describe
from custom_modules.evaluation.tables import score_rows
from custom_modules.metrics import align, metrics_of, scores_on_device
from custom_modules.mmipc import variants_of

GROUPS = ("sdr", "pesq", "stoi")


def noise(*shape, seed=0):
    """Noise that comes and goes, as speech does, at a level of speech."""
    random = np.random.default_rng(seed)
    time = shape[0]
    envelope = 0.05 * (1.2 + np.sin(np.arange(time) / 900))
    samples = random.standard_normal(shape) * envelope.reshape(-1, *[1] * len(shape[1:]))
    return samples.astype(np.float32)


def job(targets, mixtures, estimates, groups=GROUPS, rate=8000, environment="indoor"):
    """A job as the runner makes it; ``mixtures`` and ``estimates`` by variant."""
    metrics = metrics_of(groups, targets.shape[1])
    aligned, on_device = {}, {name: {} for name in metrics}
    batch = torch.from_numpy(targets)[None]
    for variant, mixture in mixtures.items():
        estimate = align(torch.from_numpy(estimates[variant])[None], batch)
        aligned[variant] = estimate[0].numpy()
        mixture = torch.from_numpy(mixture)[None]
        scores = scores_on_device(metrics, estimate, batch, mixture)
        for name, by_signal in scores.items():
            of_sources = {suffix: x[0].tolist() for suffix, x in by_signal.items()}
            on_device[name][variant] = of_sources
    return ScoringJob(
        "x", rate, metrics, variants_of(environment), targets, mixtures, aligned, on_device
    )


def scored_rows(job, groups=GROUPS):
    """Variant → a dict per source, as a row of test_results.csv; None is no score."""
    keys = {"id": "x"} | describe({"environment": "indoor"})
    scored = [(keys | {"variant": v}, x) for v, x in score_mixture(job).items()]
    table = score_rows(scored, groups, job.targets.shape[1])
    table["failures"] = table.failures.map("; ".join)
    rows = table.drop(columns=list(ROW_KEYS)).astype(object)
    rows = rows.where(rows.notna(), None).assign(variant=table.variant)
    return {
        variant: part.drop(columns="variant").to_dict("records")
        for variant, part in rows.groupby("variant")
    }
