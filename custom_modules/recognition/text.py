"""Polish text as it is compared: one spelling of whatever is said alike.

Start reading at :func:`normalise`, whose examples are the specification. It is applied
to references and transcripts alike.
"""

import re
import unicodedata

from custom_modules.recognition.packages import imported

#: Of these rules; part of every record. Raise it when a text may come out otherwise.
VERSION = "1"

#: Longer rows of digits are read digit by digit.
_MOST_DIGITS = 15

_BRACKETED = re.compile(r"\[[^\[\]]*\]|\([^()]*\)|\{[^{}]*\}|<[^<>]*>|\*[^*]*\*|♪[^♪]*♪")
_THOUSANDS = re.compile(r"(?<![\d,.])(\d{1,3})((?: \d{3})+)(?!\d)")
_TIME = re.compile(r"(?<![\d:.,])([01]?\d|2[0-4]):([0-5]\d)(?![\d:])")
_ORDINAL = re.compile(r"(?<![\d,.])(\d{1,4})\.(?=\s+[^\W\d_])(?!\s+[A-ZĄĆĘŁŃÓŚŹŻ])")
_NUMBER = re.compile(r"(?<!\d)((?:(?<![^\W_])[-−])?)(\d+)(?:[,.](\d+))?")
_DIGITS = re.compile(r"\d+")
_SYMBOLS = {"%": " procent ", "‰": " promili ", "°": " stopni ", "&": " i ", "+": " plus "}
_SYMBOLS |= {"=": " równa się "}
_APOSTROPHES = re.compile(r"(?<=\w)['’ʼ`](?=\w)")
_FILLER = re.compile(r"e{2,}[hmy]*|e+m+|y+[hm]*|h+[eym]*m+|m+h*m+|u+h*m+|a{2,}|o{2,}")
#: Written otherwise, said alike.
_VARIANTS = {
    **dict.fromkeys(("okej", "okey", "okay", "oki"), "ok"),
    **{"np": "na przykład", "itd": "i tak dalej", "itp": "i tym podobne", "tzn": "to znaczy"},
    **{"dr": "doktor", "mgr": "magister", "prof": "profesor", "nr": "numer"},
}


def normalise(text: str) -> str:
    """Lower-case words with single spaces between them, of letters alone.

    Letters stay, punctuation and symbols go; a hyphen parts words, an apostrophe not:

    >>> normalise("Śpij, KRÓLU!  „Biało-czerwone”… 😀 _tak_ Kennedy’ego")
    'śpij królu biało czerwone tak kennedyego'

    Numbers become words, as they are read in the nominative; commas and points between
    digits are decimal, spaces between thousands join; leading zeros are read:

    >>> normalise("3,5 km i 1.25; 12 000 zł, -5°, 50%, 007, A4")
    'trzy przecinek pięć km i jeden przecinek dwadzieścia pięć dwanaście tysięcy zł \
minus pięć stopni pięćdziesiąt procent zero zero siedem a cztery'

    A time's hour is an ordinal; a point makes one before a word in lower case, so that
    the end of a sentence does not:

    >>> normalise("O 12:30 i 8:05, o 21:00.")
    'o dwunasta trzydzieści i ósma zero pięć o dwudziesta pierwsza'
    >>> normalise("Na 2. piętrze. Było nas 5. Potem 6.")
    'na drugi piętrze było nas pięć potem sześć'

    Fillers and what is in brackets, as recognisers note noises, are left out; variants
    of a word are folded, abbreviations of one reading are read:

    >>> normalise("Yyy, no [śmiech] okej, eee (muzyka) hmm *kaszle* OK, np. dr Nowak")
    'no ok ok na przykład doktor nowak'

    Nothing is an empty text:

    >>> normalise(" … ♪ la la ♪ \\n")
    ''
    """
    text = _BRACKETED.sub(" ", unicodedata.normalize("NFKC", text))
    text = _THOUSANDS.sub(lambda match: match[1] + match[2].replace(" ", ""), text)
    text = _TIME.sub(_time, text)
    text = _ORDINAL.sub(lambda match: f" {_ordinal(int(match[1]))} ", text)
    text = _NUMBER.sub(_number, text)
    text = _DIGITS.sub(lambda match: f" {_cardinal(match[0])} ", text)
    for symbol, word in _SYMBOLS.items():
        text = text.replace(symbol, word)
    text = unicodedata.normalize("NFKC", _APOSTROPHES.sub("", text).lower())
    words = "".join(x if _is_letter(x) else " " for x in text).split()
    words = [_VARIANTS.get(word, word) for word in words if not _FILLER.fullmatch(word)]
    return " ".join(words)


def _is_letter(character: str) -> bool:
    """A letter, or a mark that belongs to one."""
    return unicodedata.category(character)[0] in "LM" and character not in "\ufe0e\ufe0f"


def _time(match: re.Match) -> str:
    hour, minute = int(match[1]), match[2]
    words = [x[:-1] + "a" if x[-1] in "yi" else x for x in _ordinal(hour).split()]
    return f" {' '.join(words)} {'' if minute == '00' else _cardinal(minute)} "


def _number(match: re.Match) -> str:
    sign, whole, decimals = match.groups()
    words = ["minus"] * bool(sign) + [_cardinal(whole)]
    words += ["przecinek", _cardinal(decimals)] if decimals else []
    return f" {' '.join(words)} "


def _cardinal(digits: str) -> str:
    """Words for a row of digits; zeros in front are read one by one."""
    kept = digits.lstrip("0") if digits.isascii() else str(int(digits))
    zeros = ["zero"] * (len(digits) - len(kept))
    parts = [kept] if len(kept) <= _MOST_DIGITS else [*kept]
    return " ".join([*zeros, *(_num2words(int(part)) for part in parts if part)])


def _ordinal(number: int) -> str:
    return _num2words(number, "ordinal") if number else "zerowy"


def _num2words(number: int, form: str = "cardinal") -> str:
    words: str = imported("num2words").num2words(number, lang="pl", to=form)
    return words
