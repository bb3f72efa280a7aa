#!/usr/bin/env python3
"""Separates recordings of any length, sampling rate and number of channels.

    python recipes/separation/separate.py exported/dprnn talk.mp3 --output_folder out
    python recipes/separation/separate.py exported/dprnn recordings/ '*.flac' \\
        --output_folder out --channels each --device cuda

MODEL is a folder that export.py wrote, or hf:owner/name of a hub, whose code is run
only with --trust. Each recording becomes <name>_s1.wav and <name>_s2.wav, as long as
it is and of its sampling rate. A rerun skips what the same model and settings have
finished, and replaces no file that it did not write itself, unless with --overwrite.
Several processes share the work under torchrun, or with --shard 1/4 to 4/4. A file that
cannot be separated does not stop the others; the exit status is 1 then, and 2 if an
INPUT is not there.

    arecord -t raw -f S16_LE -r 16000 | python recipes/separation/separate.py exported/dprnn \
        --stream --rate 16000 > two_channels.raw

separates standard input while it comes, raw samples or a wav file: a second and a half later.
"""

from custom_modules.startup import prepare_process

prepare_process(__name__)

import argparse
import datetime
import os
import sys

import torch

from custom_modules import errors
from custom_modules.files import prepare_folder
from custom_modules.inference import NORMALIZATIONS
from custom_modules.limits import option
from custom_modules.longform import live
from custom_modules.longform.stitching import CHUNK_SECONDS
from custom_modules.onnx.runtimes import RUNTIMES
from custom_modules.recordings import pipes
from custom_modules.recordings.jobs import find_recordings
from custom_modules.recordings.streams import CHANNELS
from custom_modules.recordings.work import Separation, load_model

EXIT_SOME_FAILED = 1
CHUNK_HELP = f"default: {CHUNK_SECONDS:g}; with --stream {live.CHUNK_SECONDS:g}"
BATCH_HELP = "chunks at once; default: 1 on a CPU, else 8"
OBSERVATION_HELP = "adds the mixture at that level, dB, to each output; -6 say, for a recogniser"
RUNTIME_HELP = "onnx: MODEL's graph, which export.py --onnx wrote; default: torch"
LEVELS = "sources sum to the mixture's (default), have a peak of 1, or are as they come"

#: Options that mean nothing with ``--stream``, and nothing without it.
OF_FILES = (
    *("channels", "normalize", "overlap_seconds", "batch_size", "observation_db", "shard"),
    *("overwrite", "plot"),
)
OF_STREAMS = ("rate", "pcm", "look_ahead_seconds", "context_seconds")


def main(argv: list[str]) -> int:
    """Lists, loads, separates and reports; returns the exit status."""
    options = parse(argv)
    if options.stream:
        return separate_stream(options)
    recordings, missing = find_recordings(options.inputs, options.output_folder)
    index, count = options.shard
    model = load_model(
        options.model,
        options.device,
        options.precision,
        runtime=options.runtime,
        chunk_seconds=options.chunk_seconds or CHUNK_SECONDS,
        overlap_seconds=options.overlap_seconds,
        batch_size=options.batch_size,
        observation_db=options.observation_db,
        trust=options.trust,
    )
    prepare_folder(options.output_folder)
    separation = Separation(
        model,
        options.channels,
        options.normalize,
        options.overwrite,
        options.plot,
        show_progress=index == 0,
    )
    failed = separation.separate_all(recordings[index::count])
    wait_for_others()
    if missing and index == 0:  # once, not in every process
        for line in missing:
            print(f"failed: {line}", file=sys.stderr)
        return errors.EXIT_BAD_INPUT
    return EXIT_SOME_FAILED if failed else 0


