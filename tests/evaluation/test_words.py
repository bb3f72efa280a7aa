"""Words of a test: every arm by hand, files that meeteval reads, failures, reruns."""

import json

import meeteval
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import t

from custom_modules.audio import read_layer
from custom_modules.dataio import Manifest, MixtureDataset
from custom_modules.errors import InputError
from custom_modules.evaluation.loading import Model, observing
from custom_modules.evaluation.runner import Estimates, Scope
from custom_modules.evaluation.summary import summarise
from custom_modules.evaluation.testing import check_recogniser, evaluate_model
from custom_modules.evaluation.words import ARMS, WordTest
from custom_modules.manifest.entries import escape_braces
from custom_modules.mmipc import VARIANTS, variants_of
from custom_modules.recognition.interface import Recogniser
from custom_modules.recognition.text import normalise
from custom_modules.recognition.word_errors import WordErrors, count_errors

FACTS = {"model_name": "blur", "task": "SB", "sample_rate": 8000, "seed": 7}
TEXTS = [
    ('Ala, "ma"\nkota', "Ś 3,5 {x} 😀 psa"),
    ("dwa psy", ""),
    ("Łódź płynie, powoli", "ŚPI"),
    ("tak", "nie wiem"),
]


class Scripted(Recogniser):
    """Says words that depend on the signal alone; perhaps raises on some."""

    name, version, options, sample_rate, batch_size = "scripted", "1", {}, 8000, 3

    def __init__(self):
        self.asked, self.raises_on, self.was_silent = 0, lambda signal: False, []

    def _texts(self, signals):
        for signal in signals:
            self.asked += 1
            self.was_silent.append(not np.abs(signal).max() > 1e-4)
            if self.raises_on(signal):
                raise RuntimeError("too\nloud")
        return [self.text_of(signal) for signal in signals]

    @staticmethod
    def text_of(signal):
        words = ["ala", "ma", "kota", "psy", "dwa", "nie", "tak"]
        loud = int(1e4 * float(np.abs(signal).mean()))
        return " ".join(words[(loud + place) % 7] for place in range(loud % 4))


@pytest.fixture
def scripted(monkeypatch):
    recogniser = Scripted()
    monkeypatch.setattr(
        "custom_modules.evaluation.words.load_recogniser", lambda spec, device: recogniser
    )
    return recogniser


@pytest.fixture
def spoken(manifest, tmp_path):
    """The test set with its texts; ``texts`` as TEXTS, None for those not known."""

    def make(texts=TEXTS, task="SB", variants=VARIANTS):
        entries = json.loads(manifest.path.read_text())
        for entry, pair in zip(entries.values(), texts, strict=True):
            for key, text in zip(("text1", "text2"), pair, strict=True):
                entry[key] = None if text is None else escape_braces(text)
        path = tmp_path / "spoken.json"
        path.write_text(json.dumps(entries))
        data = Manifest(path, manifest.replacements)
        return MixtureDataset(data, variants, task, seed=0, draw=False)

    return make


def evaluate(model, dataset, folder, **options):
    """The whole test, decibels and pictures too."""
    scope = Scope((), workers=0, progressbar=False, recogniser="scripted", **options)
    evaluate_model(model, dataset, folder, scope, FACTS, "test", "epoch 3")
    return read(folder)


def count(model, dataset, folder, **options):
    """The words alone."""
    words = WordTest("scripted", model, dataset, **options)
    words.run(folder, "model1", 0, batch_size=8, progressbar=False)
    words.results().write(folder)
    return words.results()


def read(folder):
    return pd.read_csv(folder / "test_words.csv", keep_default_na=False, na_values=[""])


def counts_of(folder):
    table = pd.read_csv(folder / "words" / "counts.csv", dtype={"id": str})
    return table.set_index(["id", "variant", "arm"])


def levelled(model, mixture):
    """Estimates whose sum is fitted to the mixture, by plain numpy."""
    with torch.no_grad():
        estimates = model.estimate(mixture[None])[0].numpy().astype(float)
    mixture = mixture.numpy().astype(float)
    estimates = estimates * np.where(mixture @ estimates < 0, -1, 1)
    total = estimates.sum(1)
    gain = mixture @ total / (total @ total)
    frames = [x.reshape(-1, 400) ** 2 for x in (mixture, total)]
    power = [x.sum(1) for x in frames]
    floor = 0.5**0.5 * ((power[0] @ power[1]) / (power[1] @ power[1])) ** 0.5
    return (estimates * max(gain, floor)).astype("float32")


