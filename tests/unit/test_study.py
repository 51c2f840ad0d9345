import pytest

from dicomnode.domain.study import derived_uid, is_uid, version_uid

GOOD = ["1", "1.2.840.10008.1.1", "2.25." + "9" * 38, "1." * 31 + "12", "1.02.3"]
BAD = ["", ".", "1.", ".1", "1..2", "1.2a", "../1", "1 2", "1\n", "1" * 65, "1.2\x00", "١.٢"]


@pytest.mark.parametrize("text", GOOD)
def test_uid_of_the_standard_is_accepted(text):
    assert is_uid(text)


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_uid_is_refused(text):
    assert not is_uid(text)


def test_derived_uid_is_the_same_each_time_and_differs_by_each_part():
    assert derived_uid("a", 1) == derived_uid("a", 1) == "2.25." + derived_uid("a", 1)[5:]
    assert len({derived_uid("a", 1), derived_uid("a", 2), derived_uid("a1"), derived_uid("a", "", 1)}) == 4
    assert is_uid(derived_uid("a"))


def test_versions_of_a_study_have_different_uids():
    assert version_uid("1.2.3", 1) != version_uid("1.2.3", 2)
