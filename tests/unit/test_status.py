import pytest

from dicomnode.network.status import (
    STATUSES,
    Outcome,
    Status,
    classify,
    classify_commitment_failure,
    classify_http,
    describe,
    meaning,
)

CLASSES = {
    0x0000: Outcome.ACCEPTED,
    0x0001: Outcome.WARNING,
    0xB000: Outcome.WARNING,
    0xB006: Outcome.WARNING,
    0xB007: Outcome.WARNING,
    0xB123: Outcome.WARNING,
    0x0110: Outcome.RETRY,
    0x0213: Outcome.RETRY,
    0x0107: Outcome.WARNING,
    0x0116: Outcome.WARNING,
    0x0210: Outcome.RETRY,
    0x0131: Outcome.RETRY,
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


def test_every_status_cites_the_standard():
    for status in (*STATUSES, 0xA701, 0xA9FF, 0xC123, 0xBFFF):
        assert meaning(status).reference.startswith("PS3."), hex(status)


@pytest.mark.parametrize("outcome", Outcome)
def test_accepted_with_a_warning_is_accepted(outcome):
    assert outcome.is_accepted == (outcome in (Outcome.ACCEPTED, Outcome.WARNING))


COMMITMENT = {
    0x0112: Outcome.RETRY,
    0x0110: Outcome.RETRY,
    0x0213: Outcome.RETRY,
    0x0131: Outcome.RETRY,
    0x0122: Outcome.REFUSED,
    0x0119: Outcome.REFUSED,
    0x9999: Outcome.REFUSED,
}


@pytest.mark.parametrize(("reason", "outcome"), COMMITMENT.items(), ids=[f"{reason:04X}" for reason in COMMITMENT])
def test_a_failed_commitment_is_sent_again_or_dead(reason, outcome):
    assert classify_commitment_failure(reason) is outcome


HTTP = {
    200: Outcome.ACCEPTED,
    202: Outcome.ACCEPTED,
    204: Outcome.ACCEPTED,
    301: Outcome.UNAVAILABLE,
    400: Outcome.REFUSED,
    401: Outcome.UNAVAILABLE,
    403: Outcome.UNAVAILABLE,
    404: Outcome.UNAVAILABLE,
    408: Outcome.UNAVAILABLE,
    409: Outcome.REFUSED,
    413: Outcome.REFUSED,
    415: Outcome.REFUSED,
    429: Outcome.UNAVAILABLE,
    500: Outcome.RETRY,
    502: Outcome.UNAVAILABLE,
    503: Outcome.UNAVAILABLE,
    504: Outcome.UNAVAILABLE,
    507: Outcome.RETRY,
    599: Outcome.RETRY,
}


@pytest.mark.parametrize(("status", "outcome"), HTTP.items())
def test_an_http_status_tells_the_sender_what_to_do(status, outcome):
    assert classify_http(status) is outcome
