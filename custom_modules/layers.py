"""Reading the layers of a mixture and cancelling them."""

import soundfile as sf

from custom_modules.errors import InputError


def cancel(mix, layers):
    """Adds layers to a mix with their phase inverted.

    Arguments
    ---------
    mix : numpy.ndarray
        ``[time]``.
    layers : iterable of numpy.ndarray
        What to cancel, each ``[time]``.

    Returns
    -------
    numpy.ndarray
        ``[time]``; the inputs stay as they were.

    Example
    -------
    >>> import numpy as np
    >>> cancel(np.float32([3, 4]), [np.float32([1, 1]), np.float32([1, 0])])
    array([1., 3.], dtype=float32)
    """
    mixture = mix.copy()
    for layer in layers:
        mixture -= layer
    return mixture


def read_layer(path, start, frames):
    """Reads a part of a layer.

    Arguments
    ---------
    path : str
        A file of one channel.
    start : int
        The first sample.
    frames : int
        How many samples.

    Returns
    -------
    numpy.ndarray
        float32, ``[time]``; sums and differences of PCM_16 stay exact in it.

    Raises
    ------
    InputError
        If the file has gone since it was prepared, or is damaged.
    """
    try:
        samples, _ = sf.read(path, frames=frames, start=start, dtype="float32")
    except (sf.LibsndfileError, OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); prepare again") from error
    if samples.shape != (frames,):
        raise InputError(
            f"{path}: not as it was prepared, {samples.shape} samples from {start} on "
            f"instead of {frames}; restore it, or remove the manifests to prepare again"
        )
    return samples
