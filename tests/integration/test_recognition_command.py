"""The command that trains the small recogniser: results, resuming, separated speech, refusals."""

import json
import signal

import numpy as np
import pandas as pd
import pytest
import torch

from custom_modules.errors import InputError
from custom_modules.recognition.mini import MiniRecogniser
from tests.integration import training
from tests.integration.training import assert_same, final_state
from tests.manifest.tiny_corpus import TinyCorpus

TRAIN = "recipes/recognition/train.py"
WATCHED = "tests/integration/watched_training.py"
TEXTS = ["Ewa widzi sto lamp.", "Adam liczy pięć okien.", "Julia niesie tysiąc butów."]
SMALL = {"n_mels": 10, "hidden": 8, "blocks": 1, "dropout": 0.1}


def tiny_corpus(folder, texts=True):
    """Noise with texts: a recogniser learns nothing of it, and all else can be seen."""
    corpus = TinyCorpus(folder / "Tiny", frames=8000)
    for subset, rows in (("train", 8), ("val", 2), ("test", 2)):
        for row in range(rows):
            cells = {f"speech{n}Text": TEXTS[(row + n) % 3] for n in (1, 2)} if texts else {}
            environment = "outdoor" if row % 3 == 2 else "indoor"
            corpus.add(subset, f"{subset}_{row}", environment, **cells)
    corpus.write_tables()
    return corpus.root


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("data"))


def arguments(corpus, folder, *more):
    options = [f"--data_folder={corpus}", f"--output_folder={folder}", "--number_of_epochs=2"]
    options += ["--batch_size=4", "--warmup_steps=2", f"--sizes={json.dumps(SMALL)}", "--n_mels=10"]
    options += ["--noprogressbar", "--device=cpu", *more]
    return ["hparams/recognition/mini.yaml", *options]


def train(corpus, folder, *more, before=()):
    return training.run(*(before or [TRAIN]), *arguments(corpus, folder, *more))


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    done = train(corpus, folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_a_run_leaves_what_a_recipe_leaves(trained):
    folder, done = trained
    names = {path.name for path in folder.iterdir()}
    expected = {"hyperparams.yaml", "train_log.txt", "save", "manifests", "test_wer.csv"}
    assert expected | {"README.md", "recogniser.json", "recogniser.ckpt"} <= names
    assert len((folder / "train_log.txt").read_text().splitlines()) == 2
    table = pd.read_csv(folder / "test_wer.csv")
    assert [*table.condition] == ["clean", "reverberant", "noisy", "second talker"]
    assert [*table.n] == [4, 4, 4, 4]
    errors = table.insertions + table.deletions + table.substitutions
    np.testing.assert_allclose(table.wer, 100 * errors / table.words, rtol=1e-3)
    assert "clean" in done.stdout


def test_the_card_says_what_it_does_not_understand(trained):
    folder, _ = trained
    text = (folder / "README.md").read_text("utf-8")
    assert "and nothing else" in text
    description = json.loads((folder / "recogniser.json").read_text("utf-8"))
    spoken = {word for text in TEXTS for word in text.lower().rstrip(".").split()}
    assert set(description["lexicon"]) == spoken
    assert all(word in text for word in spoken)


def test_what_it_wrote_is_loaded_and_says_words_of_its_lexicon(trained):
    folder, _ = trained
    model = MiniRecogniser(folder)
    noise = 0.1 * np.random.default_rng(1).standard_normal(8000)
    texts = model.transcribe([noise, np.zeros(8000)], 8000)
    assert texts[1] == ""
    assert set(texts[0].split()) <= set(model.description["lexicon"])


def test_a_killed_run_ends_as_an_uninterrupted_one(corpus, trained, tmp_path):
    whole, _ = trained
    dead = train(
        corpus,
        tmp_path,
        "--ckpt_interval_steps=1",
        before=[WATCHED, *["recipe:recognition", "step:6"]],
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    done = train(corpus, tmp_path, "--ckpt_interval_steps=1")
    assert done.returncode == 0, done.stderr
    assert_same(
        final_state(tmp_path, 2)["recogniser.ckpt"], final_state(whole, 2)["recogniser.ckpt"]
    )
    assert (tmp_path / "test_wer.csv").read_text() == (whole / "test_wer.csv").read_text()


@pytest.fixture(scope="module")
def separator(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("separator")
    options = training.arguments(corpus, folder / "run", "--number_of_epochs=1", "--batch_size=4")
    done = training.run(
        training.TRAIN, *options, "--test_after_training=False", "--curriculum=null"
    )
    assert done.returncode == 0, done.stderr
    hparams = folder / "run" / "hyperparams.yaml"
    done = training.run("recipes/separation/export.py", str(hparams), str(folder / "exported"))
    assert done.returncode == 0, done.stderr
    return folder / "exported"


def test_it_is_trained_further_on_separated_speech(corpus, trained, separator, tmp_path):
    start, _ = trained
    done = train(corpus, tmp_path, f"--separator={separator}", f"--start_from={start}")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "separated").glob("*.wav"))) == 16
    assert str(separator) in (tmp_path / "README.md").read_text("utf-8")
    before, after = (
        torch.load(folder / "recogniser.ckpt", weights_only=True) for folder in (start, tmp_path)
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_corpus_without_texts_is_refused(tmp_path):
    done = train(tiny_corpus(tmp_path, texts=False), tmp_path / "out")
    assert done.returncode == 2
    assert "holds no text to learn from; make the corpus with --sentences=matrix" in (
        training.error_line(done)
    )


def test_it_is_trained_further_without_a_separator(corpus, trained, tmp_path):
    done = train(corpus, tmp_path, f"--start_from={trained[0]}")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "separated").exists()
    assert f"from {trained[0]} on." in (tmp_path / "README.md").read_text("utf-8")


def test_nothing_is_written_of_what_was_never_trained(corpus, tmp_path):
    done = train(corpus, tmp_path, "--test_only")
    assert done.returncode == 2
    assert "no checkpoint; train first" in training.error_line(done)
    assert not (tmp_path / "recogniser.ckpt").exists()


def test_several_corpora_and_several_processes_are_refused(tmp_path, monkeypatch):
    script = training.load_script("train", "recognition")
    argv = ["hparams/recognition/mini.yaml", f"--output_folder={tmp_path / 'out'}"]
    with pytest.raises(InputError, match="a recogniser learns one corpus"):
        script.main([*argv, "--data_folder=[a, b]"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="leave torchrun out"):
        script.main([*argv, "--data_folder=a"])
    assert not (tmp_path / "out").exists()


def test_a_separator_without_a_start_is_refused(corpus, separator, tmp_path):
    done = train(corpus, tmp_path, f"--separator={separator}", "--start_from=null")
    assert done.returncode == 2
    assert "--separator needs --start_from" in training.error_line(done)


def test_what_is_trained_further_has_its_own_folder():
    script = training.load_script("train", "recognition")
    argv = ["hparams/recognition/mini.yaml", "--separator=exported/x", "--seed=7"]
    added = script.with_own_folder(argv)[3:]
    assert added == ["--start_from=results/mini/7", "--output_folder=results/mini_x/7"]
    assert script.with_own_folder(argv[:1]) == argv[:1]
    further = [argv[0], "--start_from=results/mini/7", "--seed=7"]
    assert script.with_own_folder(further)[3:] == ["--output_folder=results/mini_further/7"]
