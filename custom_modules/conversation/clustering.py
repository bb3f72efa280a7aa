"""How many voices there are, and which passage is whose. Start reading at :func:`cluster`."""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.cluster import hierarchy

from custom_modules.errors import InputError

#: More passages are not compared pair by pair: the rest goes to the nearest voice.
_MOST_COMPARED = 3000
#: Voices are told apart by so many of the recording's principal components.
_COMPONENTS = 6
#: So many are looked for where no number is given.
_MOST_VOICES = 8
#: Voices that have said less than this share of all, and less than so long, are none, s.
LEAST_SHARE, LEAST_SECONDS = 0.02, 3.0


def cluster(
    vectors: np.ndarray, seconds: np.ndarray, number: int | None, threshold: float
) -> np.ndarray:
    """Which voice each passage is of, ``[passages]``, from 0 on in order of appearance.

    Agglomerative by Ward's criterion, then k-means, on the directions in which the unit vectors
    ``[passages, features]`` of this recording differ. Without a number, as many as give the
    best ratio of variances (Caliński and Harabasz 1974); one if the means of two would be nearer
    than ``threshold``, a cosine distance; and voices that say next to nothing, by the passages'
    ``seconds``, go to their nearest.

    >>> cluster(np.eye(2)[[1, 0, 1]], np.full(3, 5.0), None, 0.5)
    array([0, 1, 0])
    """
    count = len(vectors)
    if count < 2 or number == 1:
        return np.zeros(count, int)
    compared = np.unique(np.linspace(0, count - 1, min(count, _MOST_COMPARED)).round().astype(int))
    some, weights = vectors[compared], seconds[compared]
    points = _differences(some, max(_COMPONENTS, number or 0))
    if number:
        (labels,) = _groupings(points, weights, [min(number, len(points))])
    else:
        labels = _best_groups(some, points, weights, threshold)
    known = np.unique(labels)
    nearest = known[(vectors @ centroids(some, labels, known, weights).T).argmax(1)]
    nearest[compared] = labels
    order = list(dict.fromkeys(nearest.tolist()))
    return np.array([order.index(label) for label in nearest.tolist()])


def check_package() -> None:
    """Refuses, in a line, what would fail when a recording has been separated."""
    _sklearn("cluster")


def centroids(
    vectors: np.ndarray, labels: np.ndarray, wanted: Sequence[int] | np.ndarray, seconds: np.ndarray
) -> np.ndarray:
    """The mean voice of each wanted label, ``[labels, features]``, of length one."""
    sums = [np.sum(vectors[labels == x] * seconds[labels == x, None], axis=0) for x in wanted]
    return unit_rows(np.stack(sums))


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Vectors of length one; zeros stay."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _differences(vectors: np.ndarray, components: int) -> np.ndarray:
    """What a room, a microphone and a language have in common taken off, and small noise."""
    decomposition = _sklearn("decomposition")
    fewest = min(components, *vectors.shape)
    return unit_rows(decomposition.PCA(fewest, svd_solver="full").fit_transform(vectors))


def _groupings(
    points: np.ndarray, seconds: np.ndarray, numbers: Sequence[int]
) -> Iterator[np.ndarray]:
    """Labels of as many groups as each number says, by one tree."""
    clusters = _sklearn("cluster")
    tree = hierarchy.linkage(points, "ward")
    for number, labels in zip(numbers, hierarchy.cut_tree(tree, numbers).T, strict=True):
        means = [np.average(points[labels == x], 0, seconds[labels == x]) for x in range(number)]
        fitted = clusters.KMeans(number, init=np.stack(means), n_init=1).fit(points, None, seconds)
        yield fitted.labels_


def _best_groups(
    vectors: np.ndarray, points: np.ndarray, seconds: np.ndarray, threshold: float
) -> np.ndarray:
    """Labels of the number of groups that are parted best, one if two are not apart enough."""
    ratio = _sklearn("metrics").calinski_harabasz_score
    best = (-np.inf, np.zeros(len(points), int))
    numbers = range(2, min(_MOST_VOICES, len(points) - 1) + 1)
    if not numbers:
        return best[1]
    for number, labels in zip(numbers, _groupings(points, seconds, numbers), strict=True):
        if number == 2 and _least_distance(vectors, labels) < threshold:
            break
        labels = _without_small(points, labels, seconds)
        if len(np.unique(labels)) > 1 and _least_distance(vectors, labels) >= threshold / 2:
            best = max(best, (ratio(points, labels), labels), key=lambda scored: scored[0])
    return best[1]


def _least_distance(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Between the means of two groups, less what so few vectors differ by chance."""
    known, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if len(known) < 2:  # all voices are the same
        return 0.0
    means = np.stack([vectors[labels == label].mean(0) for label in known])
    spread = np.square(vectors - means[places]).sum() / (len(vectors) - len(known))
    unit = unit_rows(means)
    chance = (spread / counts[:, None] + spread / counts) / 2
    distances = 1 - unit @ unit.T - chance
    return float(distances[np.triu_indices(len(known), 1)].min())


def _without_small(points: np.ndarray, labels: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """What is too little to be a voice goes to the nearest."""
    totals = np.bincount(labels, seconds)
    least = min(LEAST_SECONDS, LEAST_SHARE * totals.sum(), totals.max())
    kept = np.flatnonzero(totals >= least)
    nearest = kept[(points @ centroids(points, labels, kept, seconds).T).argmax(1)]
    return np.where(np.isin(labels, kept), labels, nearest)


def _sklearn(module: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise InputError(
            "scikit-learn, which tells voices apart, is not installed; "
            "pip install scikit-learn, or give --diarization or --num_speakers 1"
        ) from error
