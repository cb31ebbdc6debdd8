import threading
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from counterpoise.analysis import plot_style as style
from counterpoise.analysis import plots as pictures

RNG = np.random.default_rng(0)


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert len(image.convert("RGB").getcolors(2**24)) > 10, "the picture is blank"
        return image.size


def texts(monkeypatch, draw, *arguments, **options):
    """Return every text of the figure that `draw` saves."""
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure))
    draw("unused.png", *arguments, **options)
    return [t.get_text() for t in figures[0].findobj(matplotlib.text.Text) if t.get_text()]


def spread(classes: int) -> np.ndarray:
    return RNG.poisson(0.5, (classes, classes)) + np.diag(RNG.integers(3, 30, classes))


@pytest.mark.parametrize("names", [["plain"], ["plain", "combined"], list("abcdefgh")])
def test_one_or_several_runs_are_compared_by_recall(tmp_path, names):
    counts = np.array([0, 1, 5, 20, 100, 101, 2840])
    recall = np.array([0, np.nan, 0.5, 0.6, 0.7, 0.9, 1.0])
    runs = dict.fromkeys(names, (counts, recall))
    pictures.recall_vs_count(tmp_path / "r.png", runs, tail_max=5, head_min=50)
    size(tmp_path / "r.png")


def test_long_names_of_runs_do_not_widen_the_picture(tmp_path):
    values = np.array([1, 20, 300]), np.array([0.2, 0.5, 0.9])
    pictures.recall_vs_count(tmp_path / "short.png", {"a": values, "b": values})
    pictures.recall_vs_count(tmp_path / "long.png", {f"{number}={'strategy=' * 12}": values for number in range(2)})
    assert size(tmp_path / "long.png")[0] <= 1.02 * size(tmp_path / "short.png")[0]


def test_the_recall_picture_names_the_buckets_that_hold_a_class(monkeypatch):
    runs = {"plain": (np.array([30, 50, 3000]), np.array([0.5, 0.6, 0.9]))}
    shown = texts(monkeypatch, pictures.recall_vs_count, runs)
    assert {"medium", "head"} <= set(shown)
    assert "tail" not in shown


@pytest.mark.parametrize("count", [7, 0])
def test_classes_of_one_size_and_classes_without_recall_are_drawn(tmp_path, count):
    runs = {"plain": (np.full(3, count), np.full(3, np.nan)), "b": (np.full(3, count), np.full(3, 0.5))}
    pictures.recall_vs_count(tmp_path / "r.png", runs)
    size(tmp_path / "r.png")


CROWD = np.sort(RNG.integers(1, 9000, 600))


def test_many_labels_are_drawn_as_such_and_those_at_one_place_as_one_point(monkeypatch):
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure))
    recall = np.where(CROWD < 1000, 0.0, 0.7)
    recall[:50], counts = np.nan, CROWD.copy()
    counts[50:60] = 3
    runs = {"threshold 0.5": (counts, recall), "tuned": (counts, np.sqrt(recall))}
    pictures.recall_vs_count("unused.png", runs, unit="label")
    low, high = figures[0].axes[0].collections
    assert low.get_sizes().max() == 10 * low.get_sizes().min()
    assert low.get_sizes().sum() == pytest.approx(550 * low.get_sizes().min())
    assert low.get_offsets()[0, 0] < 3 < high.get_offsets()[0, 0]
    shown = [text.get_text() for text in figures[0].findobj(matplotlib.text.Text)]
    assert "training examples of the label (log scale)" in shown
    assert "a point is a label, larger where several coincide; a line is their mean" in shown


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.5, 300), ["0", "1", "3", "10", "30", "100", "300"]),
        ((1, 8), ["1", "3", "10"]),
        ((140, 200), ["140", "200"]),
        ((4200, 4210), ["4,200"]),
        ((7, 7), ["7"]),
    ],
)
def test_an_axis_of_counts_is_labelled_however_little_they_differ(ends, expected):
    marks, names = pictures.count_marks(*ends, 1.25)
    assert names == expected
    assert all(ends[0] / 1.25 <= mark <= ends[1] * 1.25 for mark in marks)


def test_the_recall_picture_of_a_mild_imbalance_has_counts_on_its_axis(monkeypatch):
    runs = {"plain": (np.array([140, 170, 200]), np.array([0.5, 0.6, 0.9]))}
    assert {"140", "200"} <= set(texts(monkeypatch, pictures.recall_vs_count, runs))


