"""A visit as HTML. What visitors brought, names above all, is escaped here."""

from collections.abc import Iterable
from html import escape
from urllib.parse import quote

from custom_modules.page import visits
from custom_modules.page.speaking import Turn
from custom_modules.page.texts import clock_time, say
from custom_modules.page.visits import Visit

#: Files of a visit that are not sources.
TRANSCRIPT, SPECTROGRAMS = "transcript.txt", "spectrograms.png"
#: The timeline's height for each speaker, and its width, in units of its own.
_ROW, _WIDTH = 28, 1000


def status(visit: Visit, language: str, ahead: int) -> str:
    """Where a visit is, in a sentence, and how far."""
    if visit.problem:
        return problem(visit.problem.told(language), visit.token)
    done = clock_time(visit.share * visit.seconds)
    values = {"ahead": ahead, "done": done, "length": clock_time(visit.seconds)}
    sentence = say(language, visit.stage, name=visit.name, **values)
    notes = [say(language, note) for note in visit.notes if visit.stage == visits.FINISHED]
    bar = ""
    if visit.stage in (visits.SEPARATING, visits.READING):
        bar = f'<progress max="1" value="{visit.share:.3f}"></progress>'
    return _status(visit.stage, escape(" ".join([sentence, *notes])), visit.token, bar)


def problem(sentence: str, token: str = "") -> str:
    """Why it goes no further."""
    return _status("failed", escape(sentence), token)


def told(sentence: str) -> str:
    """A sentence of no visit."""
    return _status("told", escape(sentence))


def _status(stage: str, text: str, token: str = "", more: str = "") -> str:
    visit = f' data-visit="{token}"' if token else ""
    return f'<div class="status {stage}"{visit}><p>{text}</p>{more}</div>'


def players(visit: Visit, language: str) -> str:
    """What there is to listen to, even while it is being made."""
    if not visit.tracks:
        return ""
    names = ["mixture", *(f"s{i + 1}" for i in range(len(visit.tracks) - 1))]
    titles = [say(language, "mixture"), *speakers(visit, language)]
    rows = "".join(_player(visit, *pair) for pair in zip(names, titles, strict=True))
    return f'<div class="players">{rows}</div>'


def _player(visit: Visit, name: str, title: str) -> str:
    return (
        f'<figure class="{name}"><figcaption>{title}</figcaption><audio controls '
        f'preload="none" aria-label="{title}" src="{_address(visit, f"{name}.wav")}">'
        "</audio></figure>"
    )


def speakers(visit: Visit, language: str) -> list[str]:
    """What the sources are called."""
    count = len(visit.tracks) - 1
    if count == 1:
        return [say(language, "speech")]
    return [say(language, "speaker", number=number + 1) for number in range(count)]


def results(visit: Visit, language: str, with_words: bool) -> str:
    """What came of it: files, turns, words, spectrograms; nothing before the end.

    Also where it was stopped, or failed, once the files were there.
    """
    if not visit.is_over or not visit.files:
        return ""
    links = [_download(path.name, _address(visit, path.name), language) for path in visit.files]
    if with_words:
        address = f"{_address(visit, TRANSCRIPT)}?language={quote(language)}"
        links.append(_download(f"{visit.recording.stem}.txt", address, language))
    address, alt = _address(visit, SPECTROGRAMS), say(language, "spectrograms")
    parts = [
        f'<p class="downloads">{"".join(links)}</p>',
        f"<h2>{say(language, 'who_when')}</h2>{timeline(visit, language)}",
        _words(visit, language) if with_words and visit.turns else "",
    ]
    if visit.picture:
        parts.append(f'<h2>{alt}</h2><img class="spectrograms" src="{address}" alt="{alt}">')
    return '<div class="results">' + "".join(parts) + "</div>"


def _download(name: str, address: str, language: str) -> str:
    text = escape(say(language, "download", file=name))
    return f'<a download href="{address}">{text}</a>'


def timeline(visit: Visit, language: str) -> str:
    """A row for each speaker; as a sentence for those who cannot see it."""
    if not visit.turns:
        return f"<p>{say(language, 'nobody')}</p>"
    rows = []
    for number, title in enumerate(speakers(visit, language)):
        own = [turn for turn in visit.turns if turn.speaker == number]
        bars = "".join(_bar(turn, visit.seconds) for turn in own)
        label = escape(f"{title}: {_times(own)}")
        rows.append(
            f'<div class="row s{number + 1}"><span>{escape(title)}</span><svg role="img" '
            f'aria-label="{label}" viewBox="0 0 {_WIDTH} {_ROW}" preserveAspectRatio="none">'
            f"{bars}</svg></div>"
        )
    ends = f"<span>0:00</span><span>{clock_time(visit.seconds)}</span>"
    return f'<div class="timeline">{"".join(rows)}<div class="ends">{ends}</div></div>'


def _bar(turn: Turn, seconds: float) -> str:
    start, end = (_WIDTH * min(1, time / seconds) for time in (turn.start, turn.end))
    title = f"{clock_time(turn.start)}–{clock_time(turn.end)}"
    box = f'x="{start:.1f}" y="4" width="{max(1, end - start):.1f}" height="{_ROW - 8}"'
    return f"<rect {box}><title>{title}</title></rect>"


def _times(turns: Iterable[Turn]) -> str:
    return ", ".join(f"{clock_time(t.start)}–{clock_time(t.end)}" for t in turns) or "–"


def _words(visit: Visit, language: str) -> str:
    titles = speakers(visit, language)
    lines = "".join(
        f'<li class="s{turn.speaker + 1}"><b>{escape(titles[turn.speaker])}</b> '
        f"<time>{clock_time(turn.start)}</time> {escape(turn.words)}</li>"
        for turn in visit.turns
    )
    return f'<h2>{say(language, "words")}</h2><ol class="words">{lines}</ol>'


def _address(visit: Visit, name: str) -> str:
    return f"visits/{visit.token}/{quote(name)}"
