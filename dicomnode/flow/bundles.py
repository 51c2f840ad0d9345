"""Which bundles look at studies: rows say it, where there are none the settings; a change needs no restart.

Installed -> shadow -> active -> retired. A bundle is moved only after it loads with every check, and the row keeps its
digest: a folder that changed since is not loaded, and that is said.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from dicomnode.config import AnalysisSettings, Settings
from dicomnode.db import bundles as rows
from dicomnode.db.bundles import Standing
from dicomnode.db.session import Database, now
from dicomnode.domain.findings import BundleIdentity
from dicomnode.domain.lifecycle import BundleState
from dicomnode.errors import BundleError, ConfigError, Transient
from dicomnode.flow.drift import remember_references
from dicomnode.inference import backends
from dicomnode.inference import bundle as bundles
from dicomnode.inference.bundle import Bundle
from dicomnode.inference.predict import Analyzer
from dicomnode.inference.reference import references
from dicomnode.log import get_logger

log = get_logger(__name__)
POLL_S = 1.0
IN_USE = (BundleState.ACTIVE, BundleState.SHADOW)


@dataclass(frozen=True)
class BundleSet:
    """The loaded bundles: those whose word counts, those in the shadow, and in words which of each were refused."""

    active: tuple[Bundle, ...]
    shadows: tuple[Bundle, ...] = ()
    refused: tuple[str, ...] = ()
    refused_shadows: tuple[str, ...] = ()
    moved: int = 0

    @property
    def backends(self) -> dict[str, str]:
        """What runs the network of each bundle."""
        return {bundle.identity.name: bundle.backend for bundle in (*self.active, *self.shadows)}


def state_of(name: str, standings: Mapping[str, Standing], settings: Settings) -> BundleState:
    """Return where a bundle stands; `models.active` decides where there is no row."""
    if name in standings:
        return standings[name].state
    return BundleState.ACTIVE if name in settings.models.active else BundleState.INSTALLED


def names_in(state: BundleState, standings: Mapping[str, Standing], settings: Settings) -> list[str]:
    """Return the bundles in `state`: those of the settings in their order, then those that were moved there."""
    known = dict.fromkeys([*settings.models.active, *standings])
    return [name for name in known if state_of(name, standings, settings) is state]


def load_set(settings: Settings, standings: Mapping[str, Standing], moved: int = 0) -> BundleSet:
    """Return the bundles that can be trusted; the node starts without a refused one and says so."""
    found = bundles.installed(settings.models.directories)

    def loaded(state: BundleState) -> tuple[tuple[Bundle, ...], tuple[str, ...]]:
        those, refused = [], []
        for name in names_in(state, standings, settings):
            try:
                those.append(_load(name, found, standings.get(name), settings))
            except BundleError as exc:
                log.error("bundle refused", bundle=name, state=str(state), reason=str(exc))
                refused.append(str(exc))
        return tuple(those), tuple(refused)

    active, refused = loaded(BundleState.ACTIVE)
    shadows, refused_shadows = loaded(BundleState.SHADOW)
    return BundleSet(active, shadows, refused, refused_shadows, moved)


def _load(name: str, found: Mapping[str, Path], standing: Standing | None, settings: Settings) -> Bundle:
    if name not in found:
        raise BundleError(f"{name}: there is no such bundle; known are {', '.join(sorted(found)) or 'none'}")
    bundle = bundles.load(found[name], threads=settings.analysis.threads)
    if standing is not None and bundle.identity.digest != standing.digest:
        accept = "shadow" if standing.state is BundleState.SHADOW else "promote"
        raise BundleError(
            f"{name}: bundle.toml: changed since it became {standing.state} on {standing.since:%Y-%m-%d %H:%M} UTC "
            f"(digest {bundle.identity.digest[:12]}, then {standing.digest[:12]}); put the old folder back, or accept "
            f"the new one with `dicomnode model {accept} {name}`"
        )
    return backends.choose(bundle, settings.analysis, choices_folder(settings))[0]


def choices_folder(settings: Settings) -> Path | None:
    """Return where the choices of backends are kept; None before there is a folder for data."""
    return settings.node.data_dir / "backends" if settings.node.data_dir.is_dir() else None


class OpenSet:
    """A bundle set with its analyzers running; shadows have their own, so that they cannot disturb the others."""

    def __init__(self, those: BundleSet, settings: AnalysisSettings) -> None:
        self.set = those
        self.users = 0
        self._stack = contextlib.ExitStack()
        self.analyzer = self._stack.enter_context(Analyzer(those.active, settings))
        self.shadows = self._stack.enter_context(Analyzer(those.shadows, settings)) if those.shadows else None

    def close(self) -> None:
        """End the analyzers."""
        self._stack.close()


class BundlesInUse:
    """The set of the moment. A study keeps the set that it began with; a replaced set closes after its last study."""

    def __init__(self, opened: OpenSet) -> None:
        self._current = opened
        self._lock = threading.Lock()

    @property
    def moved(self) -> int:
        """The last move that the current set knows of."""
        return self._current.set.moved

    @contextlib.contextmanager
    def study(self) -> Iterator[OpenSet]:
        """Give the current set for one study."""
        with self._lock:
            opened = self._current
            opened.users += 1
        try:
            yield opened
        finally:
            with self._lock:
                opened.users -= 1
                is_over = opened.users == 0 and opened is not self._current
            if is_over:
                opened.close()

    def swap(self, opened: OpenSet) -> None:
        """Let studies that begin from now on use `opened`."""
        with self._lock:
            before, self._current = self._current, opened
            is_over = before.users == 0
        if is_over:
            before.close()

    def close(self) -> None:
        """End the current set."""
        self._current.close()


def open_set(database: Database, settings: Settings) -> OpenSet:
    """Return the bundles that the rows and settings name, loaded and running."""
    with database.read() as session:
        moved, standings = rows.last_move(session), rows.standings(session)
    loaded = load_set(settings, standings, moved)
    known = (*loaded.active, *loaded.shadows)
    remember_references(database, [references(bundle.manifest, bundle.identity.digest) for bundle in known])
    return OpenSet(loaded, settings.analysis)


def follow(database: Database, settings: Settings, in_use: BundlesInUse, stop: threading.Event) -> None:
    """Swap the set whenever an operator moved a bundle, until `stop`."""
    while not stop.wait(POLL_S):
        try:
            with database.read() as session:
                moved = rows.last_move(session)
            if moved != in_use.moved:
                opened = open_set(database, settings)
                in_use.swap(opened)
                log.info(
                    "bundles swapped",
                    active=[bundle.identity.name for bundle in opened.set.active],
                    shadow=[bundle.identity.name for bundle in opened.set.shadows],
                    refused=[*opened.set.refused, *opened.set.refused_shadows],
                )
        except Transient as exc:
            log.warning("bundles cannot be looked up", error=str(exc))
        except Exception:
            log.exception("bundles were not swapped")


@dataclass(frozen=True)
class Operator:
    """Who moves bundles, with what is needed for it."""

    database: Database
    settings: Settings
    actor: str

    def shadow(self, name: str, beside: str = "", reason: str = "") -> None:
        """Let a bundle run in the shadow, compared with `beside`."""
        identity = self._loads(name)
        if beside:
            self._loads(beside)
        with self._moving() as (session, standings, at):
            if state_of(name, standings, self.settings) is BundleState.ACTIVE:
                raise ConfigError(f"{name} is active: `dicomnode model retire {name}` takes it out first")
            self._move(session, identity, BundleState.SHADOW, at, beside or _other(standings.get(name)), reason)

    def promote(self, name: str, replaces: str = "", reason: str = "") -> str:
        """Make a bundle active in the place of `replaces`, which is retired; return whom it replaced."""
        identity = self._loads(name)
        if replaces == name:
            raise ConfigError(f"{name} cannot replace itself")
        with self._moving() as (session, standings, at):
            other = replaces or _other(standings.get(name))
            is_new = state_of(name, standings, self.settings) is not BundleState.ACTIVE
            if replaces or (other and is_new):
                self._require(other, BundleState.ACTIVE, standings)
                self._retire(session, other, standings, at, f"replaced by {name}")
            self._move(session, identity, BundleState.ACTIVE, at, other, reason)
        return other

    def retire(self, name: str, reason: str = "") -> None:
        """Take a bundle out of use."""
        with self._moving() as (session, standings, at):
            if state_of(name, standings, self.settings) not in IN_USE:
                raise ConfigError(
                    f"{name} is {state_of(name, standings, self.settings)}: only one in use can be retired"
                )
            self._retire(session, name, standings, at, reason)

    def roll_back(self, name: str, reason: str = "") -> str:
        """Retire an active bundle and make the one that it replaced active again; return its name."""
        with self._moving() as (session, standings, at):
            self._require(name, BundleState.ACTIVE, standings)
            before = standings[name].replaces if name in standings else ""
            if not before:
                raise ConfigError(f"{name} replaced no other bundle: `dicomnode model retire {name}` takes it out")
            identity = self._loads(before)
            self._retire(session, name, standings, at, reason or f"rolled back to {before}")
            self._move(session, identity, BundleState.ACTIVE, at, "", f"{name} was rolled back")
        return before

    @contextlib.contextmanager
    def _moving(self) -> "Iterator[tuple[Session, dict[str, Standing], datetime]]":
        with self.database.write() as session:
            yield session, rows.standings(session), now(session)

    def _loads(self, name: str) -> BundleIdentity:
        found = bundles.installed(self.settings.models.directories)
        if name not in found:
            raise ConfigError(f"there is no bundle {name!r}; known are {', '.join(sorted(found)) or 'none'}")
        return bundles.load(found[name]).identity

    def _require(self, name: str, state: BundleState, standings: Mapping[str, Standing]) -> None:
        stands = state_of(name, standings, self.settings)
        if stands is not state:
            known = ", ".join(names_in(state, standings, self.settings)) or "none"
            raise ConfigError(f"{name} is {stands}, not {state}; {state} are: {known}")

    def _retire(
        self, session: Session, name: str, standings: Mapping[str, Standing], at: datetime, reason: str
    ) -> None:
        known = standings.get(name)
        version, digest = (known.version, known.digest) if known else self._on_disk(name)
        gone = Standing(name, version, digest, BundleState.RETIRED, "", at, self.actor, reason)
        rows.move(session, gone)

    def _on_disk(self, name: str) -> tuple[str, str]:
        """Return version and digest of a bundle that no row knows; a broken one can be retired too."""
        folder = bundles.installed(self.settings.models.directories).get(name)
        try:
            manifest, digest = bundles.read_manifest(folder) if folder else (None, "")
        except BundleError:
            return "", ""
        return (manifest.version if manifest else ""), digest

    def _move(
        self, session: Session, identity: BundleIdentity, state: BundleState, at: datetime, other: str, reason: str
    ) -> None:
        rows.move(
            session, Standing(identity.name, identity.version, identity.digest, state, other, at, self.actor, reason)
        )


def _other(standing: Standing | None) -> str:
    """Return whom a shadow stands beside, or an active bundle replaced."""
    return standing.replaces if standing is not None and standing.state in IN_USE else ""
