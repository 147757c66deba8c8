"""The bound on any test of one comparison where one method may be unlike the others."""

import numpy as np
import pytest
import scipy.stats

from tests.bench._bound import ItemSetting, Setting, most_power, most_power_beside_items


def test_without_an_odd_method_the_bound_is_students_test():
    setting = Setting(3, 4)
    degrees = 8
    critical = scipy.stats.t.isf(0.025, degrees)
    power = scipy.stats.nct.sf(critical, degrees, setting.noncentrality)
    assert most_power(setting, like=0.05, odd=1.0) == pytest.approx(power, abs=0.01)


def test_three_seeds_cannot_hold_both_the_odd_method_and_the_power():
    assert most_power(Setting(3, 4), like=0.05, odd=0.07) < 0.6
    assert most_power(Setting(5, 4), like=0.05, odd=0.07) > 0.7


def test_beside_items_a_single_possible_deviation_is_the_test_with_known_variances():
    setting = ItemSetting(like=(1.0,))
    error = np.sqrt(setting.items + 2 * (1.0 + setting.answers) / 3)
    expected = scipy.stats.norm.sf(1.96 - 3.0 / error)
    assert most_power_beside_items(setting, like=0.05, odd=1.0, draws=500) == pytest.approx(expected, abs=0.005)


def test_three_points_with_three_seeds_cannot_be_detected_more_often_with_an_odd_method_held():
    """Three points, four methods, 1,319 items, seeds of one point: .65 is beyond any test that holds 7 %."""
    both = most_power_beside_items(ItemSetting(), like=0.05, odd=0.07, draws=1500)
    free = most_power_beside_items(ItemSetting(), like=0.05, odd=1.0, draws=1500)
    assert both < 0.65 < free
