import base64
import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from browser import Opened
from counterpoise.analysis.comparison import Comparison, Group
from counterpoise.analysis.comparison_tables import BUCKETS
from counterpoise.metrics.buckets import Bounds, buckets
from counterpoise.report.comparison.comparison_report import class_figures as comparison_classes
from counterpoise.report.comparison.comparison_report import group_figures as comparison_groups
from counterpoise.report.comparison.comparison_report import panels, subtitle, write_comparison_report
from counterpoise.report.comparison.formatting import GAIN, LOSS, UNDECIDED, behind_best, folded, folded_all

METRICS = ["macro_f1", "accuracy", "head_f1"]
HOSTILE = "<script>window.hacked=1</script>"
IMAGE = '"><img src=x onerror="window.hacked=1"> & <b>bold</b>'


def compared(
    groups: int = 4,
    classes: int = 14,
    names: list[str] | None = None,
    labels: list[str] | None = None,
    probes: tuple[int, ...] = (),
    seed: int = 0,
) -> Comparison:
    """A comparison of invented scores: the second of the groups is the reference, the last class is not in the test."""
    rng = np.random.default_rng(seed)
    names = names or [f"group {number}" for number in range(groups)]
    labels = labels or [f"topic {number}" for number in range(classes)]
    counts = np.sort(rng.integers(1, 400, classes))[::-1].copy()
    support = rng.integers(1, 60, classes)
    support[-1] = 0
    reference = names[min(1, groups - 1)]
    means = 0.9 - 0.03 * np.arange(groups)
    made = [
        Group(
            name=name,
            folders=[Path(f"{number}-{k}") for k in range(2)],
            seeds=[0, 1],
            scores=pd.DataFrame({metric: [means[number] - 0.004, means[number] + 0.004] for metric in METRICS}),
            intervals=dict.fromkeys(METRICS, (means[number] - 0.02, means[number] + 0.01)),
            seconds=100.0 * (number + 1),
            epochs=3.0,
            steps=500.0 - 10 * number,
            probe=number in probes,
        )
        for number, name in enumerate(names)
    ]
    pairs = [
        {"a": a, "b": b, "metric": "macro_f1", **_difference(means[names.index(a)] - means[names.index(b)])}
        for a, b in combinations(names, 2)
    ]
    effects = [
        {"group": name, "metric": metric, **_difference(means[names.index(name)] - means[names.index(reference)])}
        for name in names
        for metric in METRICS
        if name != reference
    ]
    # By the recall of the medium classes p is large, although the interval may exclude 0.
    effects += [
        {
            **{"group": name, "metric": f"{bucket}_recall", "difference": 0.1 * number - 0.1},
            **{"low": 0.1 * number - 0.15, "high": 0.1 * number - 0.05},
            **{"p": 0.001, "p_adjusted": 0.2 if bucket == "medium" else 0.004, "methods": True},
        }
        for number, name in enumerate(names)
        for bucket in BUCKETS
        if name != reference
    ]
    recall = np.where(support > 0, rng.integers(0, 11, (groups, classes)) / 10, np.nan)
    change = recall - recall[names.index(reference)]
    change[names.index(reference)] = np.nan
    reach = np.where(support >= 5, 0.15, np.nan)
    by_class = pd.concat(
        pd.DataFrame(
            {
                "group": name,
                "class": labels,
                "train_count": counts,
                "test_count": support,
                "recall": recall[number],
                "f1": recall[number] / 2,
                "recall_difference": change[number],
                "low": change[number] - reach,
                "high": change[number] + reach,
            }
        )
        for number, name in enumerate(names)
    )
    bucket = buckets(counts)
    by_bucket = [
        {
            "group": name,
            "bucket": each,
            "classes": int(((bucket == each) & (support > 0)).sum()),
            "recall": 0.5,
            "f1": 0.4,
            "difference": 0.1 * number - 0.1 if name != reference else np.nan,
            "low": 0.1 * number - 0.15 if name != reference else np.nan,
            "high": 0.1 * number - 0.05 if name != reference else np.nan,
        }
        for number, name in enumerate(names)
        for each in BUCKETS
        if ((bucket == each) & (support > 0)).any()
    ]
    differences = ["difference", "low", "high", "p", "p_adjusted", "methods"]
    return Comparison(
        task="single_label",
        metric="macro_f1",
        metrics=METRICS,
        labels=labels,
        counts=counts,
        test_counts=support,
        bounds=Bounds(),
        texts=int(support.sum()),
        groups=made,
        reference=reference,
        pairs=pd.DataFrame(pairs, columns=["a", "b", "metric", *differences]),
        effects=pd.DataFrame(effects, columns=["group", "metric", *differences]),
        classes=by_class,
        buckets=pd.DataFrame(by_bucket),
        detectable={},
        summary=[f"{names[0]} is best.", "It costs nothing."],
    )


