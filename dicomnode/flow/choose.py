"""Choose: which object a destination gets, the one that was made or its variant in a SOP Class that the peer takes.

The choice is a row before the first send and stays: a peer that stored an object and cut the line gets no second one.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from dicomnode import spool
from dicomnode.db import deliveries, studies
from dicomnode.db.deliveries import Due, StoredObject
from dicomnode.db.session import Database, now
from dicomnode.failpoint import failpoint
from dicomnode.log import get_logger

log = get_logger(__name__)


class Accepting(Protocol):
    """What a peer said that it takes."""

    @property
    def takes(self) -> tuple[str, ...]:
        """UIDs of our result SOP Classes that it takes."""

    def accepts(self, sop_class_uid: str) -> bool:
        """Return whether it takes uncompressed objects of a SOP Class."""


class Choice:
    """Chooses with rows and the spool at `root`."""

    def __init__(self, database: Database, root: Path) -> None:
        self._database = database
        self._root = root

    def choose(self, peer: Accepting, destination: str, due: Sequence[Due]) -> list[Due]:
        """Return `due` with what each sends; a variant that is new is a file and a row before this returns."""
        chosen = [one if one.is_chosen else replace(one, content=self._fitting(peer, one)) for one in due]
        with self._database.write() as session:
            row = deliveries.lock(session, destination)
            if row is not None and row.accepts != list(peer.takes):
                row.accepts = list(peer.takes)
            deliveries.choose(session, {one.delivery_id: one.content.object_id for one in chosen if not one.is_chosen})
        failpoint("choose.chosen")
        return chosen

    def _fitting(self, peer: Accepting, due: Due) -> StoredObject:
        """Return the object of a delivery in the first SOP Class that the peer takes; as it is, if it takes none."""
        if peer.accepts(due.content.sop_class_uid):
            return due.content
        from dicomnode.evidence import ALTERNATIVES  # noqa: PLC0415  only a peer that needs a variant pays for it

        for sop_class_uid in ALTERNATIVES.get(due.content.sop_class_uid, ()):
            if peer.accepts(sop_class_uid):
                return self._variant(due.content, sop_class_uid)
        return due.content

    def _variant(self, content: StoredObject, sop_class_uid: str) -> StoredObject:
        with self._database.read() as session:
            if known := deliveries.variant(session, content.object_id, sop_class_uid):
                return known
        from dicomnode.evidence import encoded, variant  # noqa: PLC0415

        ds = variant((self._root / content.path).read_bytes(), sop_class_uid)
        bytes_of_file, uid = encoded(ds), str(ds.SOPInstanceUID)
        name = str(Path(content.path).parent / f"{uid}.dcm")
        spool.keep(self._root, spool.stage(self._root, (bytes_of_file,)), name)
        file = studies.StoredFile(name, len(bytes_of_file), hashlib.sha256(bytes_of_file).hexdigest())
        log.info("evidence object in another SOP Class", sop_instance_uid=uid, sop_class_uid=sop_class_uid)
        with self._database.write() as session:
            return deliveries.add_variant(session, content.object_id, sop_class_uid, uid, file, now(session))