def separate_stream(options: argparse.Namespace) -> int:
    """From standard input to standard output."""
    choice = {"trust": options.trust, "runtime": options.runtime}
    model = load_model(options.model, options.device, options.precision, **choice)
    raw = pipes.PipeFormat(options.rate or model.hparams.sample_rate, options.pcm)
    chunk = options.chunk_seconds or live.CHUNK_SECONDS
    seconds = (chunk, options.look_ahead_seconds, options.context_seconds)
    if sys.stdin is None or sys.stdout is None:
        raise errors.InputError("--stream: standard input or output is closed; give both")
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else goes there
    try:
        pipes.separate_pipe(model, source, sink, raw, *seconds)
    except BrokenPipeError:  # who listened has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0


def wait_for_others() -> None:
    """Under torchrun, which ends all processes as soon as one has failed."""
    if torch.distributed.is_torchelastic_launched():
        patience = datetime.timedelta(days=7)
        torch.distributed.init_process_group("gloo", timeout=patience)
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def parse(argv: list[str]) -> argparse.Namespace:
    """The options; under torchrun, the shard and the device are its."""
    parser = errors.OptionParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder, or hf:owner/name of a hub")
    add("--trust", action="store_true", help="run the code of a hub's MODEL")
    add("inputs", metavar="INPUT", nargs="*", help="files, folders, patterns")
    add("--output_folder", help="where wav files go; not with --stream")
    add("--channels", choices=CHANNELS, default="mix", help="of stereo (default: mix)")
    add("--normalize", choices=NORMALIZATIONS, default="mixture", help=LEVELS)
    add("--device", help="cpu, cuda, cuda:1; default: a GPU if there is one")
    add("--runtime", choices=RUNTIMES, default="torch", help=RUNTIME_HELP)
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    add("--chunk_seconds", type=option("chunk_seconds"), help=CHUNK_HELP)
    add("--overlap_seconds", type=option("overlap_seconds"), help="default: a 16th of a chunk")
    add("--batch_size", type=option("batch_size"), help=BATCH_HELP)
    add("--observation_db", type=option("observation_db"), help=OBSERVATION_HELP)
    add("--shard", type=parse_shard, metavar="I/N", help="the I-th of N parts")
    add("--overwrite", action="store_true", help="also if finished or not made here")
    add("--plot", action="store_true", help="draw <name>.png: spectrograms")
    add("--stream", action="store_true", help="standard input to standard output")
    add("--rate", type=option("sample_rate", "--rate"), help="of raw samples, Hz; default: MODEL's")
    add("--pcm", choices=tuple(pipes.FORMS), default="s16le", help="raw samples, of one channel")
    ahead, context = live.AHEAD_SECONDS, live.CONTEXT_SECONDS
    add("--look_ahead_seconds", type=option("look_ahead_seconds"), default=ahead)
    add("--context_seconds", type=option("context_seconds"), default=context)
    options = parser.parse_args(argv)
    if not options.stream and not (options.inputs and options.output_folder):
        parser.error("INPUT and --output_folder are required, or --stream")
    if options.stream and (options.inputs or options.output_folder):
        parser.error("--stream takes standard input alone, and writes to standard output")
    foreign = OF_FILES if options.stream else OF_STREAMS
    if given := [key for key in foreign if getattr(options, key) != parser.get_default(key)]:
        parser.error(f"--{given[0]}: is not for {'--stream' if options.stream else 'files'}")
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if options.shard and world_size > 1:
        raise errors.InputError("--shard and torchrun both split the work; use one")
    options.shard = options.shard or (int(os.environ.get("RANK", 0)), world_size)
    return options


def parse_shard(text: str) -> tuple[int, int]:
    """``"2/4"`` → (1, 4)."""
    try:
        index, count = map(int, text.split("/"))
    except ValueError:
        index = count = 0
    if not 1 <= index <= count:
        raise argparse.ArgumentTypeError(f"{text} is not a part such as 1/4 … 4/4")
    return index - 1, count


if __name__ == "__main__":
    with errors.exit_cleanly():
        sys.exit(main(sys.argv[1:]))