def _difference(difference: float) -> dict[str, Any]:
    """Return a row; a difference of 0.05 is significant, one of 0.03 is not."""
    p = 0.001 if abs(difference) > 0.04 else 0.06
    row = {"difference": difference, "low": difference - 0.04, "high": difference + 0.04, "p": p / 2, "p_adjusted": p}
    return row | {"methods": True}


def traces(opened: Opened, figure: str) -> list[dict[str, Any]]:
    """What plotly has drawn."""
    picked = "({x, y, name, customdata, text, error_x}) => ({x, y, name, customdata, text, error: error_x})"
    return opened.page.evaluate(f"document.querySelector('#{figure} .canvas').data.map({picked})")


def choose(opened: Opened, select: str, value: object) -> None:
    opened.page.select_option(f"#{select}", str(value))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_comparison_report(path, compared())
    return path


@pytest.fixture(scope="module")
def opened(browser: Any, report: Path) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    yield Opened(context.new_page(), report)
    context.close()


def drawn_recall(comparison: Comparison, group: int) -> np.ndarray:
    name = comparison.groups[group].name
    table = comparison.classes[comparison.classes.group == name].set_index("class")
    return table.recall.reindex(comparison.labels).to_numpy()


def test_ranking_separates_groups_significantly_below_the_best() -> None:
    comparison = compared(groups=4)
    # Behind by 0.03 (p is small, the interval includes 0), 0.06 and 0.09.
    np.testing.assert_array_equal(behind_best(comparison), [False, False, True, True])
    close, behind = (
        trace for trace in comparison_groups.ranking(comparison).data if trace.mode == "markers" and trace.yaxis is None
    )
    np.testing.assert_array_equal(close.y, [0, 1])
    np.testing.assert_array_equal(behind.y, [2, 3])
    np.testing.assert_allclose(np.r_[close.x, behind.x], [0.9, 0.87, 0.84, 0.81])


def test_the_ranking_shows_every_seed() -> None:
    comparison = compared(groups=2)
    seeds = next(trace for trace in comparison_groups.ranking(comparison).data if trace.yaxis == "y2")
    np.testing.assert_allclose(seeds.x, [0.896, 0.904, 0.866, 0.874])


def test_matrix_shows_differences_below_and_p_values_above_the_diagonal() -> None:
    comparison = compared(groups=4)
    plot = comparison_groups.matrix(comparison)
    heat, significant, not_significant = plot.data
    texts = {
        (row, column): text
        for trace in (significant, not_significant)
        for column, row, text in zip(trace.x, trace.y, trace.text, strict=True)
    }
    assert len(texts) == 12
    for row, column in combinations(range(4), 2):
        lead = 0.03 * (column - row)
        assert texts[column, row] == f"{lead:.3f}"
        assert texts[row, column] in (".001", ".060")
        assert heat.z[column, row] == pytest.approx(lead if lead > 0.04 else 0)
    assert np.isnan(heat.z[np.triu_indices(4)]).all()


def test_cost_joins_the_pareto_optimal_groups() -> None:
    comparison = compared(groups=7)
    for by in ("seconds", "steps"):
        x = np.array([getattr(group, by) for group in comparison.groups])
        y = np.array([group.scores.macro_f1.mean() for group in comparison.groups])
        others = [np.delete(np.arange(7), number) for number in range(7)]
        unbeaten = [n for n in range(7) if not ((x[others[n]] <= x[n]) & (y[others[n]] >= y[n])).any()]
        line = comparison_groups.cost(comparison, by).data[0]
        assert sorted(line.x) == sorted(x[unbeaten])
    assert len(unbeaten) == 7


@pytest.mark.parametrize("seed", range(5))
def test_classes_with_equal_counts_are_side_by_side_in_order(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 30, 200)
    places = comparison_classes.places(counts)
    assert len(np.unique(places)) == len(places)
    order = np.lexsort((places, counts))
    assert (np.diff(places[order]) > 0).all()


