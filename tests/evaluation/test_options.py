"""The command's own options."""

import pytest

from custom_modules.errors import InputError
from custom_modules.evaluation.options import scope_of, split_options


@pytest.mark.parametrize(
    "wrong",
    [
        "--variants=SER,nonsense",
        "--max_samples=0",
        "--workers=-1",
        "--split=dev",
        "--batch_size=x",
        "--metrics=sdr,nonsense",
        "--compare",
        "--output=",
        "--output=/dev/full",
        "--save_audio=1.5",
        "--batch_size=nan",
        "--workers=100000",
    ],
)
def test_options_that_mean_nothing_are_refused(wrong):
    named = wrong.split("=")[0].removeprefix("--")
    with pytest.raises(InputError, match=f"{named}|/dev/full: cannot be written .is a device"):
        split_options(["a.yaml", wrong])


def test_metrics_can_be_left_out():
    options, _ = split_options(["a.yaml", "--no_sdr", "--no_stoi"])
    assert options.groups == ("pesq",)


def test_the_size_of_batches_is_the_training_s_unless_given():
    for arguments, size in (["a.yaml"], 4), (["a.yaml", "--batch_size=2"], 2):
        options, _ = split_options(arguments)
        assert scope_of(options, {"test_batch_size": 4}, True).batch_size == size
    assert scope_of(split_options(["exported"])[0], {}, True).batch_size == 8


@pytest.mark.parametrize(
    ("arguments", "groups"),
    [
        (["--metrics=stoi,sdr"], ("sdr", "stoi")),
        (["--metrics", "pesq"], ("pesq",)),
        (["--metrics="], ()),
        (["--metrics=stoi,sdr", "--no_sdr"], ("stoi",)),
    ],
)
def test_metrics_can_be_named(arguments, groups):
    options, rest = split_options(["a.yaml", *arguments])
    assert options.groups == scope_of(options, {}, True).groups == groups
    assert rest == ["a.yaml"]
