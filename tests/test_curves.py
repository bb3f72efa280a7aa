"""The curves that plot.py draws are the figures of the histories."""

import pandas as pd
import pytest

from custom_modules.curves import plot_histories, plot_training, read_histories
from custom_modules.errors import InputError
from tests.integration.training import load_script


def a_history(folder, values):
    folder.mkdir(parents=True)
    epochs = range(1, len(values) + 1)
    row = {"epoch": epochs, "lr": 1e-3, "valid_si_sdr": values}
    row |= {"valid_si_sdri": [v + 2 for v in values], "train_si_sdr": values}
    row |= {"train_si_sdri": [v + 3 for v in values]}
    pd.DataFrame(row).to_csv(folder / "history.csv", index=False)
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        a_history(tmp_path / name, values)
        for name, values in (("a/42", [1.0, 3.0, 2.0]), ("b/42", [0.5, 0.7]))
    ]


def test_each_run_has_its_curves_and_its_best_epoch(runs):
    scores, rates = plot_histories(read_histories(runs)).axes
    drawn = [line.get_ydata().tolist() for line in scores.lines]
    assert drawn[:3] == [[3.0, 5.0, 4.0], [4.0, 6.0, 5.0], [5.0]]
    assert drawn[3:6] == [[2.5, 2.7], [3.5, 3.7], [2.7]]
    labels = [text.get_text() for text in scores.get_legend().get_texts()]
    assert labels[:2] == ["a/42: 5.00 dB", "b/42: 2.70 dB"]
    assert len(rates.lines) == 2


def test_the_command_draws_and_refuses_in_one_line(runs, tmp_path, capsys):
    main = load_script("plot").main
    picture = tmp_path / "new" / "curves.png"
    main([*map(str, runs), f"--output={picture}", "--score=si_sdr"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.strip() == str(picture)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    for name, message in (
        ("none", "train first"),
        ("empty.csv", "is empty"),
        ("other.csv", "not the history"),
    ):
        with pytest.raises(InputError, match=message):
            main([str(tmp_path / name)])
    with pytest.raises(InputError, match="more than once"):
        main([str(runs[0]), str(runs[0])])


def test_runs_without_a_history_are_named_and_left_out(runs, tmp_path, caplog):
    (tmp_path / "new" / "42").mkdir(parents=True)
    histories = read_histories([runs[0], tmp_path / "new" / "42", runs[1]])
    assert list(histories) == ["a/42", "b/42"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{tmp_path}/new/42/history.csv: cannot be read")
    assert line.endswith("train first; left out")
    with pytest.raises(InputError, match="train first") as caught:
        read_histories([tmp_path / "none", tmp_path / "new" / "42"])
    assert len(caught.value.details) == 1


def test_a_single_epoch_can_be_seen(tmp_path):
    """A line through one point is nothing: every curve of it needs a marker."""
    histories = read_histories([a_history(tmp_path / "a" / "42", [1.0])])
    figure = plot_histories(histories)
    for axes in figure.axes:
        drawn = [line for line in axes.lines if len(line.get_xdata())]
        assert all(line.get_marker() != "None" for line in drawn)
        low, high = axes.get_xlim()
        assert (low, high) == (0.5, 1.5)
        assert [t for t in axes.get_xticks() if low < t < high] == [1]


def test_a_training_is_drawn_also_where_nothing_can_be_improved(tmp_path):
    plot_training(tmp_path)
    assert list(tmp_path.iterdir()) == []  # no epoch yet
    folder = a_history(tmp_path / "es" / "42", [1.0, 3.0])
    history = pd.read_csv(folder / "history.csv")
    history.assign(valid_si_sdri=None).to_csv(folder / "history.csv", index=False)
    plot_training(folder)
    assert (folder / "training_curve.png").read_bytes().startswith(b"\x89PNG")
