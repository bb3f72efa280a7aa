"""What trackers have of a training and of its resuming, on train.py."""

import struct

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record


def wandb_records(path):
    """What is in an offline run's file: protobuf records in LevelDB's log format."""
    content, position, parts = path.read_bytes(), 7, []
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:  # blocks end in zeros
            position += left
            continue
        size, kind = struct.unpack("<HB", content[position + 4 : position + 7])
        parts.append(content[position + 7 : position + 7 + size])
        position += 7 + size
        if kind in (1, 4):  # whole, or the last of several parts
            yield Record.FromString(b"".join(parts))
            parts = []


def test_wandb_has_every_epoch_and_a_resumed_run_the_same_id(train, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = ["--tracker=wandb", "--wandb_mode=offline", "--batch_size=4"]
    train(tmp_path, *options, "--number_of_epochs=2")
    options += ["--save_audio=1"]
    history = train(tmp_path, *options, "--number_of_epochs=3").set_index("epoch")
    wandb.teardown()  # its service writes the last records after a run has finished
    ids, logged = [], {}
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                config = {c.key: c.value_json for c in record.run.config.update}
                ids.append((record.run.run_id, config["lr"]))
            elif kind == "history":
                items = record.history.item
                row = {(i.key or i.nested_key[0]): i.value_json for i in items}
                logged.setdefault(int(row["_step"]), {}).update(row)
    assert set(ids) == {((tmp_path / "wandb_run_id.txt").read_text().strip(), "0.001")}
    assert sorted(logged) == [1, 2, 3]
    for epoch, row in logged.items():
        for name, value in history.loc[epoch].items():
            assert float(row[name]) == pytest.approx(value, rel=1e-5)
    assert any(name.startswith("audio/val_0") for name in logged[3])
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/audio/**/*.wav"))) == 3


def test_tensorboard_has_every_epoch_also_after_a_resume(train, tmp_path):
    options = ["--tracker=tensorboard", "--batch_size=4", "--save_audio=1"]
    train(tmp_path, *options, "--number_of_epochs=2")
    history = train(tmp_path, *options, "--number_of_epochs=3").set_index("epoch")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for column in history:
        split, _, name = column.partition("_")
        tag = f"{name}/{split}" if split in ("train", "valid") else column
        scalars = {event.step: event.value for event in events.Scalars(tag)}
        assert scalars == pytest.approx(history[column].to_dict(), rel=1e-5)
    heard = [tag for tag in events.Tags()["audio"] if tag.startswith("audio/val_0")]
    assert len(heard) == 3  # the mixture and two sources
    assert events.Audio(heard[0])[0].sample_rate == 8000