def test_every_arm_is_what_it_says(tmp_path, blur, spoken, scripted):
    model, dataset = blur(), spoken()
    count(model, dataset, tmp_path)
    counts, say = counts_of(tmp_path), Scripted.text_of
    for place, (name, texts) in enumerate(zip(dataset.data_ids, TEXTS, strict=True)):
        item, entry = dataset[place], dataset.data[name]
        targets = [say(x) for x in item["targets"].T.numpy()]
        for variant, mixture in zip(item["variants"], item["mixtures"], strict=True):
            heard, estimates = say(mixture.numpy()), levelled(model, mixture)
            streams = {
                "targets": targets,
                "mixture_twice": [heard, heard],
                "mixture_single": [heard, ""],
                "model": [say(x) for x in estimates.T],
            }
            if variant != "C":  # the background: what is left without both talkers
                own = []
                clean = dict(zip(item["variants"], item["mixtures"], strict=True))["C"]
                wet = 0
                if "R" in variant:
                    layers = dict(
                        zip(("R", "C"), (entry["variants"][x] for x in "RC"), strict=True)
                    )
                    wet = [x for x in layers["C"] if x not in layers["R"]]
                assert torch.allclose(clean, item["targets"].sum(1), atol=1e-6)
                for source in (0, 1):
                    other = item["targets"][:, 1 - source]
                    alone = mixture - other
                    if wet:
                        alone = alone - torch.from_numpy(read_layer(wet[1 - source], 0, 4800))
                    own.append(say(alone.numpy()))
                streams["oracle"] = own
            for arm, texts_heard in streams.items():
                row = counts.loc[(name, variant, arm)]
                assert tuple(row[[*WordErrors._fields]]) == count_errors(texts, texts_heard), arm
            once = [count_errors(order, [heard]).errors for order in (texts, texts[::-1])]
            assert counts.loc[(name, variant, "mixture")].errors == min(once)
    assert ("test_0", "C", "oracle") not in counts.index


def test_table_files_and_meeteval_agree_to_the_digit(tmp_path, blur, spoken, scripted, capsys):
    table = evaluate(blur(), spoken(), tmp_path)
    references = meeteval.io.load(tmp_path / "words" / "references.json")
    assert set(table.arm) == set(ARMS)
    for arm in ARMS:
        heard = meeteval.io.load(tmp_path / "words" / f"{arm}.json")
        sessions = {x["session_id"] for x in heard}
        spoken_then = references.filter(lambda x, kept=sessions: x["session_id"] in kept)
        rate = meeteval.wer.orcwer if arm == "mixture" else meeteval.wer.cpwer
        found = rate(spoken_then, heard)
        whole = table[(table.arm == arm) & (table.group == "all")].set_index("variant")
        for variant in [*set(table.variant) & set(VARIANTS), "all mixtures"]:
            names = [x for x in found if variant in (x.split("/")[1], "all mixtures")]
            if parts := [found[name] for name in names]:
                row, errors = whole.loc[variant], sum(x.errors for x in parts)
                length = sum(x.length for x in parts)
                mixtures = {name.split("/")[0] for name in names}
                assert (row.errors, row.length, row.n) == (errors, length, len(mixtures))
                assert row.wer == pytest.approx(100 * errors / length, rel=1e-5)
                assert row.insertions == sum(x.insertions for x in parts)
                assert row.low <= row.wer <= row.high or np.isnan(row.low)
    printed = capsys.readouterr().out
    cell = f"{table[(table.arm == 'model') & (table.variant == 'SER')].wer.iloc[0]:.1f}"
    page = (tmp_path / "test_summary.md").read_text()
    for text in (printed, page):
        line = next(x for x in text.splitlines() if x.startswith("| SER "))
        assert line.endswith(f" {cell} |")
        assert "## Words (word error rate, %)" in text
    assert "- Recogniser: scripted, 1; ; text rules 1" in page
    assert_ends_with_rates(printed, table)
    assert (tmp_path / "test_words.png").read_bytes()[:4] == b"\x89PNG"
    sides = json.loads((tmp_path / "words" / "references.json").read_text())
    assert {x["text"] for x in sides} == {text for pair in TEXTS for text in pair}
    assert all(x["words"] == normalise(x["text"]) for x in sides)


