"""Generating a corpus: prepare the sources, mix in parallel, write the CSVs."""

import hashlib
import json
import time
from pathlib import Path

from tqdm import tqdm

from custom_modules.corpus import layout
from custom_modules.corpus.mixing import Mixer
from custom_modules.corpus.pool import Pool
from custom_modules.corpus.sources import Setup
from custom_modules.corpus.state import State
from custom_modules.errors import InputError
from custom_modules.layout import SPEAKERS_FILE, SUBSETS

ROLES = ("speech", "scene", "event")
#: Raise it when the same options begin to give other audio.
PROCEDURE = 1


def generate(hparams, options):
    """Makes a corpus, or what is missing of it.

    Arguments
    ---------
    hparams : dict
        ``output_folder, seed, sample_rate, duration, n_train, n_val, n_test,
        workers, overwrite, indoor_share, max_tries`` and the sources ``speech,
        scene, event``.
    options : dict
        What the corpus depends on, as plain values: it is compared with what an
        earlier run in the same folder had.

    Returns
    -------
    dict of str to list of dict
        Subset → rows.

    Raises
    ------
    InputError
        If options, recordings or the output folder do not serve.
    """
    begun = time.monotonic()
    setup, sizes = make_setup(hparams)
    sources = {role: hparams[role] for role in ROLES}
    with State(setup.output_folder, setup.length) as state:
        recordings = _begin(state, setup, sources, hparams["overwrite"], options)
        write_speakers(setup.output_folder, recordings["speech"])
        limits = hparams["indoor_share"], hparams["max_tries"]
        mixer = Mixer(setup, sources, recordings, *limits)
        rows, tries = _make(mixer, state, sizes)
        state.finish()
    print(summary(setup, rows, recordings["speech"], tries, time.monotonic() - begun))
    return rows


def _begin(state, setup, sources, overwrite, options):
    """Checks everything, and only then changes anything; lists the recordings."""
    options = {"procedure": PROCEDURE, **options}
    state.check(options, overwrite)
    for source in sources.values():
        source.check(setup)
    state.claim(options)
    recordings = {role: source.prepare(setup) for role, source in sources.items()}
    state.pin(_digest(recordings), overwrite)
    return recordings


def make_setup(hparams):
    """Checks the numbers of the hparams.

    Returns
    -------
    setup : Setup
    sizes : dict of str to int
        Subset → mixtures wanted, without empty subsets.

    Raises
    ------
    InputError
        If one is out of range.
    """
    sizes = {s: _number(hparams, f"n_{s}", 0, kind=int) for s in SUBSETS}
    sizes = {subset: size for subset, size in sizes.items() if size}
    if not sizes:
        raise InputError("n_train, n_val and n_test are all 0; nothing to generate")
    _number(hparams, "max_tries", 1, kind=int)
    if hparams["indoor_share"] is not None:
        _number(hparams, "indoor_share", 0, 1)
    if not isinstance(hparams["overwrite"], bool):
        raise InputError(
            f"overwrite is {hparams['overwrite']!r}; set it to True or False"
        )
    if not hparams["output_folder"]:
        raise InputError("output_folder is empty; set --output_folder to a folder")
    setup = Setup(
        output_folder=Path(str(hparams["output_folder"])),
        rate=_number(hparams, "sample_rate", 1000, 384_000, kind=int),
        duration=_number(hparams, "duration", 0.1, 3600),
        seed=_number(hparams, "seed", 0, kind=int),
        workers=_number(hparams, "workers", 1, kind=int),
        subsets=tuple(sizes),
        progress=_progress,
    )
    return setup, sizes


def _number(hparams, key, lowest, highest=float("inf"), kind=float):
    value = hparams[key]
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or (kind is float and isinstance(value, float))):
        wanted = "whole number" if kind is int else "number"
        raise InputError(f"{key} is {value!r}; set --{key} to a {wanted}")
    if not lowest <= value <= highest:
        bounds = (
            f"at least {lowest}" if highest == float("inf") else f"{lowest}…{highest}"
        )
        raise InputError(f"{key} is {value!r}; it must be {bounds}")
    return value


