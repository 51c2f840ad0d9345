"""The life of a bundle as rows: who may move where, what is refused, what a running node would load."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicomnode.config import ModelSettings, NodeSettings, Settings
from dicomnode.db import bundles as rows
from dicomnode.db import migrate
from dicomnode.db.session import Database, now
from dicomnode.db.tables import AuditEvent
from dicomnode.domain.lifecycle import BundleState
from dicomnode.errors import BundleError, ConfigError
from dicomnode.flow.bundles import BundlesInUse, OpenSet, Operator, load_set
from tests.bundles import manifest_values, write_bundle


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twins")
    for name in ("first", "second"):
        write_bundle(folder / name, manifest_values(name, "classifier"))
    return folder


@pytest.fixture
def operator(twins: Path, tmp_path: Path) -> Operator:
    models = shutil.copytree(twins, tmp_path / "models")
    settings = Settings(
        node=NodeSettings(data_dir=tmp_path / "data"),
        models=ModelSettings(directories=(models,), active=("first",)),
    )
    database = Database(f"sqlite:///{tmp_path}/rows.sqlite")
    migrate.upgrade(database)
    return Operator(database, settings, "cli:tester")


def states(operator: Operator) -> dict[str, str]:
    with operator.database.read() as session:
        return {name: standing.state for name, standing in rows.standings(session).items()}


def loaded(operator: Operator) -> tuple[list[str], list[str], tuple[str, ...]]:
    with operator.database.read() as session:
        found = load_set(operator.settings, rows.standings(session))
    return [b.identity.name for b in found.active], [b.identity.name for b in found.shadows], found.refused


def test_settings_decide_where_there_is_no_row(operator: Operator) -> None:
    assert loaded(operator) == (["first"], [], ())


def test_shadow_promotion_and_roll_back_are_rows_with_audit(operator: Operator) -> None:
    operator.shadow("second", beside="first", reason="a trial")
    assert loaded(operator) == (["first"], ["second"], ())
    assert operator.promote("second") == "first"
    assert states(operator) == {"first": "retired", "second": "active"}
    assert loaded(operator) == (["second"], [], ())
    assert operator.roll_back("second") == "first"
    assert loaded(operator) == (["first"], [], ())
    with operator.database.read() as session:
        moves = [(move.state, move.replaces, move.actor) for move in rows.history(session, "second")]
        audit = [(event.action, event.detail["bundle"]) for event in session.query(AuditEvent).order_by(AuditEvent.id)]
    assert moves == [
        (state, other, "cli:tester") for state, other in [("shadow", "first"), ("active", "first"), ("retired", "")]
    ]
    assert audit == [
        ("bundle shadow", "second"),
        ("bundle retired", "first"),
        ("bundle active", "second"),
        ("bundle retired", "second"),
        ("bundle active", "first"),
    ]


def test_retiring_the_last_bundle_leaves_none(operator: Operator) -> None:
    operator.retire("first")
    assert loaded(operator) == ([], [], ())


def edit_card(folder: Path) -> None:
    (folder / "CARD.md").write_text("another card")


def test_the_node_does_without_a_refused_bundle_and_says_so(operator: Operator) -> None:
    operator.promote("second")
    edit_card(operator.settings.models.directories[0] / "first")
    active, _, refused = loaded(operator)
    assert active == ["second"]
    assert refused[0].startswith("first: CARD.md: SHA-256 is")


@pytest.mark.parametrize("move", ["shadow", "promote"])
def test_a_bundle_that_does_not_load_is_not_moved(operator: Operator, move: str) -> None:
    edit_card(operator.settings.models.directories[0] / "second")
    with pytest.raises(BundleError, match=r"second: CARD\.md: SHA-256"):
        getattr(operator, move)("second")
    assert states(operator) == {}


def test_roll_back_refuses_a_bundle_that_does_not_load_and_leaves_all_as_it_is(operator: Operator) -> None:
    operator.promote("second", replaces="first")
    edit_card(operator.settings.models.directories[0] / "first")
    with pytest.raises(BundleError, match=r"first: CARD\.md"):
        operator.roll_back("second")
    assert states(operator) == {"first": "retired", "second": "active"}


def test_a_folder_that_changed_since_its_promotion_is_not_loaded_until_it_is_promoted_again(operator: Operator) -> None:
    operator.promote("second", replaces="first")
    manifest = operator.settings.models.directories[0] / "second/bundle.toml"
    manifest.write_text(manifest.read_text().replace('title = "A small', 'title = "Another small'))
    active, _, refused = loaded(operator)
    assert active == []
    assert "second: bundle.toml: changed since it became active" in refused[0]
    operator.promote("second")
    assert loaded(operator) == (["second"], [], ())
    assert operator.roll_back("second") == "first"


MISTAKES: dict[str, tuple[Callable[[Operator], object], str]] = {
    "unknown": (lambda o: o.promote("third"), "there is no bundle 'third'; known are .*first"),
    "beside unknown": (lambda o: o.shadow("second", beside="third"), "there is no bundle 'third'"),
    "active in the shadow": (lambda o: o.shadow("first"), "first is active"),
    "replaces what is not active": (lambda o: o.promote("first", replaces="second"), "second is installed, not active"),
    "replaces itself": (lambda o: o.promote("first", replaces="first"), "cannot replace itself"),
    "retired": (lambda o: o.retire("second"), "second is installed: only one in use"),
    "rolls back what replaced nothing": (lambda o: o.roll_back("first"), "first replaced no other bundle"),
    "rolls back what is not active": (lambda o: o.roll_back("second"), "second is installed, not active"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_move_that_means_nothing_is_refused_and_leaves_no_row(operator: Operator, case: str) -> None:
    move, reason = MISTAKES[case]
    with pytest.raises(ConfigError, match=reason):
        move(operator)
    assert states(operator) == {}


def test_a_study_keeps_the_set_that_it_began_with(operator: Operator) -> None:
    settings = operator.settings
    before = OpenSet(load_set(settings, {}), settings.analysis)
    in_use = BundlesInUse(before)
    with in_use.study() as opened:
        in_use.swap(OpenSet(load_set(settings, {}, moved=1), settings.analysis))
        assert opened is before
        assert opened.analyzer.analyze([])[0].bundle.name == "first"
        assert in_use.moved == 1
    with pytest.raises(RuntimeError, match="closed"):
        before.analyzer._batcher.submit({})  # type: ignore[union-attr]
    in_use.close()


def test_the_choice_of_a_backend_is_kept_beside_the_data(operator: Operator) -> None:
    loaded(operator)
    assert not operator.settings.node.data_dir.exists()  # a look must not make the folder
    operator.settings.node.data_dir.mkdir()
    loaded(operator)
    (kept,) = (operator.settings.node.data_dir / "backends").glob("*.json")
    assert json.loads(kept.read_text())["bundle"] == "first"


def test_every_state_may_stand_in_a_row(operator: Operator) -> None:
    values: dict[str, Any] = {"version": "1", "digest": "d", "replaces": "", "actor": "a", "reason": ""}
    with operator.database.write() as session:
        moment = now(session)
        for state in BundleState:
            rows.move(session, rows.Standing(name=state, state=state, since=moment, **values))
    assert set(states(operator).values()) == set(BundleState)