def history(validations: int) -> pd.DataFrame:
    train = pd.DataFrame({"step": range(0, 100, 5), "train/loss": RNG.random(20), "lr-AdamW": 1e-3})
    if not validations:
        return train
    steps = 24 * np.arange(1, validations + 1)
    names = ("val/loss", "val/loss_weighted", "val/macro_f1", "val/balanced_accuracy", "val/accuracy")
    measured = {name: RNG.random(validations) for name in names}
    return pd.concat([train, pd.DataFrame({"step": steps, **measured})], ignore_index=True)


def panels(monkeypatch, draw, *arguments):
    """Return the panels of the figure that `draw` saves, by title."""
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, path: figures.append(figure))
    draw("unused.png", *arguments)
    return {axes.get_title(loc="left"): axes for axes in figures[0].axes}


def with_gradients(table: pd.DataFrame, norms) -> pd.DataFrame:
    measured = pd.DataFrame({"step": range(4, 5 * len(norms), 5), "train/grad_norm": norms})
    return pd.concat([table, measured], ignore_index=True)


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_losses_of_several_runs_are_relative_to_their_own_start(monkeypatch):
    calm = with_gradients(history(1), RNG.random(20))
    scaled = with_gradients(history(0).assign(**{"train/loss": 1000 * calm["train/loss"][:20]}), RNG.random(20))
    drawn = panels(monkeypatch, pictures.loss_and_gradients, {"capped": calm, "naive": scaled})
    assert list(drawn) == ["Training loss", "Gradient norm"]
    lines = [line.get_ydata() for line in drawn["Training loss"].lines if len(line.get_ydata()) == 20]
    np.testing.assert_allclose(lines[0], lines[2])
    assert lines[0][:2].mean() == pytest.approx(1)
    assert {axes.get_yscale() for axes in drawn.values()} == {"log"}


def test_a_run_that_ends_before_the_others_has_a_cross(monkeypatch):
    whole, part = with_gradients(history(0), RNG.random(20)), with_gradients(history(0).head(9), RNG.random(9))
    assert "relative to each run's start" in texts(
        monkeypatch, pictures.loss_and_gradients, {"a": whole, "b": whole.tail(20)}
    )
    shown = texts(monkeypatch, pictures.loss_and_gradients, {"capped": whole, "naive": part})
    assert "relative to each run's start; a cross: ended early" in shown
    assert {"capped", "naive"} <= set(shown)
    for axes in panels(monkeypatch, pictures.loss_and_gradients, {"capped": whole, "naive": part}).values():
        assert [line.get_marker() for line in axes.lines].count("X") == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, -1.0, 1e30])
def test_losses_and_norms_of_any_size_are_drawn(tmp_path, bad):
    norms = RNG.random(20)
    broken = history(1)
    broken.loc[[0, 7, 19], "train/loss"] = norms[[0, 7, 19]] = bad
    runs = {"$a_{$": with_gradients(history(1), RNG.random(20)), "b": with_gradients(broken, norms)}
    pictures.loss_and_gradients(tmp_path / "l.png", runs)
    size(tmp_path / "l.png")


@pytest.mark.filterwarnings("error")
def test_runs_that_measured_neither_loss_nor_gradients_say_so(monkeypatch):
    nothing = pd.DataFrame({"step": [0, 5], "val/loss": [1.0, 0.5]})
    for runs in ({}, {"a": pd.DataFrame({"step": []})}, {"a": nothing, "b": nothing.assign(**{"train/loss": np.nan})}):
        assert texts(monkeypatch, pictures.loss_and_gradients, runs).count("nothing measured") == 2


def test_names_with_markup_are_drawn_as_they_are(tmp_path):
    recall = np.full(4, 0.5)
    runs = {"$x_{$": (np.arange(1, 5), recall), r"a_b^c \frac $": (np.arange(1, 5), recall)}
    pictures.recall_vs_count(tmp_path / "r.png", runs)
    size(tmp_path / "r.png")


def test_pictures_can_be_drawn_by_several_threads_and_keep_the_global_style(tmp_path):
    before = dict(matplotlib.rcParams)
    path, run = tmp_path / "r.png", {"plain": (np.arange(1, 5), np.full(4, 0.5))}
    threads = [threading.Thread(target=pictures.recall_vs_count, args=(path, run)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    size(path)
    assert dict(matplotlib.rcParams) == before
    assert list(tmp_path.iterdir()) == [path]
