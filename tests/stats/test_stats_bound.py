"""The bound on any test of one comparison where one method may be unlike the others."""

import pytest
import scipy.stats

from tests.bench._bound import Setting, most_power


def test_without_an_odd_method_the_bound_is_students_test():
    setting = Setting(3, 4)
    degrees = 8
    critical = scipy.stats.t.isf(0.025, degrees)
    power = scipy.stats.nct.sf(critical, degrees, setting.noncentrality)
    assert most_power(setting, like=0.05, odd=1.0) == pytest.approx(power, abs=0.01)


def test_three_seeds_cannot_hold_both_the_odd_method_and_the_power():
    assert most_power(Setting(3, 4), like=0.05, odd=0.07) < 0.6
    assert most_power(Setting(5, 4), like=0.05, odd=0.07) > 0.7
