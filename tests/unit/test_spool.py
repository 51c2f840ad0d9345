import os

import pytest

from dicomnode import spool
from dicomnode.errors import SpoolFull


@pytest.fixture
def root(tmp_path):
    spool.prepare(tmp_path)
    return tmp_path


def test_staged_then_kept_file_holds_the_chunks_under_its_name(root):
    staged = spool.stage(root, [b"a" * 3, b"", memoryview(b"bc")])
    spool.keep(root, staged, "instances/x/y.dcm")
    assert (root / "instances/x/y.dcm").read_bytes() == b"aaabc"
    assert not list((root / "staging").iterdir())


def test_every_folder_on_the_way_to_a_file_is_made_durable(root, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    spool.keep(root, spool.stage(root, [b"1"]), "instances/ab/study/file.dcm")
    folders = [f"{root}{name}" for name in ("", "/instances", "/instances/ab", "/instances/ab/study")]
    assert synced == folders


def test_folder_that_was_removed_is_made_again(root):
    spool.keep(root, spool.stage(root, [b"1"]), "instances/ab/study/1.dcm")
    (root / "instances/ab/study/1.dcm").unlink()
    (root / "instances/ab/study").rmdir()
    spool.keep(root, spool.stage(root, [b"2"]), "instances/ab/study/2.dcm")
    assert (root / "instances/ab/study/2.dcm").read_bytes() == b"2"


def test_name_of_an_instance_holds_nothing_of_its_uids():
    name = spool.instance_name("../../etc", "../passwd", "0" * 64)
    assert ".." not in name
    assert name.startswith("instances/")
    assert name != spool.instance_name("../../etc", "../passwd", "1" * 64)


def test_too_little_space_is_said_with_the_setting(root):
    with pytest.raises(SpoolFull, match=r"receiver\.min_free_bytes"):
        spool.check_space(root, 1 << 62)
    spool.check_space(root, 0, 1)


def test_old_staged_files_go_and_young_ones_stay(root):
    old, young = spool.stage(root, [b"1"]), spool.stage(root, [b"2"])
    os.utime(old, (1000, 1000))
    assert spool.sweep_staging(root, older_than_s=60, now=2000) == 1
    assert not old.exists()
    assert young.exists()


def test_removing_twice_is_no_error(root):
    spool.keep(root, spool.stage(root, [b"1"]), "evidence/a/b.dcm")
    spool.remove(root, "evidence/a/b.dcm")
    spool.remove(root, "evidence/a/b.dcm")
