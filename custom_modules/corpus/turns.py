"""Who says what when: turn-taking by the published statistics of conversation.

A script of turns is drawn first, then laid out in time by one number, the scale of overlap,
which is searched for until the wanted share of speech is overlapped. 1 is Switchboard; below
it overlaps and back-channels are fewer, above it more of them and longer, by its root each.

Sources: Levinson and Torreira 2015 (Frontiers in Psychology 6:731), of Switchboard: 30.1 % of
floor transfers are overlaps, of median 205 ms and mean 275 ms; without silence, 95.3 % of
speech is of one talker. Heldner and Edlund 2010 (Journal of Phonetics 38): transfers have
their mode near 200 ms, and pauses within a turn are longer than gaps. Jurafsky et al. 1997:
19 % of Switchboard's utterances are back-channels. Spreads of gaps and pauses are ours.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

OVERLAPPED_TRANSFERS = 0.301
#: Log-normal laws, median in s and deviation of the logarithm.
OVERLAP = (0.205, 0.766)  # whose mean is 0.275 s
GAP = (0.38, 0.8)  # whose mode is 0.2 s
PAUSE = (0.5, 0.5)
LONGEST_SILENCE = 3.0  # s, of a gap or pause that was drawn
#: Back-channels for each other utterance: 19 % of all.
BACK_CHANNELS = 0.19 / 0.81
#: Recordings up to this length are back-channels, s.
LONGEST_BACK_CHANNEL = 1.0
GO_ON, MOST_SENTENCES = 0.5, 3  # that a talker adds another sentence to a turn
#: Before the first and after the last word, s.
MARGIN = 0.5
#: Of the shorter of two sentences, at most so much is overlapped.
MOST_OVERLAPPED = 0.9
LARGEST_SCALE = 256.0
SEARCH_STEPS = 40

Span = tuple[float, float]


@dataclass(frozen=True)
class Piece:
    """Something to say."""

    path: str  # of its recording
    seconds: float
    spans: tuple[Span, ...]  # s from its start: where it is speech and not a pause
    text: str = ""


@dataclass(frozen=True)
class Utterance:
    """A piece that a talker says."""

    speaker: int
    piece: Piece
    start: float  # s
    back_channel: bool = False

    @property
    def end(self) -> float:
        return self.start + self.piece.seconds

    @property
    def spans(self) -> list[Span]:
        """Where it is speech, s from the conversation's start."""
        return [(self.start + a, self.start + b) for a, b in self.piece.spans]


@dataclass(frozen=True)
class Turn:
    """A turn as it is drawn, before it has a place; times in s."""

    speaker: int
    sentences: list[Piece]
    pauses: list[float]  # after each sentence
    chance: float  # 0 to 1: overlaps the turn before if it is small enough
    overlap: float
    gap: float
    #: Of each sentence: chance, talker, piece and place, 0 to 1, of a back-channel.
    back_channels: list[tuple[float, int, Piece | None, float]]


def draw_turns(pieces: Sequence[Sequence[Piece]], seconds: float, rng: Generator) -> list[Turn]:
    """Turns that last longer than a conversation, of each talker's pieces.

    Each talker speaks once before the draw is free; nobody follows himself. A talker's
    pieces are all used before one comes again.
    """
    long = [[p for p in own if p.seconds > LONGEST_BACK_CHANNEL] or list(own) for own in pieces]
    short = [[p for p in own if p.seconds <= LONGEST_BACK_CHANNEL] for own in pieces]
    sentences = [_without_end(own, rng) for own in long]
    words = [_without_end(own, rng) for own in short]
    opening = list(rng.permutation(len(pieces)))
    turns: list[Turn] = []
    total = 0.0
    while total < 2 * seconds:  # half of it would be overlapped at most
        others = [i for i in range(len(pieces)) if not turns or i != turns[-1].speaker]
        drawn = int(rng.choice(others))
        speaker = int(opening[len(turns)]) if len(turns) < len(opening) else drawn
        turns.append(_draw_turn(speaker, sentences[speaker], words, rng))
        total += sum(piece.seconds for piece in turns[-1].sentences)
    return turns


def _draw_turn(
    speaker: int, sentences: Iterator[Piece], words: list[Iterator[Piece]], rng: Generator
) -> Turn:
    count = 1
    while count < MOST_SENTENCES and rng.random() < GO_ON:
        count += 1
    listeners = [i for i in range(len(words)) if i != speaker]
    back_channels = []
    for _ in range(count):
        listener = int(rng.choice(listeners))
        word = next(words[listener], None)
        back_channels.append((rng.random(), listener, word, rng.random()))
    return Turn(
        speaker,
        [next(sentences) for _ in range(count)],
        [_silence(PAUSE, rng) for _ in range(count)],
        rng.random(),
        _log_normal(OVERLAP, rng),
        _silence(GAP, rng),
        back_channels,
    )


