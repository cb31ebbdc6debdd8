import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

import finished
from counterpoise.analysis import significance
from counterpoise.analysis.comparison import collect, metric_name, significant
from counterpoise.analysis.runs import gather
from counterpoise.analysis.significance import Outcomes
from counterpoise.errors import UserError
from counterpoise.metrics.buckets import Bounds

FEW = {"replicates": 200, "permutations": 500}
METRICS = ["macro_f1", "balanced_accuracy", "accuracy"] + [
    f"{bucket}_{kind}" for kind in ("recall", "f1") for bucket in ("head", "medium", "tail")
]


@pytest.fixture
def sweep(tmp_path):
    return finished.sweep(tmp_path / "sweep")


def by_group(table: pd.DataFrame, group: str) -> pd.DataFrame:
    return table[table["group"] == group].reset_index(drop=True)


def test_groups_are_ranked_by_scores_that_are_those_of_their_classes(sweep):
    comparison = collect([sweep], **FEW)
    assert [group.name for group in comparison.groups] == ["combined", "plain"]
    assert (comparison.task, comparison.metric, comparison.texts) == ("single_label", "macro_f1", 100)
    assert (comparison.metrics, comparison.labels) == (METRICS, finished.LABELS)
    assert comparison.test_counts.tolist() == [40, 30, 20, 10, 0]
    assert comparison.counts.tolist() == finished.COUNTS.tolist()
    for group, jobs in zip(comparison.groups, ("23", "01"), strict=True):
        assert [folder.name for folder in group.folders] == list(jobs)
        assert group.seeds == [0, 1]
        tables = [pd.read_csv(sweep / job / "per_class.csv") for job in jobs]
        np.testing.assert_allclose(group.scores["macro_f1"], [table["f1"].mean() for table in tables])
        np.testing.assert_allclose(group.scores["tail_recall"], [table["recall"][3] for table in tables])
        np.testing.assert_allclose(group.scores["head_f1"], [table["f1"][:2].mean() for table in tables])
        for metric in METRICS:
            low, high = group.intervals[metric]
            assert low <= group.scores[metric].mean() <= high
    combined = comparison.groups[0]
    assert (combined.seconds, combined.epochs, combined.steps, combined.probe) == (160, 2, 100, False)


def test_pairs_and_effects_are_those_of_the_tests(sweep):
    third = [finished.run(sweep / str(n), "experiment=r8", "strategy=z", f"seed={n}", wrong={2: n}) for n in (5, 6, 7)]
    comparison = collect([sweep, *third], **FEW, seed=3)
    names = ["combined", "z", "plain"]
    assert [group.name for group in comparison.groups] == names
    runs, _ = gather([sweep])
    groups = [[run.decided for run in runs if run.group == name] for name in names]
    outcomes = Outcomes(runs[0].truth, groups)
    buckets = np.array(["head", "head", "medium", "tail", "tail"])
    metrics = significance.count_metrics(False, buckets, comparison.test_counts)
    means = [each.mean(axis=0) for each in significance.observed(outcomes, list(metrics.values()))]
    drawn = significance.bootstrap(outcomes, list(metrics.values()), 200, seed=3)
    numbers, p = significance.permutation(outcomes, list(metrics.values()), 500, seed=3)

    assert list(zip(comparison.pairs["a"], comparison.pairs["b"], strict=True)) == [
        (names[a], names[b]) for a, b in numbers
    ]
    assert set(comparison.pairs["metric"]) == {"macro_f1"}
    np.testing.assert_allclose(comparison.pairs["difference"], [means[a][0] - means[b][0] for a, b in numbers])
    intervals = [significance.interval(drawn[a, 0] - drawn[b, 0]) for a, b in numbers]
    np.testing.assert_allclose(comparison.pairs[["low", "high"]], intervals)
    np.testing.assert_allclose(comparison.pairs["p"], p[:, 0])
    # Of three pairs, two are with the reference: a family of comparisons of their own.
    np.testing.assert_allclose(comparison.pairs["p_holm"], [p[0, 0], *significance.holm(p[1:, 0])])

    effects = comparison.effects.set_index(["metric", "group"])
    assert set(comparison.effects["group"]) == {"combined", "z"}
    for m, metric in enumerate(METRICS):
        rows = effects.loc[metric].loc[["combined", "z"]]
        np.testing.assert_allclose(rows["difference"], [means[0][m] - means[2][m], means[1][m] - means[2][m]])
        np.testing.assert_allclose(rows["p"], p[[1, 2], m])
        np.testing.assert_allclose(rows["p_holm"], significance.holm(p[[1, 2], m]))


