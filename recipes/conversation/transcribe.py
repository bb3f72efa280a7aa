#!/usr/bin/env python3
"""Transcribes recordings of conversations: who said what, and when.

    python recipes/conversation/transcribe.py exported/spmamba talk.mp3 interviews/ \\
        --recogniser whisper:FOLDER --output_folder transcripts/
    python recipes/conversation/transcribe.py exported/spmamba talk.wav --diarization talk.rttm \\
        --recogniser mini:results/recogniser/42 --output_folder transcripts/ --formats eaf,srt

MODEL is a folder that export.py wrote, of a model that separates two speakers. Where two speak
at once, it does; elsewhere a speaker's track is the recording itself. Who speaks when is read
from --diarization (RTTM or SegLST; a folder holds <name>.rttm for each recording), or found.
Beside <name> with the formats' suffixes are written <name>.png, <name>_tracks/<speaker>.wav
and <name>.transcribed.json, by which a rerun knows what is finished; a killed run goes on. A
recording that fails does not stop the others; the exit status is 1 then, and 2 if an INPUT is
not there.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import sys
from pathlib import Path

from custom_modules import errors
from custom_modules.conversation.activity import DETECTORS
from custom_modules.conversation.chain import CHANNELS, SEPARATE, Chain
from custom_modules.conversation.formats import FORMATS
from custom_modules.conversation.sessions import Sessions, is_track
from custom_modules.conversation.stretches import ModelSeparator
from custom_modules.conversation.transcripts import Recogniser, load_recogniser
from custom_modules.evaluation.record import fingerprint
from custom_modules.files import prepare_folder
from custom_modules.limits import option
from custom_modules.longform.stitching import CHUNK_SECONDS
from custom_modules.recordings.jobs import find_recordings
from custom_modules.recordings.work import load_model

EXIT_SOME_FAILED = 1
RECOGNISER_HELP = "such as whisper:FOLDER or mini:FOLDER; without, only who speaks when"
SEPARATE_HELP = "what is separated (default: overlaps; none: both get the recording there)"


def main(argv: list[str]) -> int:
    """Lists, loads, transcribes and reports; returns the exit status."""
    options = parse(argv)
    recordings, missing = find_recordings(options.inputs, options.output_folder)
    recordings = [recording for recording in recordings if not is_track(recording.path)]
    chain, settings = load(options)
    prepare_folder(options.output_folder)
    sessions = Sessions(
        chain,
        settings,
        options.formats,
        options.diarization and Path(options.diarization),
        not options.no_tracks,
        not options.no_plot,
        options.overwrite,
    )
    failed = sessions.transcribe_all(recordings)
    for line in missing:
        print(f"failed: {line}", file=sys.stderr)
    if missing:
        return errors.EXIT_BAD_INPUT
    return EXIT_SOME_FAILED if failed else 0


def load(options: argparse.Namespace) -> tuple[Chain, str]:
    """The chain, and a line for all that its outputs depend on beside the inputs."""
    if options.diarization and not Path(options.diarization).exists():
        raise errors.InputError(f"--diarization={options.diarization}: no such file or folder")
    loading = {"device": options.device, "chunk_seconds": options.chunk_seconds}
    models = [load_model(options.model, **loading)]
    if options.enhancer:
        models.append(load_model(options.enhancer, **loading))
    recogniser = None
    if options.recogniser:
        recogniser = load_recogniser(options.recogniser, options.device or "cpu")
    chain = Chain(
        ModelSeparator(models[0]),
        recogniser,
        ModelSeparator(models[1]) if options.enhancer else None,
        options.separate,
        options.num_speakers,
        options.activity,
        options.embedding,
        options.channels,
        options.context_seconds,
    )
    chain.check(diarization_is_given=bool(options.diarization))
    chosen = {key: getattr(options, key) for key in CHOICES}
    made_by = [fingerprint(model.mods) for model in models]
    return chain, f"{made_by} {name_of(recogniser)} {chosen}"


#: Options that change what is written.
CHOICES = ("separate", "num_speakers", "activity", "embedding", "channels")
CHOICES += ("context_seconds", "chunk_seconds")


def name_of(recogniser: Recogniser | None) -> str:
    """All that a recogniser's texts depend on."""
    known = (getattr(recogniser, key, "") for key in ("name", "version", "options"))
    return " ".join(map(str, known))


def parse(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = errors.OptionParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="an exported folder")
    add("inputs", metavar="INPUT", nargs="+", help="files, folders, patterns")
    add("--output_folder", required=True)
    add("--recogniser", metavar="KIND:FOLDER", help=RECOGNISER_HELP)
    add("--diarization", metavar="PATH", help="who speaks when: .rttm or SegLST, or a folder")
    add("--num_speakers", type=parse_number, metavar="N|auto", help="default: auto, by voices")
    add("--enhancer", metavar="MODEL", help="an exported EB model, for where one speaks")
    add("--separate", choices=SEPARATE, default="overlaps", help=SEPARATE_HELP)
    add("--formats", type=parse_formats, default=[*FORMATS], help=f"of {','.join(FORMATS)}")
    add("--activity", choices=[*DETECTORS], default="silero", help="finds speech")
    add("--embedding", default="resemblyzer", help="of voices: resemblyzer or ecapa:FOLDER")
    add("--channels", choices=CHANNELS, default="mix", help="of stereo (default: mix)")
    add("--context_seconds", type=float, default=4.0, help="around an overlap (default: 4)")
    add("--chunk_seconds", type=option("chunk_seconds"), default=CHUNK_SECONDS)
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add("--no_tracks", action="store_true", help="write no <name>_tracks/")
    add("--no_plot", action="store_true", help="draw no <name>.png")
    add("--overwrite", action="store_true", help="also what was not made here")
    options = parser.parse_args(argv)
    errors.check_number("--context_seconds", options.context_seconds, least=0, most=60)
    return options


def parse_number(text: str) -> int | None:
    """``auto`` → None."""
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text} is neither auto nor a number from 1 to 100")
    return int(text)


def parse_formats(text: str) -> list[str]:
    """``"eaf,srt"`` → the two names."""
    names = text.split(",")
    if unknown := [name for name in names if name not in FORMATS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(FORMATS)}")
    return names


if __name__ == "__main__":
    with errors.exit_cleanly():
        sys.exit(main(sys.argv[1:]))
