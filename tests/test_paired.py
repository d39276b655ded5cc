"""Paired statistics of studies: against numbers worked out by hand, and against Student's t integrated numerically."""

import math

import matplotlib.pyplot as plt
import pytest

import picogpt
from picogpt import study


def rows(**losses_of_variant):
    """A study of two evaluations: every variant's seeds start at 3 and end at the given losses."""
    return [
        dict(variant=name, seed=seed, step=step, val_loss=loss if step == 20 else 3.0)
        for name, losses in losses_of_variant.items()
        for seed, loss in losses.items()
        for step in (10, 20)
    ] + [dict(variant="base", seed=1, step=15, val_loss=None)]


def test_a_difference_worked_out_by_hand():
    """The log's Post-LN with and without query, key and value biases: t = 5.3 with two degrees of freedom."""
    base = {1337: 1.7588, 1338: 1.7601, 1339: 1.7550}
    more = {1337: 1.7588 + 0.0129, 1338: 1.7601 + 0.0154, 1339: 1.7550 + 0.0238}
    found = study.paired_difference(more, base)
    assert found.mean == pytest.approx(0.017367, abs=1e-5)
    assert found.high - found.mean == pytest.approx(4.303 * 0.005709 / math.sqrt(3), abs=1e-4)
    assert found.clear
    assert str(found) == "+0.0174 (+0.0032 to +0.0316, 3 seeds)"


def test_pairs_are_of_one_seed_whatever_their_order():
    found = study.compare(rows(base={1: 2.0, 2: 3.0}, other={2: 3.1, 1: 2.1}), "base")["other"]
    assert (found.mean, found.pairs) == (pytest.approx(0.1), 2)
    assert found.high - found.low < 1e-6, "equal differences, though the losses are far apart"


def test_seeds_that_one_side_lacks_are_left_out():
    assert study.compare(rows(base={1: 2.0, 2: 3.0, 3: 9.0}, other={1: 2.1, 2: 3.2}), "base")["other"].pairs == 2


def test_an_interval_from_one_seed_is_refused():
    with pytest.raises(ValueError, match="1 seeds in common: an interval needs at least two"):
        study.compare(rows(base={1: 2.0}, other={1: 2.1}), "base")
    with pytest.raises(ValueError, match="no variant is called 'basis': base, other"):
        study.compare(rows(base={1: 2.0}, other={1: 2.1}), "basis")


@pytest.mark.parametrize("df", [*range(1, 16), 16, 20, 30, 60, 200])
def test_the_quantiles_are_students(df):
    """97.5 % of the density lies below t: half by symmetry, the rest integrated."""
    t = study.T_95[df - 1] if df <= len(study.T_95) else 1.96 + 2.5 / df
    log_c = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - math.log(df * math.pi) / 2
    n = 20_000
    middle = ((i + 0.5) * t / n for i in range(n))
    area = sum(math.exp(log_c - (df + 1) / 2 * math.log1p(x * x / df)) for x in middle) * t / n
    assert 0.5 + area == pytest.approx(0.975, abs=3e-4)


def test_a_curve_holds_only_the_steps_that_all_seeds_have():
    some = [*rows(base={1: 2.0, 2: 2.2}), dict(variant="base", seed=1, step=30, val_loss=1.0)]
    assert study.validation_curves(some, "base") == {10: [3.0, 3.0], 20: [2.0, 2.2]}


def test_the_plot_draws_mean_band_and_the_lines_to_beat():
    fig, ax = plt.subplots()
    picogpt.plot_study(ax, rows(base={1: 2.0, 2: 2.2}, other={1: 1.0, 2: 1.0}), {"base": "ours", "other": "theirs"})
    ours, theirs, *bars = ax.lines
    assert list(ours.get_ydata()) == [3.0, pytest.approx(2.1)]
    assert list(theirs.get_ydata()) == [3.0, 1.0]
    assert [line.get_ydata()[0] for line in bars] == list(study.NGRAM_LOSSES.values())
    assert len(ax.collections) == 2, "a band each"
    plt.close(fig)