def test_buckets_are_coloured_if_significant() -> None:
    plot = comparison_classes.bucket_effects(compared(groups=4))
    edges = {trace.name: trace.marker.line.color for trace in plot.data}
    # Behind by 0.1, ahead by 0.1 and by 0.2, and all intervals exclude 0.
    assert edges == {
        "head": (LOSS, GAIN, GAIN),
        "medium": (UNDECIDED, UNDECIDED, UNDECIDED),
        "tail": (LOSS, GAIN, GAIN),
    }
    assert plot.data[0].customdata[0][4] == "0.004"
    body = panels(compared(groups=4))[5].body
    assert "group 0, head: -0.100, significant; group 0, medium: -0.100; group 0, tail" in body


def test_page_data_of_classes_is_sorted_by_training_count() -> None:
    comparison = compared(groups=3)
    held = comparison_classes.page_data(comparison)
    assert held["classes"] == comparison.labels
    np.testing.assert_array_equal(held["train"], comparison.counts)
    for group in range(3):
        np.testing.assert_allclose(held["recall"][group], drawn_recall(comparison, group))
        np.testing.assert_allclose(held["f1"][group], drawn_recall(comparison, group) / 2)
    assert np.isnan(held["difference"][held["reference"]]).all()


def test_groups_of_unknown_cost_are_omitted() -> None:
    comparison = compared(groups=3)
    comparison = replace(comparison, groups=[replace(comparison.groups[0], seconds=np.nan), *comparison.groups[1:]])
    _, *points = comparison_groups.cost(comparison, "seconds").data
    assert sorted(x for trace in points for x in trace.x) == [200, 300]
    front, others = comparison_groups.describe_cost(comparison, "seconds")
    assert "group 0" not in front + others
    assert "nan" not in front + others
    lost = [replace(group, seconds=np.nan, steps=np.nan) for group in comparison.groups]
    assert "cost" not in [panel.id for panel in panels(replace(comparison, groups=lost))]


def test_the_page_holds_nothing_of_plotlys_own_template() -> None:
    body = panels(compared(groups=3))[-2].body
    packed = re.search(r'id="comparison-costs">([^<]*)<', body)
    assert packed
    held = json.loads(gzip.decompress(base64.b64decode(packed[1])))
    assert {"seconds", "steps"} == held.keys()
    assert not any("template" in each["plot"]["layout"] for each in held.values())


def test_a_single_group_has_a_report_without_comparisons() -> None:
    assert [panel.id for panel in panels(compared(groups=1))] == ["verdict", "leaderboard", "classes"]
    everything = ["verdict", "leaderboard", "pairs", "recall", "effects", "buckets", "cost", "classes"]
    assert [panel.id for panel in panels(compared(groups=2))] == everything


def test_linear_probes_are_named(tmp_path: Path) -> None:
    write_comparison_report(tmp_path / "all.html", compared(groups=2, probes=(0, 1)))
    page = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert re.search(r"<h1>.*\(linear probe\)</h1>", page)
    assert "linear probes" in subtitle(compared(groups=2, probes=(0, 1)))
    assert "some are linear probes" in subtitle(compared(groups=3, probes=(1,)))
    assert "group 1 (probe)" in str(panels(compared(groups=3, probes=(1,)))[1].body)
    assert "probe" not in subtitle(compared(groups=3))


def test_leaderboard_marks_the_best_and_significant_differences() -> None:
    body = str(panels(compared(groups=4))[1].body)
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", body, re.DOTALL)
    # Three metrics and the seconds; the fewest steps are the last group's, and all took 3 epochs.
    assert [row.count("> best</span>") + row.count("> lowest</span>") for row in rows] == [4, 0, 0, 1]
    assert "+0.030, p 0.060" in rows[0]
    assert "reference" in rows[1]
    assert 'class="loss">−0.060, p 0.001' in rows[3]
    assert 'class="loss"' not in rows[2]


def test_twenty_groups_of_598_classes_make_a_small_file(tmp_path: Path) -> None:
    comparison = compared(groups=20, classes=598)
    write_comparison_report(tmp_path / "large.html", comparison)
    write_comparison_report(tmp_path / "small.html", compared(groups=2, classes=2))
    # Five numbers of four digits for each class and group, packed.
    assert (tmp_path / "large.html").stat().st_size - (tmp_path / "small.html").stat().st_size < 400_000


