"""Checkpoints that were cut off are passed over; whole ones are SpeechBrain's."""

import os
import zipfile
from pathlib import Path

import pytest
import torch
from speechbrain.utils.checkpoints import Checkpointer

from custom_modules.checkpoints import LEARNT_FILE, AtomicCheckpointer, check_learnt
from custom_modules.errors import InputError
from custom_modules.tabular import write_record


def model_with(value):
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, value)
    return model


def test_an_interrupted_save_leaves_the_last_whole_checkpoint(tmp_path):
    model = model_with(1.0)
    checkpointer = AtomicCheckpointer(tmp_path, {"model": model})
    checkpointer.save_checkpoint()

    def power_cut(obj, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    torch.nn.init.constant_(model.weight, 2.0)
    checkpointer.custom_save_hooks["model"] = power_cut
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save_checkpoint()
    torch.nn.init.constant_(model.weight, 3.0)
    AtomicCheckpointer(tmp_path, {"model": model}).recover_if_possible()
    assert model.weight.item() == 1.0

    del checkpointer.custom_save_hooks["model"]
    checkpointer.save_and_keep_only(importance_keys=[])
    assert len(list(tmp_path.iterdir())) == 1  # the half one is gone, too


def test_a_full_disk_ends_in_one_line_and_loses_nothing(tmp_path):
    model = model_with(1.0)
    checkpointer = AtomicCheckpointer(tmp_path, {"model": model})
    checkpointer.save_checkpoint()

    def full(obj, path):
        raise OSError(28, "No space left on device")

    checkpointer.custom_save_hooks["model"] = full
    with pytest.raises(InputError, match="No space left"):
        checkpointer.save_checkpoint()
    assert len(checkpointer.list_checkpoints()) == 1


def test_the_folder_is_made_with_the_first_checkpoint(tmp_path):
    checkpointer = AtomicCheckpointer(tmp_path / "save", {"model": model_with(1.0)})
    assert checkpointer.find_checkpoint() is None
    assert not (tmp_path / "save").exists()
    checkpoint = checkpointer.save_checkpoint()
    assert checkpointer.find_checkpoint().path == checkpoint.path


def test_a_bug_of_what_is_saved_keeps_its_traceback(tmp_path):
    checkpointer = AtomicCheckpointer(tmp_path, {"model": model_with(1.0)})

    def broken(obj, path):
        raise RuntimeError("a bug")

    checkpointer.custom_save_hooks["model"] = broken
    with pytest.raises(RuntimeError, match="a bug"):
        checkpointer.save_checkpoint()


@pytest.mark.parametrize("damage", ["remove", "empty"])
def test_folders_that_are_not_whole_are_passed_over(tmp_path, damage):
    model = model_with(1.0)
    checkpointer = AtomicCheckpointer(tmp_path, {"model": model})
    checkpointer.save_checkpoint()
    torch.nn.init.constant_(model.weight, 2.0)
    newest = checkpointer.save_checkpoint().paramfiles["model"]
    newest.unlink() if damage == "remove" else newest.write_bytes(b"")
    checkpointer.recover_if_possible()
    assert model.weight.item() == 1.0


def halve(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip_a_byte(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def make_infinite(file):
    torch.save({"weight": torch.tensor([[torch.inf]])}, file)


def make_a_pipe(file):
    file.unlink()
    os.mkfifo(file)


def write_text(file):
    file.write_text("not this")


def compress(path):
    """It would unpack to more than it is on the disk."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


BYTES = [halve, flip_a_byte, write_text, make_a_pipe, Path.unlink]
#: What happens to a file; whether it is of an earlier version, which wrote no sums.
DAMAGE = [
    *[(change, name, False) for name in ("model.ckpt", "CKPT.yaml") for change in BYTES],
    *[(change, "sums.json", False) for change in BYTES[:-1]],
    (make_infinite, "model.ckpt", False),
    *[(change, "model.ckpt", True) for change in (halve, compress, make_a_pipe, Path.unlink)],
]


@pytest.mark.parametrize("best", [{}, {"max_key": "score"}], ids=["newest", "best"])
@pytest.mark.parametrize(("change", "name", "earlier"), DAMAGE)
def test_damage_is_told_and_the_checkpoint_before_is_used(
    tmp_path, caplog, change, name, earlier, best
):
    model = model_with(1.0)
    writer = AtomicCheckpointer(tmp_path, {"model": model})
    writer.save_checkpoint(meta={"score": 1})
    torch.nn.init.constant_(model.weight, 2.0)
    newest = writer.save_checkpoint(meta={"score": 2}).path
    if earlier:
        for sums in tmp_path.glob("*/sums.json"):
            sums.unlink()
    change(newest / name)
    reader = AtomicCheckpointer(tmp_path, {"model": model})
    reader.recover_if_possible(**best)
    assert model.weight.item() == 1.0
    reader.recover_if_possible(**best)
    assert caplog.text.count(f"{newest} is not whole") == 1
    reader.save_and_keep_only(meta={"score": 0}, max_keys=["score"], importance_keys=[])
    kept = AtomicCheckpointer(tmp_path, {"model": model})
    assert {c.meta["score"] for c in kept.find_checkpoints()} == {0, 1}

    for file in tmp_path.glob("*/model.ckpt"):
        file.unlink()
    lost = AtomicCheckpointer(tmp_path, {"model": model})
    with pytest.raises(InputError, match="none of its checkpoints is whole; restore one"):
        lost.check_fit("model")


def test_speechbrains_own_checkpointer_reads_them_and_the_other_way_round(tmp_path):
    for writer, reader in ((AtomicCheckpointer, Checkpointer), (Checkpointer, AtomicCheckpointer)):
        folder = tmp_path / writer.__name__
        writer(folder, {"model": model_with(5.0)}).save_checkpoint(meta={"epoch": 3})
        model = model_with(0.0)
        found = reader(folder, {"model": model}).recover_if_possible()
        assert model.weight.item() == 5.0
        assert found.meta["epoch"] == 3


def test_a_checkpoint_of_another_size_is_refused_in_one_line(tmp_path):
    AtomicCheckpointer(tmp_path, {"model": model_with(1.0)}).save_checkpoint()
    other = AtomicCheckpointer(tmp_path, {"model": torch.nn.Linear(2, 2)})
    with pytest.raises(InputError, match="does not fit this model") as caught:
        other.recover_if_possible()
    assert "\n" not in str(caught.value)


def test_a_folder_stays_with_its_corpus_which_may_be_moved_or_mended(tmp_path, caplog):
    manifest = tmp_path / "train.json"
    manifest.write_text("one")
    write_record(check_learnt(tmp_path, "A", [manifest]), tmp_path / LEARNT_FILE)
    (tmp_path / "save" / "CKPT+1").mkdir(parents=True)
    assert check_learnt(tmp_path, "moved/A", [manifest])["data_folder"] == "moved/A"
    manifest.write_text("another")
    with pytest.raises(InputError, match=r"--data_folder=B: .* has learnt A, as learnt.json in it"):
        check_learnt(tmp_path, "B", [manifest])
    check_learnt(tmp_path, "A", [manifest])
    assert "A has changed since this training began" in caplog.text
