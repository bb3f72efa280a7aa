"""What the page says, in English and in Polish."""

from typing import Any

from custom_modules.errors import InputError

LANGUAGES = ("en", "pl")

#: Each by its key, in the order of LANGUAGES.
TEXTS: dict[str, tuple[str, str]] = {
    "title": ("Separate speakers", "Rozdziel mówców"),
    "intro": (
        "Two people talk at once? Give a recording and hear each of them alone. It stays on the "
        "computer that runs this page, and is removed after {keep} min.",
        "Dwie osoby mówią naraz? Podaj nagranie i posłuchaj każdej z osobna. Nagranie nie opuszcza "
        "komputera, na którym działa ta strona, i znika po {keep} min.",
    ),
    "recording": ("Recording, at most {limit} min", "Nagranie, najwyżej {limit} min"),
    "model": ("Model", "Model"),
    "examples": ("Examples", "Przykłady"),
    "separate": ("Separate", "Rozdziel"),
    "stop": ("Stop", "Przerwij"),
    # Where a recording is.
    "chosen": ("{name}: {length}, {rate} Hz.", "{name}: {length}, {rate} Hz."),
    "waiting": (
        "{name} waits in the queue. Ahead of it: {ahead}.",
        "{name} czeka w kolejce. Przed nim: {ahead}.",
    ),
    "separating": (
        "{name}: {done} of {length} separated. What is done can be heard.",
        "{name}: rozdzielono {done} z {length}. Gotowej części można już słuchać.",
    ),
    "drawing": ("{name}: looking for who speaks when.", "{name}: szukam, kto kiedy mówi."),
    "reading": ("{name}: writing down the words.", "{name}: spisuję słowa."),
    "finished": ("{name}: done, {length}.", "{name}: gotowe, {length}."),
    "stopped": ("{name}: stopped.", "{name}: przerwano."),
    # Why it goes no further.
    "nothing": (
        "There is no recording yet. Drop a file, speak, or pick an example.",
        "Nie ma jeszcze nagrania. Upuść plik, nagraj się albo wybierz przykład.",
    ),
    "gone": (
        "This recording is no longer here. Give it again.",
        "Tego nagrania już tu nie ma. Podaj je jeszcze raz.",
    ),
    "empty": ("{name} is empty.", "Plik {name} jest pusty."),
    "silent": ("{name} holds no samples.", "W pliku {name} nie ma ani jednej próbki."),
    "unreadable": (
        "{name} cannot be read as audio. Try wav, flac, mp3 or ogg.",
        "Pliku {name} nie da się odczytać jako nagrania. Spróbuj wav, flac, mp3 albo ogg.",
    ),
    "too_long": (
        "{name} lasts {length}; at most {limit} min are taken here.",
        "Plik {name} trwa {length}, a ta strona przyjmuje najwyżej {limit} min.",
    ),
    "too_large": (
        "The file is too large: at most {megabytes} MB are taken here.",
        "Plik jest za duży: ta strona przyjmuje najwyżej {megabytes} MB.",
    ),
    "not_numbers": (
        "{name} holds values that are no numbers. Export it again.",
        "W pliku {name} są wartości, które nie są liczbami. Wyeksportuj go jeszcze raz.",
    ),
    "failed": ("{name} cannot be separated.", "Pliku {name} nie da się rozdzielić."),
    "fault": (
        "A fault of the program, not of {name}. Whoever runs this page finds it in the log.",
        "Błąd programu, nie pliku {name}. Szczegóły są w dzienniku tej strony.",
    ),
    "full": (
        "Too many wait already. Try again in a few minutes.",
        "Zbyt wielu już czeka. Spróbuj za kilka minut.",
    ),
    "no_model": ("There is no such model here.", "Nie ma tu takiego modelu."),
    # What came of it.
    "mixture": ("Recording", "Nagranie"),
    "speaker": ("Speaker {number}", "Mówca {number}"),
    "speech": ("Speech", "Mowa"),
    "download": ("Download {file}", "Pobierz {file}"),
    "who_when": ("Who speaks when", "Kto kiedy mówi"),
    "nobody": ("Nobody is heard.", "Nikogo nie słychać."),
    "spectrograms": (
        "Spectrograms of the recording and of each speaker",
        "Spektrogramy nagrania i każdego mówcy",
    ),
    "words": ("Words", "Słowa"),
    "shorter": (
        "The file is shorter than its header says; what there is was separated.",
        "Plik jest krótszy, niż mówi jego nagłówek; rozdzielono to, co jest.",
    ),
    "clipped": (
        "Some samples were beyond full scale, and were cut off.",
        "Część próbek wyszła poza skalę i została obcięta.",
    ),
}


def say(language: str, key: str, **values: Any) -> str:
    """A text in a language, a tag such as ``pl-PL``; English where it is not ours.

    >>> say("pl-PL", "speaker", number=2), say("de", "speaker", number=2)
    ('Mówca 2', 'Speaker 2')
    """
    english, polish = TEXTS[key]
    return (polish if is_polish(language) else english).format(**values)


def is_polish(language: str) -> bool:
    """Whether a language tag is of Polish."""
    return language.lower().split("-")[0] == "pl"


class RefusedError(InputError):
    """What a visitor can do nothing about but give something else, in his language.

    The key of a text and its values; those that are still unknown are given to :meth:`told`.
    """

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(key)
        self.key, self.values = key, values

    def told(self, language: str) -> str:
        """The sentence."""
        return say(language, self.key, **self.values)


def clock_time(seconds: float) -> str:
    """A time or length as ``m:ss`` or ``h:mm:ss``.

    >>> clock_time(61.4), clock_time(3 * 3600)
    ('1:01', '3:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
