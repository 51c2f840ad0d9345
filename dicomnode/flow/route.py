"""Route: which destinations the results of a study go to, and in words why.

Without routes in the settings they go to every peer with `destination = true`. With routes they go where each route
that matches says, once to each destination; a study that no route matches goes nowhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from dicomnode.config import RouteSettings, Settings
from dicomnode.domain.findings import BundleResult, Priority


@dataclass(frozen=True, slots=True)
class Facts:
    """What routes ask of a study: its source, its modalities, the labels that are suspected, its urgency."""

    source_ae_title: str
    modalities: frozenset[str]
    suspected: frozenset[str]
    priority: Priority


@dataclass(frozen=True, slots=True)
class Ruled:
    """What one rule says of a study; `destinations` is empty where it does not match."""

    rule: str
    destinations: tuple[str, ...]
    why: str


def facts(source_ae_title: str, modalities: list[str], results: tuple[BundleResult, ...], priority: Priority) -> Facts:
    """Return what routes ask, from an analysis."""
    suspected = {finding.label for result in results for finding in result.findings if finding.is_suspected}
    return Facts(source_ae_title.strip(), frozenset(modalities), frozenset(suspected), priority)


def explain(settings: Settings, known: Facts) -> list[Ruled]:
    """Return what each rule says of a study, in the order of the settings."""
    if not settings.routes:
        names = tuple(settings.destinations)
        return [Ruled("no [[routes]]", names, "every peer with destination = true" if names else "no peer has it")]
    return [_ruled(number, route, known) for number, route in enumerate(settings.routes, start=1)]


def destinations(settings: Settings, known: Facts) -> dict[str, str]:
    """Return the destinations of a study, each with the first rule that names it and why that matches."""
    found: dict[str, str] = {}
    for ruled in explain(settings, known):
        for name in ruled.destinations:
            found.setdefault(name, f"{ruled.rule}: {ruled.why}")
    return found


def _ruled(number: int, route: RouteSettings, known: Facts) -> Ruled:
    rule, misses = f"route {number}", list(_misses(route, known))
    if misses:
        return Ruled(rule, (), "; ".join(misses))
    return Ruled(rule, route.destinations, "; ".join(_matches(route, known)) or "it matches every study")


def _misses(route: RouteSettings, known: Facts) -> Iterator[str]:
    """Yield in words each key of a route that does not match."""
    if route.source_ae_title and known.source_ae_title not in _stripped(route.source_ae_title):
        yield f"the source is {known.source_ae_title}, not {_either(route.source_ae_title)}"
    if route.modality and not known.modalities & set(route.modality):
        yield f"the modality is {_either(sorted(known.modalities)) or 'not known'}, not {_either(route.modality)}"
    if route.finding and not _suspected(route, known):
        yield f"{_either(route.finding)} is not suspected"
    if known.priority.rank > Priority(route.priority).rank:
        yield f"the priority is {known.priority}, not at least {route.priority}"


def _matches(route: RouteSettings, known: Facts) -> Iterator[str]:
    """Yield in words each key of a route that matches."""
    if route.source_ae_title:
        yield f"the source is {known.source_ae_title}"
    if route.modality:
        yield f"the modality is {_either(sorted(known.modalities & set(route.modality)))}"
    if route.finding:
        yield f"{_either(_suspected(route, known))} is suspected"
    if Priority(route.priority) is not Priority.ROUTINE:
        yield f"the priority is {known.priority}, at least {route.priority}"


def _suspected(route: RouteSettings, known: Facts) -> list[str]:
    """Return the labels of a route that are suspected, whatever the case of their letters."""
    wanted = {label.casefold() for label in route.finding}
    return sorted(label for label in known.suspected if label.casefold() in wanted)


def _stripped(values: tuple[str, ...]) -> set[str]:
    return {value.strip() for value in values}


def _either(values: tuple[str, ...] | list[str]) -> str:
    return " or ".join(values)
