import json
import threading
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import finished
from counterpoise.analysis import leaderboard, leaderboard_table


def job(sweep: Path, name: str, *overrides: str, state: str = "finished", reason: str | None = None, **test):
    folder = sweep / name
    folder.mkdir(parents=True)
    status = {"state": state, "reason": reason, "overrides": list(overrides), "seconds": 61.5}
    (folder / "status.json").write_text(json.dumps(status))
    if state == "finished":
        (folder / "metrics.json").write_text(json.dumps({"test": test, "validation": {"macro_f1": 0.99}}))
    return folder


@pytest.fixture
def sweep(tmp_path):
    job(tmp_path, "0", "strategy=plain", "seed=1", macro_f1=0.5, accuracy=0.9, loss=0.4)
    job(tmp_path, "1", "strategy=plain", "seed=2", macro_f1=0.6, accuracy=0.8, loss=0.5)
    job(tmp_path, "2", "strategy=weighted", "seed=1", macro_f1=0.7, accuracy=0.7, loss=0.6, tail_recall=0.2)
    job(tmp_path, "10", "strategy=ldam", "seed=1", state="failed", reason="labels|texts: no [red]column[/]")
    job(tmp_path, "11", "strategy=focal", state="running")
    return tmp_path


def test_jobs_are_collected_in_numerical_order_with_their_scores(sweep):
    table = leaderboard.collect(sweep)
    assert list(table.columns) == list(leaderboard.columns())
    assert table.job.tolist() == ["0", "1", "2", "10", "11"]
    assert table.setting.tolist() == [f"strategy={s}" for s in ("plain", "plain", "weighted", "ldam", "focal")]
    assert table.seed.tolist() == [1, 2, 1, 1, pd.NA]
    assert table.state.tolist() == ["finished"] * 3 + ["failed", "running"]
    assert table.reason[3] == "labels|texts: no [red]column[/]"
    assert table.macro_f1[:3].tolist() == [0.5, 0.6, 0.7]
    assert table.tail_recall.isna().tolist() == [True, True, False, True, True]
    assert table.seconds.tolist() == [61.5] * 5


def test_a_job_still_running_after_the_sweep_has_failed(sweep):
    last = leaderboard.collect(sweep, final=True).iloc[-1]
    assert (last.state, last.reason) == ("failed", "ended without a result (killed?)")


def test_a_job_without_overrides_is_the_default(tmp_path):
    job(tmp_path, "0", "+seed=3", macro_f1=0.1)
    row = leaderboard.collect(tmp_path).iloc[0]
    assert (row.setting, row.seed) == ("default", 3)


def test_a_job_with_hydra_files_only_has_failed(tmp_path):
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text("- strategy=plain\n- seed=4\n- loader.fold=2\n")
    (tmp_path / "plots").mkdir()
    (row,) = leaderboard.collect(tmp_path).itertuples()
    assert (row.state, row.reason) == ("failed", "ended without a result")
    assert (row.setting, row.seed, row.fold) == ("strategy=plain", 4, 2)


