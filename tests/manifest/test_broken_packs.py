"""What is wrong with a pack, or with what is to be packed, is told and mended."""

import os
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from custom_modules import packs
from custom_modules.errors import InputError
from custom_modules.files import lock
from custom_modules.layout import SUBSETS
from custom_modules.manifest import arrow_files, packing
from polsess_prepare import prepare_polsess
from tests.manifest.packed import FRAMES, contents, dataset, make_corpus, manifests, pack, written

pytestmark = pytest.mark.usefixtures("small_files")


def in_a_child(work):
    """Runs work in a fork; how it ended."""
    if not (child := os.fork()):
        try:
            work()
        except InputError as error:
            Path(os.environ["CHILD_SAYS"]).write_text(str(error))
            os._exit(2)
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("after", [0, 1, 3, 4, 7, 20])
def test_killed_at_any_time_it_goes_on(corpus, tmp_path, monkeypatch, after):
    pack(corpus, tmp_path / "whole")
    target = tmp_path / "killed"
    calls = []

    def write_batch(rows, real=arrow_files._batch):
        calls.append(rows)
        if len(calls) > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(rows)

    with monkeypatch.context() as patch:
        patch.setattr(arrow_files, "_batch", write_batch)
        assert in_a_child(lambda: pack(corpus, target)) == signal.SIGKILL
    with pytest.raises(InputError, match="its packing did not end"):
        prepare_polsess(target, tmp_path / "m", workers=1)
    done = written(target)
    assert len(list(target.glob("*.partial"))) == 1
    pack(corpus, target)
    assert done <= written(target)
    assert contents(target) == contents(tmp_path / "whole")


def test_a_full_disk_is_a_line_and_the_rest_comes_later(corpus, tmp_path, target, monkeypatch):
    pack(corpus, tmp_path / "whole")
    monkeypatch.setenv("CHILD_SAYS", str(tmp_path / "says"))
    (tmp_path / "says").touch()

    def with_little_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        pack(corpus, target)

    assert os.waitstatus_to_exitcode(in_a_child(with_little_room)) == 2
    line = (tmp_path / "says").read_text()
    assert "data-00000.arrow: cannot be written (" in line
    pack(corpus, target)
    assert contents(target) == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["data-00002.arrow", packs.INDEX_FILE, packs.PACK_FILE])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_pack_is_named_and_packed_again(corpus, target, tmp_path, name, share):
    pack(corpus, target)
    manifests(target, tmp_path / "m")
    before = contents(target)
    os.truncate(target / name, int(share * (target / name).stat().st_size))
    packs.forget()
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        prepare_polsess(target, tmp_path / "m", workers=1)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        dataset(tmp_path / "m", target)[0]
    if name != packs.PACK_FILE:
        pack(corpus, target)
        assert contents(target) == before


def test_a_pack_that_is_cut_off_while_it_is_read(corpus, target, tmp_path):
    pack(corpus, target)
    manifests(target, tmp_path / "m")
    data = dataset(tmp_path / "m", target)
    data[0]
    os.truncate(target / "data-00000.arrow", 900)
    with pytest.raises(InputError, match=r"data-00000\.arrow: is cut off, 900 bytes instead of"):
        data[0]


def test_arrow_files_of_two_packs_are_not_mixed(corpus, target, tmp_path):
    pack(corpus, target)
    manifests(corpus.root, tmp_path / "m")
    os.utime(corpus.path("train", "mixFile", "train_0.wav"), ns=(1, 1))
    pack(corpus, tmp_path / "later")
    shutil.copy(tmp_path / "later" / "data-00000.arrow", target)
    packs.forget()
    with pytest.raises(InputError, match=r"data-00000\.arrow: is of another pack"):
        list(dataset(tmp_path / "m", target))


def test_a_full_check_compares_the_sums(corpus, target, tmp_path):
    pack(corpus, target, verify=True)
    packed = packs.find_packed(target / "val/clean/val_1_speaker2File.wav")
    path = target / f"data-{packed.shard:05}.arrow"
    whole = bytearray(path.read_bytes())
    whole[packed.start + 8] ^= 64
    path.write_bytes(whole)
    prepare_polsess(target, tmp_path / "m", workers=1)
    with pytest.raises(InputError, match="1 of 14 rows are bad") as caught:
        prepare_polsess(target, tmp_path / "m", check="full", workers=1)
    assert "val/clean/val_1_speaker2File.wav: its samples in" in caught.value.details[0]
    with pytest.raises(InputError, match="1 files are not as they were packed") as caught:
        pack(corpus, target, verify=True)
    assert f"{path}: val/clean/val_1_speaker2File.wav: " in caught.value.details[0]


def test_what_cannot_be_read_is_listed(corpus, target):
    corpus.path("train", "sceneFile", "train_1_sceneFile.wav").unlink()
    with pytest.raises(InputError, match="1 files cannot be packed, as listed") as caught:
        pack(corpus, target)
    assert "train/scene/train_1_sceneFile.wav: no such file" in caught.value.details[0]
    corpus.write("train", "sceneFile", "train_1_sceneFile.wav", np.zeros(FRAMES))
    corpus.path("val", "eventFile", "val_1_eventFile.wav").write_bytes(b"no sound")
    corpus.path("test", "eventFile", "test_1_eventFile.wav").write_bytes(b"")
    with pytest.raises(InputError, match="2 files cannot be packed") as caught:
        pack(corpus, target, skip_bad_rows=False)
    assert [line.split(": ")[0] for line in caught.value.details] == [
        *("val/event/val_1_eventFile.wav", "test/event/test_1_eventFile.wav")
    ]
    with pytest.raises(InputError, match="its packing did not end"):
        packs.open_pack(str(target))


def test_bad_rows_stay_bad_rows(corpus, target, tmp_path):
    corpus.path("train", "sceneFile", "train_1_sceneFile.wav").unlink()
    corpus.path("val", "eventFile", "val_1_eventFile.wav").write_bytes(b"no sound")
    pack(corpus, target, skip_bad_rows=True)
    ours, theirs = (
        manifests(root, tmp_path / root.name, skip_bad_rows=True) for root in (corpus.root, target)
    )
    assert ours[0] == theirs[0]
    assert {s: x["bad_rows"] for s, x in theirs[1].subsets.items()} == {
        **{"train": 1, "val": 1, "test": 0}
    }


def test_other_folders_are_refused_and_left_alone(corpus, target, tmp_path):
    pack(corpus, target)
    other = make_corpus(tmp_path / "Other", (1, 1, 1))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    (tmp_path / "file").touch()
    before = contents(tmp_path)
    for name, complaint in (
        ("full", "holds letter.txt, and is no pack"),
        ("packed", "is a pack of .*Tiny; name another"),
        ("Other", "is no pack"),
        ("file", "cannot be written"),
    ):
        with pytest.raises(InputError, match=complaint):
            pack(other, tmp_path / name)
    with pytest.raises(InputError, match="packed: is a pack already"):
        packing.pack_corpus(target, tmp_path / "twice", SUBSETS)
    with lock(target), pytest.raises(InputError, match="another command writes into it"):
        pack(corpus, target)
    assert contents(tmp_path) == before


def test_an_absolute_path_in_a_table_is_refused(corpus, target):
    path = corpus.path("train", "mixFile", "train_1.wav")
    corpus.rows["train"][1]["mixFile"] = str(path)
    corpus.write_tables()
    with pytest.raises(InputError, match="row 3, mixFile: an absolute path"):
        pack(corpus, target)
    assert not target.exists()