@pytest.mark.parametrize("name", ["plain", "strategy=square_root strategy/sampler=repeat_factor", "x" * 90, "一" * 50])
def test_names_are_folded_to_two_lines_that_keep_both_ends(name: str) -> None:
    lines = folded(name, 22).split("\n")
    assert len(lines) <= 2
    assert all(len(line) <= 22 for line in lines)
    assert name.startswith(lines[0])
    assert name.endswith(lines[-1].removeprefix("…"))


def test_folded_names_of_different_groups_differ() -> None:
    names = [f"optim.encoder_lr=0.000{rate} strategy.sampler.alpha=0.5 strategy/loss=cross_entropy" for rate in (1, 2)]
    assert folded(names[0], 22) == folded(names[1], 22)
    for width in (13, 22):
        assert len(set(folded_all(names, width))) == 2
        assert max(len(line) for name in folded_all(names, width) for line in name.split("\n")) <= width
    assert folded_all(["plain", names[0]]) == ["plain", folded(names[0])]


def test_the_page_opens_without_errors_and_asks_for_nothing(opened: Opened) -> None:
    assert opened.complaints == []


def test_two_chosen_groups_are_joined_class_by_class(opened: Opened) -> None:
    comparison = compared()
    places = np.round(comparison_classes.places(comparison.counts), 3)
    for start, end in ((1, 0), (3, 2)):
        choose(opened, "recall-from", start)
        choose(opened, "recall-to", end)
        before, after = (drawn_recall(comparison, group) for group in (start, end))
        drawn = traces(opened, "recall")
        known = ~np.isnan(before)
        assert sorted(drawn[2]["x"]) == sorted(places[known])
        for lines, points, chosen in ((0, 3, after > before), (1, 4, after < before)):
            assert drawn[points]["x"] == list(places[chosen])
            assert drawn[points]["y"] == pytest.approx(list(after[chosen]))
            ends = np.array(drawn[lines]["y"], dtype=object).reshape(-1, 3)
            np.testing.assert_allclose(ends[:, :2].astype(float), np.c_[before[chosen], after[chosen]])
            assert (ends[:, 2] == None).all()  # noqa: E711
        assert drawn[5]["y"] == pytest.approx(list(after[after == before]))
        rises, falls = int((after > before).sum()), int((after < before).sum())
        status = opened.page.text_content("#recall-from-status")
        assert f"rises for {rises} class" in status
        assert f"falls for {falls} " in status


def test_effects_follow_the_chosen_group_and_order(opened: Opened) -> None:
    comparison = compared()
    table = comparison.classes
    for group in (0, 3):
        choose(opened, "effect-of", group)
        choose(opened, "effect-order", "effect")
        rows = table[(table.group == f"group {group}") & table.recall_difference.notna()].round(4)
        sorted_rows = rows.sort_values("recall_difference", ascending=False, kind="stable").reset_index(drop=True)
        gains, losses, others, counts = traces(opened, "effect")
        gained, lost = sorted_rows.low > 0, sorted_rows.high < 0
        for trace, chosen in ((gains, gained), (losses, lost), (others, ~gained & ~lost)):
            shown = sorted_rows[chosen]
            assert trace["y"] == list(shown.index)
            assert trace["x"] == pytest.approx(list(shown.recall_difference))
            assert [each[0] for each in trace["customdata"]] == list(shown["class"])
            reach = (shown.high - shown.recall_difference).fillna(0)
            assert trace["error"]["array"] == pytest.approx(list(reach), abs=1e-4)
            assert trace["error"]["arrayminus"] == pytest.approx(list(reach), abs=1e-4)
        assert [text.strip("\u2007") for text in counts["text"]] == [str(count) for count in sorted_rows.train_count]


def test_effects_by_training_count_stand_under_their_bucket(opened: Opened) -> None:
    comparison = compared()
    choose(opened, "effect-of", 0)
    choose(opened, "effect-order", "count")
    known = comparison.test_counts > 0
    bucket = buckets(comparison.counts)[known]
    # One more row for the heading of each bucket.
    before = np.array([list(dict.fromkeys(bucket)).index(each) + 1 for each in bucket])
    drawn = {
        tuple(each) for trace in traces(opened, "effect")[:3] for each in zip(_names(trace), trace["y"], strict=True)
    }
    names = np.array(comparison.labels)[known]
    assert drawn == set(zip(names.tolist(), (np.arange(known.sum()) + before).tolist(), strict=True))