def test_two_groups_are_told_apart_only_where_the_test_and_the_interval_say_so():
    rows = pd.DataFrame(
        {
            "low": [0.1, -0.1, 0.1, -0.3, 0.0],
            "high": [0.2, 0.1, 0.2, -0.1, 0.1],
            "p_holm": [0.01, 0.01, 0.05, 0.01, 0.01],
        }
    )
    assert significant(rows).tolist() == [True, False, False, True, False]


def test_classes_are_means_over_seeds_and_say_nothing_where_nothing_is_known(sweep):
    comparison = collect([sweep], **FEW)
    columns = ["group", "class", "train_count", "test_count", "recall", "f1", "recall_difference", "low", "high"]
    assert list(comparison.classes.columns) == columns
    plain, combined = (by_group(comparison.classes, name) for name in ("plain", "combined"))
    assert plain["class"].tolist() == combined["class"].tolist() == finished.LABELS
    np.testing.assert_allclose(plain["recall"], [38.5 / 40, 1, 1, 0.15, np.nan])
    assert plain[["recall_difference", "low", "high"]].isna().all(axis=None)
    np.testing.assert_allclose(combined["recall_difference"], [0, -0.5 / 30, 0, 0.8, np.nan], atol=1e-12)
    assert combined["low"][3] > 0.4
    assert combined.loc[4, ["recall", "f1", "low", "high"]].isna().all()


def test_a_class_of_a_few_test_texts_has_a_recall_but_no_interval(tmp_path):
    truth = np.repeat([0, 1, 2, 3], [40, 30, 5, 4])
    for name in ("plain", "other"):
        finished.run(tmp_path / name, f"strategy={name}", truth=truth, wrong={3: 2, 2: 2} if name == "plain" else {})
    other = by_group(collect([tmp_path], **FEW).classes, "other")
    assert other["recall_difference"][3] == 0.5
    assert other["low"].isna().tolist() == [False, False, False, True, True]


def test_buckets_are_means_over_their_classes(sweep):
    comparison = collect([sweep], **FEW)
    assert list(comparison.buckets.columns) == [
        *("group", "bucket", "classes", "recall", "f1", "difference", "low", "high"),
    ]
    combined, plain = (by_group(comparison.buckets, name) for name in ("combined", "plain"))
    assert combined["bucket"].tolist() == ["head", "medium", "tail"]
    assert combined["classes"].tolist() == [2, 1, 1]
    means = comparison.groups[0].scores.mean()
    np.testing.assert_allclose(combined["recall"], means[["head_recall", "medium_recall", "tail_recall"]])
    np.testing.assert_allclose(combined["f1"], means[["head_f1", "medium_f1", "tail_f1"]])
    np.testing.assert_allclose(combined["difference"], combined["recall"] - plain["recall"])
    assert plain[["difference", "low", "high"]].isna().all(axis=None)


def test_the_reference_is_plain_or_the_best_unless_named(sweep):
    assert collect([sweep], **FEW).reference == "plain"
    assert collect([sweep], reference="combined", **FEW).reference == "combined"
    assert collect([f"a={sweep / '0'}", f"b={sweep / '2'}"], **FEW).reference == "b"


def test_groups_are_ranked_by_the_metric_asked_for(sweep):
    comparison = collect([sweep], metric="head_recall", **FEW)
    means = [group.scores["head_recall"].mean() for group in comparison.groups]
    assert [group.name for group in comparison.groups] == ["plain", "combined"]
    assert all(one >= other for one, other in pairwise(means))
    assert set(comparison.pairs["metric"]) == {"head_recall"}
    assert collect([sweep], metric="macro_recall", **FEW).metric == "balanced_accuracy"


