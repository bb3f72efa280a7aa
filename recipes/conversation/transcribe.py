#!/usr/bin/env python3
"""Transcribes recordings of conversations: who said what, and when.

    python recipes/conversation/transcribe.py exported/spmamba talk.mp3 interviews/ \\
        --recogniser whisper:FOLDER --output_folder transcripts/
    python recipes/conversation/transcribe.py exported/spmamba talk.wav --diarization talk.rttm \\
        --recogniser mini:results/mini/42 --output_folder transcripts/ --formats eaf,srt

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
from custom_modules.conversation.chain import CHANNELS, SEPARATE
from custom_modules.conversation.formats import FORMATS
from custom_modules.conversation.parts import add_options, load_chain
from custom_modules.conversation.sessions import Sessions, is_track
from custom_modules.files import prepare_folder
from custom_modules.recordings.jobs import find_recordings

EXIT_SOME_FAILED = 1
SEPARATE_HELP = "what is separated (default: overlaps; none: both get the recording there)"


def main(argv: list[str]) -> int:
    """Lists, loads, transcribes and reports; returns the exit status."""
    options = parse(argv)
    recordings, missing = find_recordings(options.inputs, options.output_folder)
    named = set(options.inputs)
    recordings = [r for r in recordings if str(r.path) in named or not is_track(r.path)]
    if options.diarization and not Path(options.diarization).exists():
        raise errors.InputError(f"--diarization={options.diarization}: no such file or folder")
    chosen = {"separate": options.separate, "channels": options.channels}
    given = bool(options.diarization)
    chain, settings = load_chain(options, options.num_speakers, given, **chosen)
    prepare_folder(options.output_folder)
    sessions = Sessions(
        chain,
        f"{settings | {'num_speakers': options.num_speakers}}",
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


def parse(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = errors.OptionParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="an exported folder")
    add("inputs", metavar="INPUT", nargs="+", help="files, folders, patterns")
    add("--output_folder", required=True)
    add_options(parser)
    add("--diarization", metavar="PATH", help="who speaks when: .rttm or SegLST, or a folder")
    add("--num_speakers", type=parse_number, metavar="N|auto", help="default: auto, by voices")
    add("--separate", choices=SEPARATE, default="overlaps", help=SEPARATE_HELP)
    add("--formats", type=parse_formats, default=[*FORMATS], help=f"of {','.join(FORMATS)}")
    add("--channels", choices=CHANNELS, default="mix", help="of stereo (default: mix)")
    add("--no_tracks", action="store_true", help="write no <name>_tracks/")
    add("--no_plot", action="store_true", help="draw no <name>.png")
    add("--overwrite", action="store_true", help="also what was not made here")
    options = parser.parse_args(argv)
    if options.diarization and options.num_speakers:
        parser.error("--num_speakers: --diarization says who speaks; leave one of them out")
    if options.separate == "none" and options.observation_db is not None:
        parser.error("--observation_db: nothing is separated with --separate none; leave it out")
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
