"""Panels of a search of hyperparameters, and the heat map of a grid."""

import numpy as np
import pytest

import finished
from counterpoise.analysis.comparison import compare_runs
from counterpoise.analysis.search_results import SearchResults, Trial
from counterpoise.report.comparison.comparison_report import write_comparison_report
from counterpoise.report.comparison.grid_panel import grid_panels, heat_map
from counterpoise.report.comparison.search_panels import parallel_coordinates, search_panels

ALPHA, BETA = "strategy.sampler.alpha", "strategy.weights.beta"
HOSTILE = "<script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """A comparison of a grid of alpha and beta with two seeds, with fewer mistakes for larger sums."""
    folder = tmp_path_factory.mktemp("grid")
    pairs = [(alpha, beta) for alpha in (0, 0.5, 1) for beta in (0, 0.5, 1) if alpha + beta <= 1]
    for number, (alpha, beta) in enumerate(pairs):
        for seed in range(2):
            wrong = {1: int(10 - 8 * (alpha + beta)) + seed, 3: int(4 - 4 * alpha)}
            overrides = [f"{ALPHA}={alpha}", f"{BETA}={beta}", f"seed={seed}"]
            finished.run(folder / str(2 * number + seed), *overrides, "sweep=grid_alpha_beta", wrong=wrong)
    return compare_runs([str(folder)])


def search(**changes):
    trials = [
        Trial(n, "finished", 0.5 + 0.01 * n, {"optim.head_lr": 10.0 ** (n - 4), "head": HOSTILE if n % 2 else "mlp"})
        for n in range(4)
    ]
    trials += [Trial(4, "pruned", 0.1, trials[0].values), Trial(5, "failed", None, trials[0].values)]
    settings = {"metric": "val/macro_f1", "maximize": True, "first_is_configured": True, "fixed": [], "trials": trials}
    settings |= {"logarithmic": ["optim.head_lr"], "importances": {"optim.head_lr": 0.8, "head": 0.2}}
    return SearchResults(**settings | changes)


def test_a_heat_map_shows_the_mean_of_each_cell_and_the_full_correction(grid):
    (panel,) = grid_panels(grid)
    assert "alpha + beta = 1" in panel.note
    means = {
        tuple(float(part.split("=")[1]) for part in sorted(group.name.split(" "))): group.scores.macro_f1.mean()
        for group in grid.groups
    }
    plot = heat_map(means, ALPHA, BETA, "macro F1", full_correction=True)
    drawn = np.array(plot.data[0].z)
    assert drawn.shape == (3, 3)
    assert drawn[0, 2] == pytest.approx(means[1, 0], abs=1e-4)
    assert np.isnan(drawn[2, 2])
    line = plot.data[-1]
    assert list(zip(line.x, line.y, strict=True)) == [(0, 2), (1, 1), (2, 0)]
    outline = plot.layout.shapes[0]
    best = max(means, key=means.get)
    assert (outline.x0 + 0.48, outline.y0 + 0.48) == pytest.approx((2 * best[0], 2 * best[1]))


@pytest.mark.parametrize(
    "settings",
    [
        [f"{ALPHA}=0 {BETA}=0", f"{ALPHA}=0 {BETA}=1"],  # one value of alpha
        [f"{ALPHA}=0", f"{ALPHA}=1"],
        [f"{ALPHA}=0 strategy=plain", f"{ALPHA}=1 strategy=crt"],
        [f"{ALPHA}=0 {BETA}=0 dropout=0", f"{ALPHA}=1 {BETA}=1 dropout=1"],
    ],
)
def test_other_comparisons_have_no_heat_map(settings, tmp_path):
    for number, setting in enumerate(settings):
        finished.run(tmp_path / str(number), *setting.split(" "), wrong={1: number})
    assert grid_panels(compare_runs([str(tmp_path)])) == []


def test_axes_of_a_search_follow_the_scale_and_the_best_trials_are_drawn_last():
    plot = parallel_coordinates(search())
    others, best = plot.data
    assert best.y[:3] == (1.0, 0.0, 1.0)  # the largest rate, the first option, the best score
    # Four rates at equal distances on a logarithmic scale.
    assert sorted({*others.y[::4], best.y[0]}) == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-3)


def test_a_search_that_minimises_names_the_smallest_score():
    first, *_ = search_panels(search(metric="val/loss", maximize=False))
    assert "trial 0 with 0.5000" in first.note


def test_a_search_without_a_finished_trial_has_no_panels():
    assert search_panels(search(trials=[Trial(0, "failed", None, {"x": 1})], importances={})) == []


def test_the_page_draws_both_without_scripts_of_the_values(grid, open_page, tmp_path):
    for name, found in (("search", search()), ("grid", None)):
        path = tmp_path / f"{name}.html"
        write_comparison_report(path, grid, found)
        opened = open_page(path)
        assert opened.complaints == []
        assert opened.page.locator(f"#{name} .plotly, section#{name} figure").count()
        assert opened.page.evaluate("window.hacked") is None