def assert_ends_with_rates(printed, table):
    """The last line says what is wrong on C, by the sums of the table."""
    rows = table[(table.group == "all") & (table.variant == "C")].set_index("arm")
    rates = 100 * rows.errors / rows.length
    arms = ", ".join(f"{arm} {rates[arm]:.1f}" for arm in ("targets", "mixture", "model"))
    assert printed.rstrip().splitlines()[-1] == f"Words wrong on C, per cent: {arms}"


def test_the_last_line_is_of_all_mixtures_where_c_is_not_tested(tmp_path, blur, spoken, scripted):
    words = count(blur(), spoken(variants=("SER", "SE")), tmp_path)
    assert words.closing_line().startswith("Words wrong on all mixtures, per cent: targets ")


def test_intervals_are_those_of_drawn_mixtures_and_groups_those_of_all_metrics(
    tmp_path, blur, spoken, scripted
):
    words = count(blur(), spoken(), tmp_path)
    counts = counts_of(tmp_path).reset_index()
    model = counts[counts.arm == "model"].groupby("id")[["errors", "length"]].sum()
    random = np.random.default_rng(1)
    drawn = model.to_numpy()[random.integers(len(model), size=(20_000, len(model)))].sum(1)
    rates, few = 100 * drawn[:, 0] / drawn[:, 1], len(model)
    spread = t.ppf(0.975, few - 1) * (few / (few - 1)) ** 0.5 * rates.std()
    low, high = rates.mean() - spread, rates.mean() + spread
    table = read(tmp_path)
    whole = table[(table.variant == "all mixtures") & (table.arm == "model")]
    row = whole[whole.group == "all"]
    assert row.low.item() == pytest.approx(low, abs=1)
    assert row.high.item() == pytest.approx(high, abs=1)
    one = words.rows[words.rows.arm == "model"].assign(si_sdr=0.0, failures="")
    pairs = summarise(one.drop(columns=["arm", *WordErrors._fields]))[["variant", "group"]]
    expected = {tuple(x) for x in pairs.to_numpy() if x[0] != "all variants"}
    assert {tuple(x) for x in table[["variant", "group"]].to_numpy()} == expected
    assert {"indoor", "SSR -2 dB"} <= set(table.group)


class Quiet(torch.nn.Module):
    """The mixture, and as a second output what a gate takes for silence, or silence."""

    def __init__(self, level):
        super().__init__()
        self.level = level

    def forward(self, mixture):
        return torch.stack([mixture, self.level * mixture], dim=2)


@pytest.mark.parametrize("level", [0.2, 0.05, 0.0])
@pytest.mark.parametrize("observation_db", [None, -6.0])
def test_gated_and_silent_outputs(tmp_path, spoken, scripted, level, observation_db):
    module = Quiet(level)
    model = observing(Model(module, module, 8000), observation_db)
    count(model, spoken(variants=["C"]), tmp_path)
    texts = {}
    for arm in ("model", "model_gated"):
        parts = json.loads((tmp_path / "words" / f"{arm}.json").read_text())
        texts[arm] = [x["text"] for x in parts if x["speaker"] == "2"]
    if level == 0 and observation_db is None:
        assert not any(texts["model"])
        assert not any(scripted.was_silent)  # nobody is asked what silence says
    if level == 0.2:
        assert texts["model_gated"] == texts["model"]
    else:
        assert not any(texts["model_gated"])


def test_what_was_heard_is_not_asked_again(tmp_path, blur, spoken, scripted):
    variants = sum(len(variants_of(e["environment"])) for e in spoken().data.values())
    count(blur(), spoken(variants=["C"]), tmp_path)
    first = scripted.asked
    assert first == 4 * (2 + 1 + 2)
    count(blur(), spoken(), tmp_path)
    whole = read(tmp_path)
    noisy = variants - 4
    assert scripted.asked - first == noisy * (1 + 2 + 2)  # the targets are known
    before = scripted.asked
    count(blur(), spoken(), tmp_path)
    assert read(tmp_path).equals(whole)
    assert scripted.asked == before
    scripted.options = {"beam_size": 3}  # another recogniser
    count(blur(), spoken(), tmp_path)
    assert scripted.asked > before


