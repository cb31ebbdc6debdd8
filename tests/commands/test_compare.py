"""`python -m counterpoise.compare`: output, files and errors."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import commandline
import finished
from counterpoise.analysis import plots as pictures
from counterpoise.analysis.comparison import compare_runs
from counterpoise.commands import compare
from counterpoise.terminal import console

FILES = {"comparison.html", "comparison.md", "comparison.csv", "pairs.csv", "classes.csv", "recall_vs_count.png"}


@pytest.fixture
def sweep(tmp_path):
    return finished.sweep(tmp_path / "sweep")


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    """Run the command in an empty folder; return exit code, standard output and standard error."""

    def run_compare(*arguments: object, width: int = 120) -> tuple[int, str, str]:
        monkeypatch.setattr(console, "_width", width)
        return commandline.call(compare.main, monkeypatch, *arguments), *capsys.readouterr()

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return run_compare


def logged(folder: Path) -> Path:
    (folder / "csv").mkdir(parents=True)
    history = {"step": [0, 1, 2], "train/loss_step": [3.0, 2.0, 1.0], "train/grad_norm": [1.0, 0.5, 0.2]}
    pd.DataFrame(history).to_csv(folder / "csv" / "metrics.csv", index=False)
    return folder


def test_comparison_of_a_sweep_is_written_into_the_sweep(call, sweep):
    code, out, err = call(sweep)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].strip() == "Comparison by macro F1"
    rows = [line.split() for line in lines if line.startswith(("  combined", "  plain"))]
    assert [row[0] for row in rows] == ["combined", "plain"]
    assert rows[0][2] == "±"
    assert rows[0][-3:] == ["160", "100", "2"]
    assert any("difference: to plain" in line for line in lines)
    assert "- Best by macro F1: combined" in out
    assert "Not included from" in out
    assert lines[-1] == str(sweep / "comparison.html")
    assert {path.name for path in sweep.iterdir() if path.is_file()} == FILES
    assert list(Path().iterdir()) == []


def test_comparison_of_several_arguments_is_written_into_its_own_folder(call, sweep):
    assert call(sweep, f"more={finished.run(sweep.parent / 'more')}")[0] == 0
    assert {path.name for path in Path("comparison").iterdir()} == FILES
    assert call(sweep / "0", "--output", "a/b")[0] == 0
    assert {path.name for path in Path("a/b").iterdir()} == FILES
    assert {path.name for path in sweep.iterdir() if path.is_file()} == set()


def test_csv_files_hold_the_comparison(call, sweep):
    call(sweep)
    comparison = compare_runs([sweep])
    scores = pd.read_csv(sweep / "comparison.csv").set_index(["group", "metric"])
    assert len(scores) == len(comparison.groups) * len(comparison.metrics)
    for group in comparison.groups:
        for metric in comparison.metrics:
            row = scores.loc[(group.name, metric)]
            values = group.scores[metric]
            np.testing.assert_allclose(row[["mean", "sd"]].to_list(), [values.mean(), values.std()])
            np.testing.assert_allclose(row[["low", "high"]].to_list(), group.intervals[metric])
            assert (row["seconds"], row["seeds"], row["probe"]) == (group.seconds, 2, False)
    effect = comparison.effects.set_index("metric").loc["tail_f1"]
    row = scores.loc[("combined", "tail_f1")]
    expected = effect[["difference", "low", "high", "p", "p_adjusted"]].to_list()
    found = row[["difference", "difference_low", "difference_high", "p", "p_adjusted"]].to_list()
    np.testing.assert_allclose(found, expected)
    assert np.isnan(scores.loc[("plain", "tail_f1"), "difference"])
    pd.testing.assert_frame_equal(pd.read_csv(sweep / "pairs.csv"), comparison.pairs)
    classes = pd.read_csv(
        sweep / "classes.csv", keep_default_na=False, na_values={"recall": [""]}, dtype={"class": str}
    )
    assert classes["class"].tolist() == finished.LABELS * 2
    np.testing.assert_allclose(classes["recall"], comparison.classes["recall"])


def test_markdown_holds_summary_and_tables_and_marks_significant_differences(call, sweep):
    call(sweep)
    lines = (sweep / "comparison.md").read_text().splitlines()
    assert lines[:3] == ["# Comparison by macro F1", "", "100 test texts, 5 classes."]
    assert lines[4].startswith("- Best by macro F1: combined (")
    head = lines.index("| group | macro F1 | 95 % | difference | seconds | steps | seeds |")
    assert lines[head + 2].startswith("| `combined` | 0.")
    assert lines[head + 3].endswith(" |  | 100 | 100 | 2 |")
    (row,) = [line for line in lines[head + 4 :] if line.startswith("| `combined` |")]
    cells = dict(zip(lines[lines.index("## All scores") + 2].split(" | "), row.split(" | "), strict=True))
    assert cells["tail recall"].startswith("**0.950 ± ")
    assert cells["head recall"].startswith("0.9")
    assert "Bold: differs significantly from plain" in lines[-1]


def test_names_are_not_read_as_markup(call, tmp_path):
    runs = [finished.run(tmp_path / str(n), f"data.columns=[{n}|/]", f"seed={n}") for n in range(2)]
    code, out, _ = call(*runs, "--output", tmp_path / "out")
    assert code == 0
    assert "data.columns=[1|/]" in out
    assert r"| `data.columns=[1\|/]` |" in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.parametrize("width", [36, 50, 70, 90, 200])
def test_narrow_terminal_shows_only_the_first_columns(call, sweep, width):
    _, out, _ = call(sweep, width=width)
    lines = out.splitlines()[:-1]  # the path is never broken
    assert max(map(len, lines)) <= width
    assert "…" not in out
    assert "macro F1" in lines[2]
    assert ("difference" in lines[2]) == (width >= 70)
    assert ("seeds" in lines[2]) == (width >= 90)


def test_reference_and_metric_can_be_chosen(call, sweep):
    _, out, _ = call(sweep, "--reference", "combined", "--metric", "tail_recall")
    assert "Comparison by tail recall" in out
    assert "difference: to combined" in out
    assert "Compared with combined, plain decreases" in out


def test_title_names_probes(call, tmp_path):
    runs = [finished.run(tmp_path / name, f"strategy={name}", probe=True) for name in ("plain", "combined")]
    assert call(*runs, "--output", tmp_path / "out")[1].startswith("Probe comparison by macro F1")
    assert (tmp_path / "out" / "comparison.md").read_text().startswith("# Probe comparison")
    full = finished.run(tmp_path / "full", "strategy=weighted")
    out = call(*runs, full, "--output", tmp_path / "out")[1]
    assert out.startswith("Comparison of probes and fine-tuned runs by macro F1")
    assert "combined (probe)" in out
    assert "weighted (probe)" not in out


@pytest.fixture
def drawn(monkeypatch):
    """Record the arguments of the recall plot: recalls by name, bounds and unit."""
    calls = []

    def draw(path, runs, tail_max, head_min, unit):
        calls.append(({name: recall.tolist() for name, (_, recall) in runs.items()}, (tail_max, head_min), unit))

    monkeypatch.setattr(pictures, "recall_vs_count", draw)
    return calls


def test_reference_and_best_other_group_are_plotted_by_default(call, sweep, drawn):
    a, b = (finished.run(sweep.parent / name, wrong={1: n}) for n, name in enumerate("ab", 3))
    call(sweep, f"a,1={a}", f"b={b}", "--output", "out")
    call(sweep, f"a,1={a}", f"b={b}", "--output", "out", "--picture", "b,a,1")
    call(sweep, "--reference", "combined")
    assert [list(names) for names, _, _ in drawn] == [["plain", "combined"], ["b", "a,1"], ["combined", "plain"]]
    recalls, bounds, unit = drawn[0]
    np.testing.assert_allclose(recalls["plain"], [38.5 / 40, 1, 1, 0.15, np.nan])
    assert (bounds, unit) == ((20, 101), "class")


def test_plot_of_multi_label_runs_counts_labels(call, tmp_path, drawn):
    call(finished.multi_label_run(tmp_path / "0"), "--output", "out")
    assert drawn[0][2] == "label"


def test_losses_are_plotted_from_logged_metrics(call, tmp_path):
    runs = [f"plain={logged(tmp_path / '0')}", f"combined={logged(tmp_path / '1')}"]
    assert call(*runs, "--losses")[:2] == (0, "losses.png\n")
    assert Path("losses.png").is_file()
    assert call("--losses", *runs, "--output", "other.png")[:2] == (0, "other.png\n")
    assert Path("other.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent does not exist"),
        (["{sweep}/4"], "failed, no luck"),
        (["{sweep}", "--metric", "f1"], "metric f1 is not compared"),
        (["{sweep}", "--reference", "plian"], "Did you mean 'plain'?"),
        (["{sweep}", "--picture", "plain"], "--picture plain"),
        (["{sweep}", "--picture", "plian,combined"], "Did you mean 'plain'?"),
        (["{sweep}", "--output", __file__], "is a file; it must be a folder"),
        (["0", "--losses"], "plain=0"),
        (["plain=absent", "--losses"], "absent has no csv/metrics.csv"),
        (["a={sweep}/0", "a={sweep}/0", "--losses"], "{sweep}/0 has no csv/metrics.csv"),
    ],
)
def test_user_error_is_one_line_with_exit_code_2_and_writes_nothing(call, sweep, arguments, message):
    code, out, err = call(*(each.format(sweep=sweep) for each in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message.format(sweep=sweep) in err
    assert list(Path().iterdir()) == []
    assert not [path for path in sweep.iterdir() if path.is_file()]


def test_losses_need_one_run_per_name(call, tmp_path):
    run = logged(tmp_path / "0")
    assert "--losses" in call(f"a={run}", f"a={run}", "--losses")[2]


def test_error_while_writing_keeps_the_old_files(call, sweep, monkeypatch):
    call(sweep)
    old = {name: (sweep / name).read_bytes() for name in FILES}

    def fail(*arguments, **options):
        raise PermissionError(13, "no", "x")

    monkeypatch.setattr(pd.DataFrame, "to_csv", fail)
    assert call(sweep)[::2] == (2, "error: x: no\n")
    assert {name: (sweep / name).read_bytes() for name in FILES - {"comparison.html"}}.items() <= old.items()
    assert {path.name for path in sweep.iterdir() if path.is_file()} == FILES
