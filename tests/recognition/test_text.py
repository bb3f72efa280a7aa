"""Laws of the text rules; what they do to Polish is in their doctests."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from num2words import num2words

from custom_modules.recognition.text import normalise

POLISH = st.text("aąbcćdeęłńóśźżŚŻ 0123456789,.:;-–'’\"„”%[]()*♪<>{}😀\n\t")


@given(st.text() | POLISH)
def test_words_of_letters_with_single_spaces_and_twice_is_once(text):
    words = normalise(text)
    assert words == " ".join(words.split())
    assert all(unicodedata.category(x)[0] in "LM" or x == " " for x in words)
    assert normalise(words) == words


@given(st.text("aąbcćeęłńóśźż ", max_size=30), st.sampled_from(',.;!?"„”…😀\n\t«»—'))
def test_punctuation_and_case_change_nothing(text, mark):
    words = text.split()
    marked = f"{mark} ".join(word.upper() for word in words)
    assert normalise(marked) == normalise(" ".join(words))


@given(st.integers(0, 10**15 - 1))
def test_whole_numbers_are_as_num2words_reads_them(number):
    assert normalise(f"jest {number}!") == f"jest {num2words(number, lang='pl')}"
    assert normalise(f"{number:,}".replace(",", " ")) == num2words(number, lang="pl")


@given(st.integers(0, 999), st.integers(1, 99))
def test_decimal_commas_and_points_are_alike(whole, hundredths):
    spoken = num2words(f"{whole}.{hundredths:02d}".rstrip("0"), lang="pl")
    for sign in ",.":
        assert normalise(f"{whole}{sign}{hundredths:02d}".rstrip("0")) == spoken


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('"Cytat", powiedział;\nnowa linia\r\n', "cytat powiedział nowa linia"),
        ("ŚWIĘTO ŁÓDŹ", "święto łódź"),
        ("S\u0301wie\u0328to", "święto"),  # decomposed, as macOS writes
        ("emoji 👩‍👩‍👧 i ❤️ są", "emoji i są"),
        ("x" * 5 + "[" * 20000, "xxxxx"),
        ("mp3, 2-letni, B52", "mp trzy dwa letni b pięćdziesiąt dwa"),
        ("1" * 40, " ".join(["jeden"] * 40)),
        ("٣", "trzy"),
        ("{x} i {", "i"),
    ],
)
def test_awkward_texts(written, said):
    assert normalise(written) == said
