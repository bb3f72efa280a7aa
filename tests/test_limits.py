"""Values are refused by their option, in every hparams file, before anything is made."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from custom_modules.errors import InputError
from custom_modules.hparams import load_hparams, read_hparams, resolve, split_arguments, tag_of
from custom_modules.limits import CHECKS, check_values, option
from custom_modules.manifest.checks import LEVELS
from tests.integration.training import TINY

ROOT = Path(__file__).parents[1]
FILES = [p for p in sorted(ROOT.glob("hparams/**/*.yaml")) if p.parent.name != "sweeps"]
PLACES = {"data_folder": "x", "output_folder": "x", "speech_folder": "x", "scene_folder": "x"}
PLACES["event_folder"] = "x"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_plain_key_of_our_files_has_a_check_and_passes_it(path):
    tree = resolve(path, {k: v for k, v in PLACES.items() if k in read_hparams(path)})
    plain = {k: v for k, v in tree.items() if not tag_of(v) and not isinstance(v, dict)}
    check_values(plain, model=True)
    unknown = {k for k in plain if k not in CHECKS} - {"test_metrics", "scan_backend"}
    for key in unknown:  # of the model: a value that no model is made of
        with pytest.raises(InputError, match=key):
            check_values({key: "nonsense"}, model=True)


def test_how_thoroughly_a_corpus_is_checked_is_said_by_the_same_words():
    for level in LEVELS:
        check_values({"check": level})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[
            ("lr", value)
            for value in (math.nan, math.inf, -1.0, "fast", True, None, [1], 10**400 * -1)
        ],
        *[("batch_size", value) for value in (0, 1.5, -1, "8", 10**400, None)],
        *[("seed", value) for value in (-1, 2**32, 0.5)],
        *[("segment_seconds", value) for value in (0, -1, math.nan, {"a": 1})],
        *[("train_variants", value) for value in (5, [], ["X"], [["C"]], None, "", {"C": 1})],
        *[("skip_prep", value) for value in ("yes", 1, 0, None)],
        *[
            ("output_folder", value)
            for value in ("", " ", "a\nb", "\udcff", "<seed>", "9#x", "'a' #4", "1/0", 7, None)
        ],
        *[("early_stopping_patience", value) for value in (0, "ten", True, 1.5)],
        *[("early_stopping_warmup", value) for value in (-1, None)],
        *[("lr_factor", value) for value in (0, 2)],
        *[("workers", value) for value in (0, 100_000, 2.0)],
        *[("wandb_mode", value) for value in ("sometimes", None)],
        *[("curriculum", value) for value in ([], 5, [{"epoch": 1, "variants": [["C"]]}])],
        ("task", "XY"),
        ("tracker", "paper"),
        ("indoor_share", 1.1),
        ("scene_classes", ["park"]),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_its_option(key, value):
    with pytest.raises(InputError, match=key):
        check_values({key: value})


@pytest.mark.parametrize(("task", "sources"), [("SB", 3), ("EB", 2), ("ES", 0)])
def test_the_task_says_how_many_sources_there_are(task, sources):
    with pytest.raises(InputError, match="--num_sources: must be"):
        check_values({"task": task, "num_sources": sources})


@pytest.mark.parametrize("text", ["0", "1.5", "x", "nan", "-inf", "", "1e400", "9" * 5000])
def test_an_option_of_a_command_is_read_and_checked_at_once(text):
    with pytest.raises(InputError, match="--jobs="):
        option("workers", "--jobs")(text)
    assert option("workers")("3") == 3


def separator_with(model, key, value):
    options = f"--data_folder=x {TINY[model]} --{key}={value}".replace("--precision=fp32", "")
    file, _, overrides = split_arguments([f"{ROOT}/hparams/{model}.yaml", *options.split()])
    return load_hparams(file, overrides)["separator"]


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        *[("convtasnet", "kernel_size", size) for size in (2, 3)],
        *[("convtasnet", key, 1) for key in ("N", "B", "H", "P", "X", "R")],
        *[("convtasnet", *pair) for pair in (("norm_type", "cLN"), ("mask_nonlinear", "softmax"))],
        *[("dprnn", "rnn_type", name) for name in ("RNN", "GRU")],
        *[("dprnn", *pair) for pair in (("chunk_size", 3), ("dropout", 1), ("kernel_size", 5))],
        *[("sepformer", *pair) for pair in (("chunk_size", 2), ("N", 6), ("d_ffn", 1))],
        *[("spmamba", *pair) for pair in (("n_fft", 33), ("stride", 31), ("emb_ks", 9))],
        *[("spmamba", key, 1) for key in ("stride", "qk_dim", "emb_ks", "emb_hs")],
    ],
)
def test_a_value_that_passes_makes_a_model(model, key, value):
    separator = separator_with(model, key, value)
    for time in (1, 333):
        output = separator(torch.randn(2, time, requires_grad=True))
        assert output.shape == (2, time, 2)
        output.sum().backward()


@pytest.mark.parametrize(
    ("model", "key", "value"),
    [
        ("convtasnet", "P", 4),
        ("convtasnet", "norm_type", "BN"),
        ("dprnn", "rnn_type", "QuasiRNN"),
        ("dprnn", "bidirectional", False),
        ("sepformer", "nhead", 3),
        ("sepformer", "chunk_size", 1),
        ("spmamba", "stride", 32),
    ],
)
def test_a_value_of_which_no_model_is_made_is_refused(model, key, value):
    with pytest.raises(InputError, match=f"--{key}={value}: "):
        separator_with(model, key, value)


def test_a_model_of_a_users_own_may_mean_something_else_by_our_names(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("P: 0.5\nmodel: !new:collections.Counter {a: !ref <P>}\n")
    assert load_hparams(path, {})["model"] == {"a": 0.5}
    path.write_text("P: 0.5\nmodel: !new:torch.nn.ReLU\n")
    with pytest.raises(InputError, match=r"--P=0\.5: must be a whole number"):
        load_hparams(path, {})


def test_a_key_that_the_file_lacks_is_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("lr: 1.0e-3\n")
    with pytest.raises(InputError, match=r"mine.yaml: has no key 'batch_size'"):
        load_hparams(path, {})["batch_size"]


ODD = [
    "corpus #4",
    "../corpus #4",
    "2024",
    "2024-01-01",
    "007",
    "a: b",
    "~/x",
    "null",
    "yes",
    "(a)",
    "- a",
    "1e5",
]


@pytest.mark.parametrize("text", [*ODD, "~", ".nan", "0x1f", "[a]", "{a}", "'a'", " a", "ą", "*a"])
@pytest.mark.parametrize("key", ["model_name", "save_folder", "data_folder", "train_manifest"])
def test_text_is_what_was_typed(tmp_path, key, text):
    path = tmp_path / "text.yaml"
    path.write_text(
        "model_name: x\ndata_folder: !PLACEHOLDER\ntrain_manifest: !ref <save_folder>/train.json\n"
        "output_folder: !ref results/<model_name>/42\nsave_folder: !ref <output_folder>/save\n"
    )
    if (key, text) == ("data_folder", "[a]"):
        pytest.skip("several corpora are a list")
    *_, overrides = split_arguments([str(path), "--data_folder=x", f"--{key}={text}"])
    hparams = load_hparams(path, overrides)
    assert hparams[key] == text
    if key == "model_name":
        assert hparams["output_folder"] == f"results/{text}/42"


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1))
def test_any_text_is_kept_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "text.yaml"
    path.write_text("output_folder: x\nsave_folder: !ref <output_folder>/save\n")
    try:
        *_, overrides = split_arguments([str(path), f"--output_folder={text}"])
    except InputError as error:
        assert "output_folder" in str(error)
        return
    hparams = load_hparams(path, overrides)
    assert (hparams["output_folder"], hparams["save_folder"]) == (text, f"{text}/save")


def test_null_is_null_where_null_is_the_default_of_a_text():
    file = str(ROOT / "hparams/corpus/speech_folder.yaml")
    *_, overrides = split_arguments([file, "--speech_table=null", "--output_folder=null"], ())
    assert overrides == {"speech_table": None, "output_folder": "null"}
