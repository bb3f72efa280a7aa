"""Weights in files, whatever the files hold."""

import collections
import resource
import zipfile

import pytest
import torch

from custom_modules.errors import InputError
from custom_modules.weights import load_exactly, read_weights


def rewrite(path, target, **changed):
    """The archive with some of its entries packed otherwise, by the ends of their names."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as packed:
        for entry in source.infolist():
            kind = next((k for k in changed if entry.filename.endswith(k)), None)
            data = changed.get(kind, source.read(entry))
            method = zipfile.ZIP_DEFLATED if kind else zipfile.ZIP_STORED
            packed.writestr(entry.filename, data, method)


class Call:
    """Pickled, a call."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


@pytest.fixture
def archive(tmp_path):
    torch.save({"weight": torch.ones(4)}, tmp_path / "one.pt")
    return tmp_path / "one.pt"


@pytest.mark.parametrize("entry", ["data/0", "data.pkl", "version"])
def test_what_inflates_is_refused_before_it_does(archive, tmp_path, entry):
    rewrite(archive, tmp_path / "bomb.pt", **{entry: bytes(1 << 28)})
    assert (tmp_path / "bomb.pt").stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"bomb\.pt: .*is compressed"):
        read_weights(tmp_path / "bomb.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16  # KiB


@pytest.mark.parametrize(
    "call",
    [
        (bytearray, 10**11),
        (torch.UntypedStorage, 10**11),
        (torch.FloatTensor, 10**11),
        (collections.Counter, {}),
        (print, "run"),
    ],
)
def test_what_makes_more_than_it_holds_is_refused(tmp_path, capsys, call):
    torch.save({"weight": Call(*call)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt: .* holds \w+"):
        read_weights(tmp_path / "a.pt")
    assert "run" not in capsys.readouterr().out


def test_what_checkpoints_hold_is_read(tmp_path):
    kinds = {
        "tensor": torch.ones(2, dtype=torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "state": torch.nn.Linear(2, 2).state_dict(),
        "plain": [1, 2.5, None, True, ("a", torch.float32, torch.Size([1]), torch.device("cpu"))],
    }
    torch.save(kinds, tmp_path / "a.pt")
    read = read_weights(tmp_path / "a.pt")
    assert read["plain"] == kinds["plain"]
    assert torch.equal(read["state"]["weight"], kinds["state"]["weight"])


@pytest.mark.parametrize("at", range(0, 1000, 61))
def test_damage_is_an_error_or_harmless(archive, tmp_path, at):
    data = bytearray(archive.read_bytes())
    for name, damaged in (("cut", data[: at * len(data) // 1000]), ("changed", data)):
        damaged[at % max(len(damaged), 1) : at + 3] = b"\xff\x00\x28"
        (tmp_path / name).write_bytes(damaged)
        try:
            read_weights(tmp_path / name)
        except InputError as error:
            assert str(error).startswith(f"{tmp_path / name}: ")


WEIGHT, BIAS = torch.ones(3, 2), torch.ones(3)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, r"parameter bias and 1 more: missing there, \[3\] here"),
        ({"weight": WEIGHT}, "parameter bias: missing there"),
        ({"weight": WEIGHT.T, "bias": BIAS}, r"parameter weight: \[2, 3\] there, \[3, 2\] here"),
        ({"weight": WEIGHT, "bias": BIAS, "more": BIAS}, r"more: \[3\] there, not known here"),
        ({"weight": WEIGHT, "bias": 7}, "parameter bias: int there"),
        ({"weight": WEIGHT, "bias": BIAS, 7: BIAS}, "parameter 7"),
        ({"weight": WEIGHT, "bias": BIAS / 0}, "parameter bias is not finite"),
        ({"weight": WEIGHT, "bias": torch.ones(1).expand(10**12)}, r"bias: \[1000000000000\]"),
        ([WEIGHT, BIAS], "holds list"),
        (WEIGHT, "holds Tensor"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(state, message):
    module = torch.nn.Linear(2, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(InputError, match=message) as caught:
        load_exactly(module, state, "a.ckpt")
    assert str(caught.value).startswith("a.ckpt: ")
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())


def test_what_is_infinite_and_not_learnt_is_loaded():
    """As the mask of a transformer."""
    module = torch.nn.Linear(2, 3)
    module.register_buffer("mask", torch.zeros(2))
    state = {"weight": WEIGHT, "bias": BIAS, "mask": torch.tensor([0, -torch.inf])}
    load_exactly(module, state, "a.ckpt")
    assert torch.equal(module.mask, state["mask"])


def test_what_fits_is_loaded():
    module = torch.nn.Linear(2, 3)
    load_exactly(module, {"weight": WEIGHT, "bias": BIAS}, "a.ckpt")
    assert torch.equal(module.weight, WEIGHT)
