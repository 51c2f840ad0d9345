import pytest

from dicomnode.config import PeerSettings, RouteSettings, Settings
from dicomnode.domain.findings import BundleIdentity, BundleResult, Code, Finding, Priority
from dicomnode.flow.route import Facts, destinations, explain, facts

KNOWN = Facts("XRAY1", frozenset({"DX"}), frozenset({"Pneumothorax"}), Priority.CRITICAL)
PEERS = {
    name: PeerSettings(ae_title=name.upper(), host="h", port=104, destination=name != "other")
    for name in ("pacs", "ward", "other")
}


def settings(*routes):
    return Settings(peers=PEERS, routes=tuple(RouteSettings(**route) for route in routes))


def test_without_routes_every_destination_gets_the_results():
    assert destinations(settings(), KNOWN) == dict.fromkeys(
        ("pacs", "ward"), "no [[routes]]: every peer with destination = true"
    )


MATCHES = {
    "everything": ({}, "it matches every study"),
    "source": ({"source_ae_title": "XRAY1"}, "the source is XRAY1"),
    "one of several sources": ({"source_ae_title": ("CT1", "XRAY1")}, "the source is XRAY1"),
    "modality": ({"modality": ["CR", "DX"]}, "the modality is DX"),
    "finding": ({"finding": "pneumothorax"}, "Pneumothorax is suspected"),
    "priority": ({"priority": "urgent"}, "the priority is critical, at least urgent"),
    "all at once": (
        {"source_ae_title": "XRAY1", "modality": "DX", "finding": "Pneumothorax", "priority": "critical"},
        "the source is XRAY1; the modality is DX; Pneumothorax is suspected; "
        "the priority is critical, at least critical",
    ),
}


@pytest.mark.parametrize(("keys", "why"), MATCHES.values(), ids=MATCHES)
def test_route_that_matches_says_why(keys, why):
    assert destinations(settings({**keys, "destinations": "ward"}), KNOWN) == {"ward": f"route 1: {why}"}


MISSES = {
    "source": ({"source_ae_title": "CT1"}, "the source is XRAY1, not CT1"),
    "modality": ({"modality": ["CT", "MR"]}, "the modality is DX, not CT or MR"),
    "finding": ({"finding": "Pneumonia"}, "Pneumonia is not suspected"),
    "second key": ({"modality": "DX", "source_ae_title": "CT1"}, "the source is XRAY1, not CT1"),
}


@pytest.mark.parametrize(("keys", "why"), MISSES.values(), ids=MISSES)
def test_route_that_does_not_match_says_why_not(keys, why):
    chosen = settings({**keys, "destinations": "ward"})
    assert destinations(chosen, KNOWN) == {}
    assert [(ruled.rule, ruled.destinations, ruled.why) for ruled in explain(chosen, KNOWN)] == [("route 1", (), why)]


@pytest.mark.parametrize(("least", "is_sent"), [("routine", True), ("urgent", True), ("critical", False)])
def test_priority_means_at_least(least, is_sent):
    urgent = Facts("XRAY1", frozenset({"DX"}), frozenset(), Priority.URGENT)
    assert bool(destinations(settings({"priority": least, "destinations": "ward"}), urgent)) == is_sent


def test_all_routes_that_match_count_and_each_destination_gets_the_results_once():
    chosen = settings(
        {"destinations": ["pacs"]},
        {"finding": "Pneumothorax", "destinations": ["pacs", "other"]},
        {"modality": "CT", "destinations": "ward"},
    )
    assert list(destinations(chosen, KNOWN)) == ["pacs", "other"]
    assert set(chosen.destinations) == {"pacs", "ward", "other"}


def test_facts_come_from_an_analysis():
    bundle = BundleIdentity("b", "1", "classifier", "B", "0", "0")
    findings = tuple(
        Finding(label, Code("1", "SCT", label), None, value, 0.5, Priority.URGENT, "1.2")
        for label, value in (("Pneumonia", 0.9), ("Fracture", 0.1))
    )
    known = facts("XRAY1 ", ["DX", "DX"], (BundleResult(bundle, findings=findings),), Priority.URGENT)
    assert known == Facts("XRAY1", frozenset({"DX"}), frozenset({"Pneumonia"}), Priority.URGENT)