def test_texts_with_any_number_of_labels_are_compared(tmp_path):
    for errors, name in ((0.05, "good"), (0.3, "bad")):
        for seed in range(2):
            path = tmp_path / f"{name}{seed}"
            finished.multi_label_run(path, f"strategy={name}", f"seed={seed}", seed=seed, errors=errors)
    comparison = collect([tmp_path], **FEW)
    assert comparison.task == "multi_label"
    assert comparison.metrics[:4] == ["macro_f1", "macro_recall", "micro_f1", "micro_recall"]
    assert [group.name for group in comparison.groups] == ["good", "bad"]
    assert significant(comparison.pairs).tolist() == [True]
    assert comparison.words[1].startswith("Against good, bad costs 0.")
    assert "of micro F1 [" in comparison.words[1]


def test_words_say_what_wins_and_what_it_costs(sweep):
    comparison = collect([sweep], **FEW)
    ranking, effect, cost, left_out = comparison.words
    mean, (low, high) = comparison.groups[0].scores["macro_f1"].mean(), comparison.groups[0].intervals["macro_f1"]
    interval = f"{mean:.3f}, 95 % interval {low:.3f} to {high:.3f}, 2 seeds"
    assert ranking == f"Best by macro F1: combined ({interval}); worse: plain."
    assert effect.startswith("Against plain, combined gains 0.")
    assert ", 0.800 of tail recall [" in effect
    assert effect.endswith("] and costs head recall nothing that can be told from chance.")
    assert cost == "A run took: plain 100 seconds for 100 steps; combined 160 for 100 (1.6 times as long)."
    assert left_out.startswith("Left out of ")


def test_words_say_what_cannot_be_told_apart(tmp_path):
    for n, (name, wrong) in enumerate({"plain": {0: 3}, "b": {0: 2}, "c": {1: 2}, "d": {0: 3, 3: 10}}.items()):
        finished.run(tmp_path / str(n), f"strategy={name}", wrong=wrong)
    words = collect([tmp_path], **FEW).words
    assert "; not distinguishable from it: c, plain; worse: d." in words[0]
    assert words[1].startswith("Against plain, d costs 0.")
    assert "1.000 of tail recall [1.000, 1.000]" in words[1]
    assert words[2] == (
        "Against plain, nothing that b and c change in macro F1, tail recall, medium recall, head recall or accuracy "
        "can be told from chance."
    )
    assert "(as long)" in words[3]
    assert words[4] == "Each group has one seed: the intervals do not say what another training would give."


def test_of_many_groups_the_words_tell_of_the_best_and_what_runs_take_at_least_and_at_most(tmp_path):
    for n in range(9):
        name, wrong = (f"s{n}", {0: n}) if n else ("plain", {0: 30})
        finished.run(tmp_path / str(n), f"strategy={name}", wrong=wrong, seconds=10 + n)
    words = collect([tmp_path], **FEW).words
    told = [sentence for sentence in words if sentence.startswith("Against plain, s")]
    assert [sentence.split()[2] for sentence in told] == ["s1", "s2", "s3", "s4", "s5"]
    assert "A run took from 10 seconds (plain) to 18 (s8)." in words


def test_nothing_is_said_of_what_runs_took_where_it_is_not_known(sweep):
    status = sweep / "0" / "status.json"
    status.write_text(json.dumps({k: v for k, v in json.loads(status.read_text()).items() if k != "seconds"}))
    words = collect([sweep], **FEW).words
    assert not any("took" in sentence or "nan" in sentence for sentence in words)


def test_a_single_group_has_intervals_and_nothing_to_compare(sweep):
    comparison = collect([sweep / "0"], **FEW)
    assert [group.name for group in comparison.groups] == ["plain"]
    assert comparison.pairs.empty
    assert comparison.effects.empty
    assert {"difference", "p_holm"} <= set(comparison.pairs.columns) & set(comparison.effects.columns)
    assert comparison.words[0].startswith("macro F1 of plain (0.")
    assert comparison.words[1:] == ["plain has one seed. Its interval does not say what another training would give."]


def test_scouts_are_said_to_be_scouts_and_do_not_mix_with_others_under_one_name(tmp_path):
    probe = finished.run(tmp_path / "probe", "strategy=plain", "probe=true", probe=True)
    other = finished.run(tmp_path / "other", "strategy=plain", wrong={0: 1})
    mixed = collect([probe, other], **FEW)
    assert [(group.name, group.probe) for group in mixed.groups] == [("probe=true", True), ("default", False)]
    assert "Probes, whose encoder stayed frozen: probe=true. The others were fine-tuned." in mixed.words
    alone = collect([probe], **FEW).words
    assert alone[-1] == "All runs are probes: the encoder stayed frozen, and fine-tuning may rank them otherwise."
    with pytest.raises(UserError, match="a is the name of a probe and of a run that is none"):
        collect([f"a={probe}", f"a={other}"], **FEW)


