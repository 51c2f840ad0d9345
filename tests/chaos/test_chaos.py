"""A short chaos on each database, and the proof that the harness would see a loss."""

import random

import pytest

from tests.chaos.run import run


@pytest.mark.timeout(900)
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def test_short_chaos_loses_and_doubles_nothing(tmp_path, database):
    seed = random.randrange(1 << 30)
    report = run(tmp_path, studies=10, kills=6, seed=seed, database=database)
    assert report.violations == [], report.as_json()
    assert report.acknowledged > 0, report.as_json()
    assert report.kills, report.as_json()


@pytest.mark.timeout(900)
def test_harness_sees_that_something_was_acknowledged_before_its_commit(tmp_path):
    report = run(tmp_path, studies=20, kills=12, seed=7, planted=True, settle_s=15)
    assert [text for text in report.violations if text.startswith("LOST: acknowledged instance")], report.as_json()
