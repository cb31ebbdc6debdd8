"""Simulate how often the comparison of runs claims differences that do not exist, and what its intervals cover.

Every group is drawn from the same method, so each significant difference to the reference is a false claim:

    python benchmarks/false_claims.py                 # 1,000 repetitions of 54 designs, about an hour on two cores
    python benchmarks/false_claims.py --unequal       # the groups differ in their variance between seeds
    python benchmarks/false_claims.py --single        # intervals of one fixed model instead

A text of class c is classified correctly if b_c + u + v + w + e > 0: b_c decreases towards the rare classes, u is the
text's difficulty for every model, v its difficulty for one method, w for one run, and e the effect of the seed. A wrong
prediction is a class drawn for the text. The 20 classes have Zipf-distributed frequencies: of 300 test texts the rarest
classes have one to three or none. Power is the rate of finding a group whose accuracy is 0.03 higher.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

import numpy as np
from scipy import sparse, stats

from counterpoise.analysis.comparison_tables import measure
from counterpoise.analysis.group_decisions import CountMetric, GroupDecisions
from counterpoise.analysis.significance import adjusted, significant

CLASSES = 20
COMPARISONS, SEEDS, SEED_SDS, TEXTS = (1, 9, 18), (2, 3, 5), (0.0, 0.01, 0.03), (300, 2500)
METRICS = {"accuracy": CountMetric("recall"), "macro_f1": CountMetric("f1", np.ones(CLASSES, bool))}
GAIN = 0.03
_METHOD_SD, _RUN_SD, _MEAN = 0.7, 0.5, 1.8
_SPREAD = float(np.sqrt(1 + _METHOD_SD**2 + _RUN_SD**2))
_DENSITY = float(stats.norm.pdf(_MEAN / _SPREAD) / _SPREAD)


def groups_of_runs(
    rng: np.random.Generator, groups: int, seeds: int, seed_sds: np.ndarray, texts: int, gain: float = 0.0
) -> GroupDecisions:
    """Draw the decisions of groups of runs on one sample of test texts.

    Args:
        rng: The random generator.
        groups: Number of groups.
        seeds: Runs per group.
        seed_sds: Standard deviation of the accuracy between seeds, [groups].
        texts: Number of test texts.
        gain: Gain in accuracy of the last group.
    """
    frequencies = class_frequencies(CLASSES)
    truth = rng.choice(CLASSES, size=texts, p=frequencies)
    margin = _MEAN - 1.5 * truth / CLASSES + rng.normal(size=texts)
    margin = (
        margin + _METHOD_SD * rng.normal(size=(groups, 1, texts)) + _RUN_SD * rng.normal(size=(groups, seeds, texts))
    )
    margin += rng.normal(size=(groups, seeds, 1)) * (seed_sds / _DENSITY)[:, None, None]
    margin[-1] += gain / _DENSITY
    alternative = rng.choice(CLASSES, size=texts, p=np.sqrt(frequencies) / np.sqrt(frequencies).sum())
    wrong = np.where(alternative == truth, (truth + 1) % CLASSES, alternative)
    decided = np.where(margin > 0, truth, wrong)
    return GroupDecisions(one_hot(truth, CLASSES), [[one_hot(run, CLASSES) for run in group] for group in decided])


def class_frequencies(classes: int) -> np.ndarray:
    """Return Zipf-distributed class frequencies, float [C]."""
    weights = 1 / np.arange(1, classes + 1) ** 1.3
    return weights / weights.sum()


def one_hot(classes: np.ndarray, number: int) -> sparse.csr_matrix:
    """Return class indices [N] as csr bool [N, C]."""
    rows = len(classes)
    return sparse.csr_matrix((np.ones(rows, bool), classes, np.arange(rows + 1)), (rows, number))


def false_claims(
    comparisons: int, seeds: int, seed_sd: float, texts: int, repetitions: int, seed: int = 0, unequal: bool = False
) -> dict[str, dict[str, float]]:
    """Return the rate of false claims, the coverage of intervals, and the power, by metric.

    Args:
        comparisons: Number of groups that are compared with the reference.
        seeds: Runs per group.
        seed_sd: Standard deviation of the accuracy between seeds.
        texts: Number of test texts.
        repetitions: Number of repetitions.
        seed: Seed of the random generator.
        unequal: Draw the groups' standard deviations from a log-normal distribution with mean `seed_sd`.
    """
    rng, groups = np.random.default_rng(seed), comparisons + 1
    claims: dict[str, list[Any]] = {name: [] for name in METRICS}
    for _ in range(repetitions):
        sds = seed_sd * (np.exp(0.6 * rng.normal(size=groups) - 0.18) if unequal else np.ones(groups))
        null = measure(list(map(str, range(groups))), groups_of_runs(rng, groups, seeds, sds, texts), METRICS)
        gain = measure(list(map(str, range(groups))), groups_of_runs(rng, groups, seeds, sds, texts, GAIN), METRICS)
        for name in METRICS:
            differences = [null.difference(number, 0, name) for number in range(1, groups)]
            table = adjusted(differences)
            covered = np.mean([low <= 0 <= high for low, high in (each.interval() for each in differences)])
            found = adjusted([gain.difference(number, 0, name) for number in range(1, groups)])
            means = [null.estimates[name].mean(number) for number in range(groups)]
            claims[name].append(
                (
                    significant(table).any(),
                    covered,
                    significant(found)[-1] and found["difference"].iloc[-1] > 0,
                    [each.value for each in means],
                    [each.interval() for each in means],
                )
            )
    result = {}
    for name, rows in claims.items():
        claimed, covered, power, values, intervals = map(np.array, zip(*rows, strict=True))
        inside = (intervals[..., 0] <= values.mean()) & (values.mean() <= intervals[..., 1])
        rates = {
            "false": claimed.mean(),
            "covered": covered.mean(),
            "covered mean": inside.mean(),
            "power": power.mean(),
        }
        result[name] = {key: float(value) for key, value in rates.items()}
    return result


def single_model_coverage(
    classes: int, texts: int, accuracy: float, repetitions: int, seed: int = 0
) -> tuple[float, float]:
    """Return the coverage and the mean width of the interval of one fixed model's macro F1.

    Recall decreases towards the rare classes. The true value is the mean F1 in the population of the classes that the
    test sample contains.
    """
    rng, frequencies = np.random.default_rng(seed), class_frequencies(classes)
    recall = np.clip(accuracy + 0.05 - 0.5 * np.linspace(0, 1, classes) ** 2 * rng.uniform(0, 1.6, classes), 0.02, 0.99)
    confusion = np.sqrt(frequencies) * rng.uniform(0.1, 1, (classes, classes))
    np.fill_diagonal(confusion, 0)
    confusion *= (1 - recall)[:, None] / confusion.sum(axis=1, keepdims=True)
    joint = frequencies[:, None] * (confusion + np.diag(recall))
    population = 2 * np.diag(joint) / (joint.sum(axis=0) + joint.sum(axis=1))
    covered, widths = [], []
    metrics = {"macro_f1": CountMetric("f1", np.ones(classes, bool))}
    for _ in range(repetitions):
        cells = rng.choice(classes**2, size=texts, p=joint.ravel() / joint.sum())
        truth, decided = cells // classes, cells % classes
        run = measure(["run"], GroupDecisions(one_hot(truth, classes), [[one_hot(decided, classes)]]), metrics)
        low, high = run.intervals(0)["macro_f1"]
        covered.append(low <= population[np.unique(truth)].mean() <= high)
        widths.append(high - low)
    return float(np.mean(covered)), float(np.mean(widths))


def main() -> None:
    """Run the simulation and print its tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--repetitions", type=int, default=1000, help="repetitions of each design (default: 1000)")
    parser.add_argument("--processes", type=int, default=2, help="parallel processes (default: 2)")
    parser.add_argument("--unequal", action="store_true", help="let groups differ in their variance between seeds")
    parser.add_argument("--single", action="store_true", help="simulate intervals of one fixed model instead")
    arguments = parser.parse_args()
    if arguments.single:
        print("| classes | test texts | accuracy | coverage | width |\n|---:|---:|---:|---:|---:|")
        for classes, texts, accuracy in product((10, 52, 200), TEXTS, (0.7, 0.9)):
            coverage, width = single_model_coverage(classes, texts, accuracy, arguments.repetitions)
            print(f"| {classes} | {texts:,} | {accuracy} | {coverage:.3f} | {width:.3f} |", flush=True)
        return
    print("| texts | seed sd | seeds | comparisons | metric | false claims | coverage | coverage of means | power |")
    print("|---:|---:|---:|---:|---|---:|---:|---:|---:|")
    designs = list(product(TEXTS, SEED_SDS, SEEDS, COMPARISONS))
    with ProcessPoolExecutor(arguments.processes) as pool:
        jobs = [
            pool.submit(false_claims, comparisons, seeds, sd, texts, arguments.repetitions, number, arguments.unequal)
            for number, (texts, sd, seeds, comparisons) in enumerate(designs)
        ]
        for (texts, sd, seeds, comparisons), job in zip(designs, jobs, strict=True):
            for name, rates in job.result().items():
                cells = " | ".join(f"{rate:.3f}" for rate in rates.values())
                print(f"| {texts:,} | {sd} | {seeds} | {comparisons} | {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