def test_what_is_scored_is_not_separated_again(tmp_path, blur, spoken, scripted, monkeypatch):
    model, seen = blur(), []
    separate = model.separate_all

    def counted(batches):
        for examples, estimates in separate(batches):
            seen.extend((example.id, example.variant) for example in examples)
            yield examples, estimates

    monkeypatch.setattr(model, "separate_all", counted)
    table = evaluate(model, spoken(), tmp_path / "kept")
    assert len(seen) == len(set(seen)) > 4
    monkeypatch.setattr(Estimates, "room", 5 * 2 * 4 * 4000)  # of some of them
    once, seen[:] = len(seen), []
    assert evaluate(model, spoken(), tmp_path / "some").equals(table)
    assert once < len(seen) < 2 * once


def test_a_file_that_it_raises_on_is_named_and_nothing_else_lost(tmp_path, blur, spoken, scripted):
    dataset = spoken()
    (bad,) = (x for x in dataset if x["id"] == "test_2")
    signal = bad["mixtures"][bad["variants"].index("S")].numpy()
    scripted.raises_on = lambda x: len(x) == len(signal) and np.array_equal(x, signal)
    words = count(blur(), dataset, tmp_path)
    counts = counts_of(tmp_path).reset_index()
    assert len({*zip(counts.id, counts.variant, strict=True)}) == 18
    assert ("test_2", "S") not in {*zip(counts.id, counts.variant, strict=True)}
    assert "- test_2, S: RuntimeError: too" in words.sections()
    scripted.raises_on, before = lambda x: False, scripted.asked
    words = count(blur(), dataset, tmp_path)
    assert scripted.asked - before == 5
    assert not words.failures


def test_one_that_raises_on_everything_keeps_its_traceback(tmp_path, blur, spoken, scripted):
    scripted.raises_on = lambda x: True
    with pytest.raises(RuntimeError, match="too") as caught:
        count(blur(), spoken(), tmp_path)
    assert "in the words of mixture test_0, " in caught.value.__notes__[0]
    assert not (tmp_path / "test_words.csv").exists()


def test_pseudo_references_are_said_everywhere(tmp_path, blur, test_set, scripted):
    words = count(blur(), test_set(), tmp_path, pseudo_references=True)
    table = read(tmp_path)
    assert table[table.arm == "targets"].errors.sum() == 0
    assert table[table.arm == "model"].errors.sum() > 0
    said = [part for part in words.sections() if part.startswith("**Against pseudo-references**")]
    tables = [part for part in words.sections() if part.startswith("| ")]
    assert len(said) == len(tables) == 3
    assert words.column()[0] == "pseudo-WER"
    assert words.facts["pseudo_references"]
    assert ", per cent, against pseudo-references: targets 0.0" in words.closing_line()


def test_without_texts_it_is_one_line_before_anything_is_scored(
    tmp_path, blur, test_set, spoken, scripted
):
    message = r"no mixture has its texts .* or use --pseudo_references"
    with pytest.raises(InputError, match=message):
        evaluate(blur(), test_set(), tmp_path)
    assert not (tmp_path / "test_scores").exists()
    with pytest.raises(InputError, match=message):
        check_recogniser("whisper:base", spoken(), test_set())
    check_recogniser(None, test_set())


def test_mixtures_without_texts_are_left_out_and_counted(tmp_path, blur, spoken, scripted):
    texts = [TEXTS[0], (None, "x"), (None, None), TEXTS[3]]
    words = count(blur(), spoken(texts), tmp_path)
    assert set(counts_of(tmp_path).reset_index().id) == {"test_0", "test_3"}
    assert "Left out: 2 mixtures without texts." in words.sections()


@pytest.mark.parametrize("task", ["ES", "EB"])
def test_one_source_has_one_stream(tmp_path, blur, spoken, scripted, task):
    count(blur(1), spoken(task=task), tmp_path)
    table = read(tmp_path)
    assert set(table.arm) == {"targets", "mixture", "model"}
    words = {"ES": [x for x, _ in TEXTS], "EB": [x for pair in TEXTS for x in pair]}[task]
    length = table[(table.variant == "C") & (table.group == "all")].length
    assert set(length) == {sum(len(normalise(x).split()) for x in words)}
