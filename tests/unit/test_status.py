import pytest

from dicomnode.network.status import Outcome, Status, classify, describe

CLASSES = {
    0x0000: Outcome.ACCEPTED,
    0x0001: Outcome.ACCEPTED,
    0xB000: Outcome.ACCEPTED,
    0xB006: Outcome.ACCEPTED,
    0xB007: Outcome.ACCEPTED,
    0xB123: Outcome.ACCEPTED,
    0x0110: Outcome.RETRY,
    0x0213: Outcome.RETRY,
    0xA700: Outcome.RETRY,
    0xA7FF: Outcome.RETRY,
    0xFE00: Outcome.RETRY,
    0x0111: Outcome.REFUSED,
    0x0117: Outcome.REFUSED,
    0x0122: Outcome.REFUSED,
    0x0124: Outcome.REFUSED,
    0xA900: Outcome.REFUSED,
    0xA9FF: Outcome.REFUSED,
    0xC000: Outcome.REFUSED,
    0xCFFF: Outcome.REFUSED,
    0xFF00: Outcome.REFUSED,
    0x1234: Outcome.REFUSED,
}


@pytest.mark.parametrize(("status", "outcome"), CLASSES.items(), ids=[f"{status:04X}" for status in CLASSES])
def test_a_status_tells_the_sender_what_to_do(status, outcome):
    assert classify(status) is outcome


@pytest.mark.parametrize("status", Status)
def test_every_status_that_we_answer_has_words(status):
    assert "unknown" not in describe(status)
    assert (classify(status) is Outcome.ACCEPTED) == (status is Status.SUCCESS)


def test_an_unknown_status_is_shown_with_its_number():
    assert describe(0x1234) == "0x1234 (unknown)"