def _without_end(pieces: Sequence[Piece], rng: Generator) -> Iterator[Piece]:
    while pieces:
        yield from (pieces[i] for i in rng.permutation(len(pieces)))


def _log_normal(law: tuple[float, float], rng: Generator) -> float:
    median, deviation = law
    return float(median * np.exp(deviation * rng.standard_normal()))


def _silence(law: tuple[float, float], rng: Generator) -> float:
    return min(_log_normal(law, rng), LONGEST_SILENCE)


def lay_out(turns: Sequence[Turn], scale: float, seconds: float) -> list[Utterance]:
    """Turns in time, as many as fit; never more than two talkers at once."""
    said: list[Utterance] = []
    places: list[tuple[Utterance, tuple[float, int, Piece | None, float]]] = []
    for turn in turns:
        start = _start_of(turn, said, scale)
        for piece, pause, word in zip(turn.sentences, turn.pauses, turn.back_channels, strict=True):
            utterance = Utterance(turn.speaker, piece, _milliseconds(start))
            if utterance.end > seconds - MARGIN:
                return _with_back_channels(said, places, scale)
            said.append(utterance)
            places.append((utterance, word))
            start = utterance.end + pause
    return _with_back_channels(said, places, scale)


def _start_of(turn: Turn, said: list[Utterance], scale: float) -> float:
    if not said:
        return MARGIN
    last = said[-1]
    if turn.chance >= OVERLAPPED_TRANSFERS * _frequency(scale):
        return last.end + turn.gap
    shorter = min(last.piece.seconds, turn.sentences[0].seconds)
    overlap = min(turn.overlap * max(1.0, scale) ** 0.5, MOST_OVERLAPPED * shorter)
    free = max((u.end for u in said[:-1]), default=0.0)  # all but the last are silent
    return max(last.end - overlap, free)


def _milliseconds(time: float) -> float:
    """The next whole one, which tables hold exactly."""
    return math.ceil(1000 * time - 1e-6) / 1000


def _frequency(scale: float) -> float:
    return min(scale, scale**0.5)


def _with_back_channels(
    said: list[Utterance],
    places: list[tuple[Utterance, tuple[float, int, Piece | None, float]]],
    scale: float,
) -> list[Utterance]:
    """Back-channels within sentences, where only their talker speaks; all by time."""
    added = []
    for number, (utterance, (chance, listener, word, place)) in enumerate(places):
        if word is None or chance >= BACK_CHANNELS * _frequency(scale):
            continue
        first = max((u.end for u in said[:number]), default=0.0)
        after = [u.start for u in said[number + 1 :]]
        first, last = max(first, utterance.start), min([utterance.end, *after])
        room = last - first - word.seconds - 0.001  # a start moves by up to 1 ms
        if room > 0:
            start = _milliseconds(first + place * room)
            added.append(Utterance(listener, word, start, back_channel=True))
    return sorted(said + added, key=lambda u: (u.start, u.end))


def overlap_share(spans: Sequence[Span]) -> float:
    """The share of speech in which two or more speak; 0 of none.

    >>> overlap_share([(0, 3), (2, 4)])
    0.25
    """
    edges = sorted([(a, 1) for a, _ in spans] + [(b, -1) for _, b in spans])
    speech = both = 0.0
    talkers, before = 0, 0.0
    for time, change in edges:
        speech += (time - before) * (talkers > 0)
        both += (time - before) * (talkers > 1)
        talkers, before = talkers + change, time
    return both / speech if speech else 0.0


def converse(
    turns: Sequence[Turn], share: float, seconds: float
) -> tuple[list[Utterance], float, float]:
    """Utterances whose share of overlap is nearest to the wanted one; the share, the scale."""

    def attempt(scale: float) -> tuple[list[Utterance], float, float]:
        said = lay_out(turns, scale, seconds)
        return said, overlap_share([span for u in said for span in u.spans]), scale

    best = attempt(0.0)
    if share <= 0:
        return best
    low, high = 0.0, 1.0
    while high < LARGEST_SCALE and attempt(high)[1] < share:
        low, high = high, 2 * high
    for _ in range(SEARCH_STEPS):
        middle = attempt((low + high) / 2)
        best = min(best, middle, key=lambda made: abs(made[1] - share))
        low, high = (middle[2], high) if middle[1] < share else (low, middle[2])
    return best
