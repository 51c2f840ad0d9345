from datetime import UTC, datetime, timedelta

import pytest

from dicomnode.domain.lifecycle import CircuitState
from dicomnode.domain.patience import Action, Circuit, Limits, back_off

AT = datetime(2026, 1, 2, tzinfo=UTC)
LIMITS = Limits(failures=3, first_s=5, longest_s=600, longest_probe_s=60)


@pytest.mark.parametrize("failures", range(1, 60))
def test_wait_doubles_up_to_the_longest_with_jitter_of_at_most_half(failures):
    whole = min(5 * 2 ** (failures - 1), 600)
    assert whole / 2 <= back_off(5, 600, failures, "x").total_seconds() <= whole


def test_wait_is_the_same_for_the_same_seed_and_differs_between_two():
    assert back_off(5, 600, 4, "delivery 1") == back_off(5, 600, 4, "delivery 1")
    waits = {back_off(5, 600, 4, f"delivery {number}") for number in range(100)}
    assert len(waits) == 100


def failed(times, circuit=None):
    circuit = circuit or Circuit("pacs")
    for _ in range(times):
        circuit = circuit.failed(AT, "no answer", LIMITS)
    return circuit


@pytest.mark.parametrize(("failures", "state"), [(1, "closed"), (2, "closed"), (3, "open"), (9, "open")])
def test_circuit_opens_after_so_many_failures_in_a_row(failures, state):
    assert failed(failures).state == state
    assert (failed(failures).opened_at is not None) == (state == "open")


def test_peer_is_left_alone_until_the_wait_is_over():
    circuit = failed(1)
    assert circuit.action(AT) is Action.WAIT
    assert circuit.action(AT + timedelta(seconds=5)) is Action.SEND


def test_open_circuit_is_probed_at_least_once_a_minute():
    circuit = failed(30)
    assert circuit.action(AT + timedelta(seconds=29)) is Action.WAIT
    assert circuit.action(AT + timedelta(seconds=60)) is Action.PROBE


def test_only_one_probe_at_a_time_and_a_lost_one_is_repeated():
    circuit = failed(3).probing(AT, lease_s=120)
    assert circuit.state is CircuitState.HALF_OPEN
    assert circuit.action(AT + timedelta(seconds=119)) is Action.WAIT
    assert circuit.action(AT + timedelta(seconds=120)) is Action.PROBE


def test_failed_probe_opens_the_circuit_again_and_remembers_since_when():
    circuit = failed(1, failed(3).probing(AT, 120))
    assert circuit.state is CircuitState.OPEN
    assert circuit.opened_at == AT
    assert circuit.failures == 4


def test_peer_that_answers_a_probe_and_then_fails_again_is_open_at_once():
    circuit = failed(3).probing(AT, 120).reached()
    assert circuit.action(AT) is Action.SEND
    assert failed(1, circuit).state is CircuitState.OPEN


def test_answer_for_an_object_forgets_all_failures():
    assert failed(2).answered() == Circuit("pacs")


def test_peer_that_asks_for_more_time_gets_it():
    circuit = Circuit("pacs").failed(AT, "HTTP 429", LIMITS, wait_s=900)
    assert circuit.next_probe_at == AT + timedelta(seconds=900)
