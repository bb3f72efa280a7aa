"""What a PolSESS corpus looks like: its folders, its tables, who speaks in it.

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


def speaker_of(recording, speakers):
    """Who speaks in a recording, by its path.

    It is the outermost folder that is the name of a speaker: in the layout of
    LibriSpeech and MLS, ``speaker/book/file``, both folders are numbers, and a
    book may have that of another speaker.

    Arguments
    ---------
    recording : str
        The path in a table, with slashes of either kind; of joined recordings,
        the first counts.
    speakers : collection of str
        Those of the corpus.

    Returns
    -------
    str
        ``""`` if no folder is a speaker's.

    Example
    -------
    >>> speaker_of("D:\\\\mls\\\\6892\\\\10179\\\\7.flac", {"6892", "10179"})
    '6892'
    >>> speaker_of("sources/speech/m1/0.wav", {"m1"}), speaker_of("m1", {"m1"})
    ('m1', '')
    """
    folders = recording.replace("\\", "/").split("/")[:-1]
    return next((name for name in folders if name in speakers), "")


def with_speaker(recording, speaker, speakers):
    """A recording's path, in front of it the speaker if :func:`speaker_of` errs.

    Arguments
    ---------
    recording : str
        Its path.
    speaker : str
        Who speaks; a name without slashes.
    speakers : collection of str
        Those of the corpus, or more.

    Returns
    -------
    str
        A path of which :func:`speaker_of` says that it is the speaker's.

    Example
    -------
    >>> with_speaker("mls/6892/10179/7.flac", "6892", {"6892", "10179"})
    'mls/6892/10179/7.flac'
    >>> with_speaker("mls/6892/10179/7.flac", "10179", {"6892", "10179"})
    '10179/mls/6892/10179/7.flac'
    """
    if speaker_of(recording, speakers) == speaker:
        return recording
    return f"{speaker}/{recording}"