def _names(trace: dict[str, Any]) -> list[str]:
    return [each[0] for each in trace["customdata"]]


def test_cost_is_shown_in_seconds_or_steps(opened: Opened) -> None:
    for by, costs in (("steps", [500, 490, 480, 470]), ("seconds", [100, 200, 300, 400])):
        choose(opened, "cost-by", by)
        _, *points = traces(opened, "cost")
        assert sorted(x for trace in points for x in trace["x"]) == sorted(costs)
        status = opened.page.text_content("#cost-by-status")
        assert by in status
        assert f"group 0 ({costs[0]}, 0.900)" in status
        described = opened.page.get_attribute("#cost .canvas", "aria-label")
        assert described.startswith(status)
        assert all(f"group {number} ({cost}, " in described for number, cost in enumerate(costs))


def test_a_class_is_looked_up_by_part_of_its_name(opened: Opened) -> None:
    comparison = compared()
    opened.page.fill("#class-search", "PIC 7")
    assert opened.page.locator("#class-found button").all_text_contents() == ["topic 7"]
    cells = opened.page.locator("#class-table tbody tr").all()
    shown = [float(row.locator("td").first.text_content()) for row in cells]
    np.testing.assert_allclose(shown, [drawn_recall(comparison, group)[7] for group in range(4)])
    assert f"{comparison.test_counts[7]} test examples" in opened.page.text_content("#class-status")
    opened.page.fill("#class-search", "no such")
    assert "No class" in opened.page.text_content("#class-status")
    opened.page.fill("#class-search", "topic 13")
    assert "cannot be evaluated" in opened.page.text_content("#class-status")


def test_a_click_on_a_class_looks_it_up(opened: Opened) -> None:
    opened.page.evaluate(
        "document.querySelector('#recall .canvas').emit('plotly_click', {points: [{customdata: [5]}]})"
    )
    assert opened.page.text_content("#class-status").startswith("topic 5:")


def test_the_leaderboard_is_sorted_with_the_keyboard(opened: Opened) -> None:
    heading = opened.page.locator("#leaderboard-table thead button", has_text="seconds")
    for first in ("group 3", "group 0"):
        heading.press("Enter")
        assert opened.page.locator("#leaderboard-table tbody th").first.text_content().startswith(first)


def test_colours_change_with_the_theme(opened: Opened) -> None:
    colour = "document.querySelector('#ranking .canvas').data[1].marker.color"
    light = opened.page.evaluate(colour)
    opened.page.click("#theme")
    opened.wait_for(f"{colour} === {json.dumps(light)}", False)
    opened.page.click("#theme")


def test_hostile_names_are_shown_and_not_run(open_page: Callable[..., Opened], tmp_path: Path) -> None:
    names = [HOSTILE, IMAGE, "plain"]
    write_comparison_report(tmp_path / "hostile.html", compared(3, 3, names, labels=[IMAGE, HOSTILE, "\u2028quiet"]))
    opened = open_page(tmp_path / "hostile.html")
    page = opened.page
    assert page.evaluate("window.hacked") is None
    assert opened.complaints == []
    assert page.locator("#leaderboard-table tbody th").first.text_content() == HOSTILE
    assert page.locator("#recall-from option").all_text_contents() == names
    assert IMAGE in page.locator("#class-found button").all_text_contents()
    ticks = page.locator("#ranking .yaxislayer-above .ytick").all_text_contents()
    assert "".join(ticks[0].split()) == "".join(folded(HOSTILE).split())
    page.evaluate("Plotly.Fx.hover(document.querySelector('#recall .canvas'), [{curveNumber: 2, pointNumber: 0}])")
    hovered = "".join(page.locator("#recall .hovertext").all_text_contents())
    assert hovered.startswith(HOSTILE) or hovered.startswith(IMAGE)
    assert page.evaluate("window.hacked") is None


def test_a_phone_never_scrolls_sideways(open_page: Callable[..., Opened], tmp_path: Path) -> None:
    names = [f"strategy=combined strategy.max_ratio={number}" for number in range(20)]
    write_comparison_report(tmp_path / "phone.html", compared(20, 30, names))
    opened = open_page(tmp_path / "phone.html", viewport={"width": 380, "height": 800})
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 380
    assert opened.complaints == []
