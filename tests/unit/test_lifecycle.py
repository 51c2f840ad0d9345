from pathlib import Path

import pytest

from dicomnode.domain.lifecycle import TRANSITIONS, Event, State, mermaid, next_state, sources
from dicomnode.errors import LifecycleError


def test_every_state_but_the_first_can_be_reached():
    reached = {State.RECEIVING}
    for _ in State:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(State)


@pytest.mark.parametrize("state", [s for s in State if not s.is_final])
def test_every_state_that_is_not_final_has_a_way_out(state):
    assert any(before is state for before, _ in TRANSITIONS)


def test_a_study_being_analyzed_is_not_replaced_under_the_worker():
    with pytest.raises(LifecycleError, match="ANALYZING knows no NEWER"):
        next_state(State.ANALYZING, Event.NEWER)


def test_gave_up_leaves_every_state_in_which_the_workflow_has_a_version():
    assert set(sources(Event.GAVE_UP)) == {State.QUEUED, State.ANALYZING, State.REPORTING, State.DELIVERING}


def test_diagram_has_a_line_for_each_transition():
    lines = mermaid().splitlines()
    assert len(lines) == 2 + len(TRANSITIONS)
    assert "    RECEIVING --> QUEUED: QUIET" in lines


def test_diagram_in_the_docs_is_this_table():
    docs = Path(__file__).parents[2] / "docs" / "architecture.md"
    assert mermaid() in docs.read_text(encoding="utf-8")
