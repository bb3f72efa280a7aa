"""What a separated file was made by, as its own comment says."""

from custom_modules.evaluation.models import fingerprint

#: How the comments begin of the files that ``separate.py`` has written.
MADE_HERE = "separate.py "


def describe_settings(model, channels, normalize):
    """All that makes the outputs of a recording what they are.

    Arguments
    ---------
    model : custom_modules.inference.PolSESSSeparation
    channels, normalize : str
        As for :func:`custom_modules.recordings.streams.separate_recording`.

    Returns
    -------
    str
        A line, the same for the same model and settings on any device.
    """
    hparams = model.hparams
    digest = fingerprint(model.mods)
    settings = {
        "model": f"{getattr(hparams, 'model_name', 'unnamed')}-{digest}",
        "channels": channels,
        "normalize": normalize,
        "chunk_seconds": model.chunk_seconds,
        "overlap_seconds": model.overlap_seconds,
        "precision": model.precision,
    }
    pairs = (f"{name}={value}" for name, value in settings.items())
    return MADE_HERE + " ".join(pairs)