def test_what_makes_numbers_less_comparable_is_said(tmp_path):
    runs = [
        finished.run(tmp_path / "0", "a=1", "seed=0"),
        finished.run(tmp_path / "1", "a=1", "seed=0", counts=finished.COUNTS * 2),
        finished.run(tmp_path / "2", "a=2", "seed=0", config={"buckets": {"tail_max": 3}}),
    ]
    comparison = collect(runs, **FEW)
    assert comparison.words[-3:] == [
        "Several runs of a=1 have seed 0: they count as seeds of their own.",
        "The runs were trained on different texts: training counts, and with them head, medium and tail, are those of "
        f"{runs[0]}.",
        f"The runs have different bounds of head, medium and tail: those of {runs[0]} are used.",
    ]
    assert comparison.bounds == Bounds()
    assert comparison.counts.tolist() == finished.COUNTS.tolist()


def test_counts_and_bounds_are_of_the_run_that_the_words_name(tmp_path):
    other = {"buckets": {"tail_max": 3}}
    runs = [
        finished.run(tmp_path / "0", "a=1", "seed=1"),
        finished.run(tmp_path / "1", "a=1", "seed=0", counts=finished.COUNTS * 2, config=other),
    ]
    for given, counts, bounds in (
        (runs, finished.COUNTS, Bounds()),
        (runs[::-1], finished.COUNTS * 2, Bounds(tail_max=3)),
    ):
        comparison = collect(given, **FEW)
        assert comparison.counts.tolist() == counts.tolist()
        assert comparison.bounds == bounds
        assert comparison.words[-2].endswith(f", are those of {given[0]}.")
        assert comparison.words[-1].endswith(f": those of {given[0]} are used.")


def test_many_groups_are_told_apart_where_they_differ(tmp_path):
    # Of 36 groups 595 pairs are adjusted together: with 10,000 permutations no p would come below 0.0595.
    for n in range(36):
        finished.run(tmp_path / str(n), f"strategy=s{n}", wrong={0: n, 1: 29} if n else {})
    comparison = collect([tmp_path], reference="s1", replicates=50)
    pairs = comparison.pairs.set_index(["a", "b"])
    assert pairs.loc[("s0", "s35"), "p_holm"] < 0.05
    assert pairs.loc[("s8", "s9"), "p_holm"] == 1
    assert "; worse: " in comparison.words[0]
    assert not any("too many" in sentence for sentence in comparison.words)


def test_of_so_many_groups_that_none_can_be_told_apart_the_words_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(significance, "MOST", 100)
    for n in range(6):
        finished.run(tmp_path / str(n), f"strategy=s{n}", wrong={0: 6 * n, 1: n})
    words = collect([tmp_path], reference="s1", replicates=50, permutations=100).words
    assert (
        "Of 6 groups there are 10 pairs without s1: too many for the permutation test to tell the groups of any apart, "
        "however much they differ."
    ) in words
    assert not any("too many" in sentence for sentence in collect([tmp_path / "0", tmp_path / "5"], **FEW).words)


def test_the_same_runs_give_the_same_comparison(sweep):
    first, again = collect([sweep], **FEW), collect([sweep], **FEW)
    assert first.words == again.words
    for name in ("pairs", "effects", "classes", "buckets"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "macrof1"}, r"metric macrof1 is not compared. Did you mean 'macro_f1'\? There are macro_f1, "),
        ({"metric": "map"}, "metric map is not compared"),
        ({"reference": "plian"}, r"reference plian: there is no such group. Did you mean 'plain'\? There are plain, "),
    ],
)
def test_a_metric_or_a_group_that_is_not_there_is_one_line(sweep, options, message):
    with pytest.raises(UserError, match=message):
        collect([sweep], **options, **FEW)


def test_metrics_are_named_as_one_reads_them():
    assert [*map(metric_name, ("macro_f1", "balanced_accuracy"))] == ["macro F1", "balanced accuracy"]