def _progress(items, desc, total):
    return tqdm(items, desc=desc, total=total, dynamic_ncols=True, leave=False)


def _digest(recordings):
    listed = [
        (role, subset, r.path, r.group, r.samples)
        for role in ROLES
        for subset, chosen in recordings[role].items()
        for r in chosen
    ]
    return hashlib.blake2b(json.dumps(listed).encode(), digest_size=16).hexdigest()


def write_speakers(root, recordings):
    """Writes ``speakers.csv``: who speaks in which subset.

    Arguments
    ---------
    root : pathlib.Path
        The corpus.
    recordings : dict of str to list of Recording
        Of the speech source.
    """
    rows = {}
    for subset, chosen in recordings.items():
        for r in chosen:
            cells = {"speaker": r.group, "gender": r.gender, "subset": subset}
            cells["source"] = _speaker_folder(r)
            rows.setdefault((subset, r.group), cells)
    columns = ("speaker", "gender", "subset", "source")
    layout.write_rows(root / SPEAKERS_FILE, columns, rows.values())


def _speaker_folder(recording):
    """The folder that is named after the speaker; empty if there is none."""
    folders = recording.path.split("/")[:-1]
    if recording.group not in folders:
        return ""
    return "/".join(folders[: folders.index(recording.group) + 1])


def _make(mixer, state, sizes):
    """Makes every subset; returns its rows, and the candidates that each took."""
    rows, tries = {}, []
    with Pool(mixer, state) as pool:
        for subset, size in sizes.items():
            rows[subset] = _make_subset(pool, state, subset, size, tries)
    return rows, tries


def _make_subset(pool, state, subset, size, tries):
    """Makes the mixtures of a subset that are missing, and its CSV."""
    rows = {i: row for i, row in state.done_rows(subset).items() if i < size}
    missing = [(subset, index) for index in range(size) if index not in rows]
    bar = tqdm(total=size, initial=len(rows), desc=subset, dynamic_ncols=True)
    with bar:
        for index, row, tried in pool.run(missing):
            rows[index] = row
            tries.append(tried)
            bar.update()
    ordered = [rows[index] for index in range(size)]
    _check_unique(ordered)
    state.finish_subset(subset, ordered)
    return ordered


def _check_unique(rows):
    """No two mixtures of a subset may be of the same two segments."""
    seen = {}
    for row in rows:
        pair = frozenset(
            (row[f"speech{n}OryginalPath"], row[f"speech{n}Start"]) for n in (1, 2)
        )
        other = seen.setdefault(pair, row)
        if other is not row:
            raise InputError(
                f"{row['mixFile']}: its speech is that of {other['mixFile']}; there is "
                f"too little for {len(rows)} mixtures: add recordings or lower n_"
                + row["subset"]
            )


def summary(setup, rows, speech, tries, seconds):
    """What was made, as a few lines to print.

    Arguments
    ---------
    setup : Setup
    rows : dict of str to list of dict
        Subset → rows.
    speech : dict of str to list of Recording
        Subset → recordings of the speech source.
    tries : list of int
        Candidates per mixture made in this run.
    seconds : float
        Wall time.

    Returns
    -------
    str
    """
    lines = [f"{'subset':8}{'rows':>8}{'hours':>8}{'indoor':>8}{'voices':>8}"]
    for subset, made in rows.items():
        hours = len(made) * setup.duration / 3600
        indoor = sum(bool(row.get("reverbForSpeaker1")) for row in made) / len(made)
        voices = len({recording.group for recording in speech[subset]})
        lines.append(f"{subset:8}{len(made):8}{hours:8.2f}{indoor:8.0%}{voices:8}")
    done = f"{len(tries)} mixtures made in {seconds:.1f} s"
    if tries:
        rejected = 1 - len(tries) / sum(tries)
        done += f", {rejected:.1%} of the candidates drawn again"
    else:
        done += ", all were there"
    lines.append(f"{done}; {setup.output_folder}")
    return "\n".join(lines)
