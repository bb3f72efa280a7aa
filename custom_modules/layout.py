"""What a PolSESS corpus looks like: its folders and its tables.

The generator writes by these facts and the preparation reads by them.

Source: the corpus and its generator script of Kleć, Szklanny, Wieczorkowska 2024.
"""

from typing import NamedTuple

#: The subsets, in the order in which reports list them.
SUBSETS = ("train", "val", "test")

#: The list of speakers in the corpus folder; columns ``speaker``, ``gender`` and
#: whatever else. PolSESS has none, corpora of the generator do.
SPEAKERS_FILE = "speakers.csv"

#: The published generator limits every signal at this magnitude.
LIMIT = 0.999

#: The columns of a subset's table, in PolSESS's order.
COLUMNS = (
    "subset",
    "speech1OryginalPath",
    "speech1Start",
    "speech1End",
    "speech2OryginalPath",
    "speech2Start",
    "speech2End",
    "SSR",
    "sceneOryginalPath",
    "sceneStart",
    "sceneEnd",
    "sceneRandomDB",
    "sceneOffsetDB",
    "sceneVolumeGain",
    "eventOryginalPath",
    "eventStart",
    "eventEnd",
    "speaker1File",
    "speaker2File",
    "eventFile",
    "sceneFile",
    "reverbForSpeaker1",
    "reverbForSpeaker2",
    "reverbForEvent",
    "mixFile",
    "sceneClass",
    "eventClass",
    "preDelayForEvent",
    "preDelay1",
    "preDelay2",
    "highCut",
    "diffusion",
    "decay",
    "freqDamp",
)


class Layer(NamedTuple):
    """Where one kind of file of a mixture is named and stored.

    Arguments
    ---------
    column : str
        The CSV column that names it.
    folder : str
        The folder inside the subset that holds it.
    """

    column: str
    folder: str


#: name of the layer → column and folder; the mixture comes first
LAYERS = {
    "mix": Layer("mixFile", "mix"),
    "s1": Layer("speaker1File", "clean"),
    "s2": Layer("speaker2File", "clean"),
    "scene": Layer("sceneFile", "scene"),
    "event": Layer("eventFile", "event"),
    "s1_reverb": Layer("reverbForSpeaker1", "sp1_reverb"),
    "s2_reverb": Layer("reverbForSpeaker2", "sp2_reverb"),
    "event_reverb": Layer("reverbForEvent", "ev_reverb"),
}

#: Indoor mixtures have them, outdoor ones do not.
REVERB_LAYERS = ("s1_reverb", "s2_reverb", "event_reverb")

#: Every mixture has them.
DRY_LAYERS = tuple(layer for layer in LAYERS if layer not in REVERB_LAYERS)


def table_name(corpus, subset):
    """The name of a subset's CSV file.

    Arguments
    ---------
    corpus : str
        The name of the corpus folder, or ``"*"`` for a pattern.
    subset : str
        One of :data:`SUBSETS`.

    Returns
    -------
    str

    Example
    -------
    >>> table_name("PolSESS", "val")
    'corpus_PolSESS_val_final.csv'
    """
    return f"corpus_{corpus}_{subset}_final.csv"