@pytest.mark.parametrize("file", ["status.json", "metrics.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"3", b'{"test": 3}', b'{"test": {"loss": "low"}}', b"\xff\xfe"]
)
def test_a_file_that_cannot_be_read_fails_its_job_and_no_other(tmp_path, file, content):
    broken = job(tmp_path, "0", "strategy=plain", macro_f1=0.5)
    (broken / file).write_bytes(content)
    job(tmp_path, "1", "strategy=weighted", macro_f1=0.6)
    table = leaderboard.write(tmp_path)
    assert table.state.tolist() == ["failed", "finished"]
    assert table.reason[0] == f"unreadable {file}"


def test_a_finished_job_without_metrics_has_failed(tmp_path):
    (job(tmp_path, "0") / "metrics.json").unlink()
    assert leaderboard.collect(tmp_path).reason[0] == "unreadable metrics.json"


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_sweep_without_jobs_gives_an_empty_leaderboard(tmp_path, name):
    assert leaderboard.collect(tmp_path / name).empty
    assert leaderboard.write(tmp_path / name).empty
    leaderboard_table.show(leaderboard.collect(tmp_path / name), Console(quiet=True))


def test_the_csv_holds_the_table(sweep):
    table = leaderboard.write(sweep)
    written = {p.name for p in sweep.iterdir() if p.is_file()}
    assert written == {"leaderboard.csv", ".leaderboard.lock"}
    read = pd.read_csv(sweep / "leaderboard.csv", dtype={"job": str, "seed": "Int64"})
    pd.testing.assert_frame_equal(read, table, check_dtype=False)


def test_duplicate_single_label_metrics_are_left_out(tmp_path):
    job(tmp_path, "0", macro_f1=0.4, micro_f1=0.9, accuracy=0.9, macro_recall=0.5, balanced_accuracy=0.5)
    row = leaderboard.collect(tmp_path).iloc[0]
    assert row[["micro_f1", "macro_recall"]].isna().all()
    assert row[["macro_f1", "balanced_accuracy", "accuracy"]].tolist() == [0.4, 0.5, 0.9]


def test_shared_overrides_are_split_off(tmp_path):
    for name, strategy in enumerate(("plain", "weighted")):
        job(tmp_path, str(name), "data=r52", f"strategy={strategy}", macro_f1=0.5)
    table = leaderboard.write(tmp_path)
    assert table.setting.tolist() == ["data=r52 strategy=plain", "data=r52 strategy=weighted"]
    rest, shared = leaderboard.split_shared_overrides(table)
    assert rest.setting.tolist() == ["strategy=plain", "strategy=weighted"]
    assert shared == ["data=r52"]


@pytest.fixture
def split_otherwise(tmp_path):
    """Four jobs on two test sets, and one of which nothing is known."""
    for number, other in enumerate((False, True, False, True)):
        ids = [f"{'b' if other else 'a'}{n}" for n in range(100)]
        settings = ("strategy=plain", f"loader.split_seed={int(other)}", f"seed={number // 2}")
        finished.run(tmp_path / str(number), *settings, ids=ids)
        metrics = {"test": {"macro_f1": 0.1 * number, "loss": 1.0 - 0.1 * number}}
        (tmp_path / str(number) / "metrics.json").write_text(json.dumps(metrics))
    job(tmp_path, "4", "strategy=plain", macro_f1=0.9)
    return tmp_path


def test_jobs_on_different_texts_are_not_comparable_and_none_is_the_best(split_otherwise):
    table = leaderboard.write(split_otherwise)
    assert table.test_set.fillna("").tolist() == ["A", "B", "A", "B", ""]
    assert pd.read_csv(split_otherwise / "leaderboard.csv").test_set.tolist()[:4] == ["A", "B", "A", "B"]
    assert leaderboard.rank(table).job.tolist() == ["2", "0", "3", "1", "4"]
    console = Console(width=200, force_terminal=True)
    with console.capture() as captured:
        leaderboard_table.show(table, console)
    assert leaderboard.INCOMPARABLE in captured.get()
    assert "\x1b[1;32m" not in captured.get()


def test_test_sets_are_equal_only_for_the_same_texts_and_labels(tmp_path):
    for number in range(2):
        finished.run(tmp_path / str(number), f"optim.lr={number}")
    assert leaderboard.write(tmp_path).test_set.tolist() == ["A", "A"]
    # Row numbers are ids where there are no others: the same ids with other truths are another test set.
    finished.run(tmp_path / "2", "data=other", truth=finished.TRUTH[::-1])
    (finished.run(tmp_path / "3", "data=broken") / "predictions.parquet").write_bytes(b"PAR1")
    assert leaderboard.write(tmp_path).test_set.fillna("").tolist() == ["A", "A", "B", ""]


def test_the_console_table_shows_every_job_with_its_reason(sweep):
    console = Console(record=True, width=160, force_terminal=True, quiet=False)
    with console.capture() as captured:
        leaderboard_table.show(leaderboard.collect(sweep), console)
    lines = captured.get().splitlines()
    (best,) = [line for line in lines if "weighted" in line]
    assert "\x1b[1;32m" in best
    (failed,) = [line for line in lines if "ldam" in line]
    assert "\x1b[31m" in failed
    assert any("labels|texts: no [red]column[/]" in line for line in lines)
    assert any("running" in line for line in lines)


def test_brackets_in_overrides_are_not_console_markup(tmp_path):
    for number in range(2):
        job(tmp_path, str(number), "data.columns=[/]", f"data.sizes=[{number}]", macro_f1=0.5)
    console = Console(width=100)
    with console.capture() as captured:
        leaderboard_table.show(leaderboard.collect(tmp_path), console)
    assert "every job: data.columns=[/]" in captured.get()
    assert "data.sizes=[1]" in captured.get()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_a_narrow_console_shows_the_foremost_columns_in_full(sweep, width):
    console = Console(width=width)
    with console.capture() as captured:
        leaderboard_table.show(leaderboard.collect(sweep), console)
    printed = captured.get()
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed
    assert "0.7000" in printed
    assert ("seconds" in printed) == (width >= 100)


def test_concurrent_jobs_leave_a_complete_leaderboard(tmp_path):
    def ends(number: int) -> None:
        job(tmp_path, str(number), f"optim.lr={number}", macro_f1=number / 10)
        leaderboard.write(tmp_path)

    threads = [threading.Thread(target=ends, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pd.read_csv(tmp_path / "leaderboard.csv").state.tolist() == ["finished"] * 5
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".leaderboard.") and p.suffix != ".lock"]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_job_that_fills_the_cache_takes_no_longer_than_the_others(tmp_path, first):
    for number in range(3):
        folder = finished.run(tmp_path / str(number), f"strategy=s{number}", seconds=1.0)
        status = json.loads((folder / "status.json").read_text())
        status |= {"seconds": 116.0, "cache_seconds": 115.0} if number == first else {"cache_seconds": 0.0}
        (folder / "status.json").write_text(json.dumps(status))
    assert leaderboard.collect(tmp_path).seconds.tolist() == [1.0] * 3
