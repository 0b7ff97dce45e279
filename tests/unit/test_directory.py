"""The data directory: who owns it, and what its modes are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from muster.node.directory import DataDirectory, DirectoryInUseError


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_directory_that_is_made_and_its_files_are_the_owner_s_only(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "new" / "data")
    directory.announce({"pid": 1})
    assert mode(directory.path) == 0o700
    assert {path.name: mode(path) for path in directory.path.iterdir()} == {"lock": 0o600, "run.json": 0o600}
    directory.release()
    assert [path.name for path in directory.path.iterdir()] == ["lock"]


def test_a_directory_that_is_made_outlives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, list[str]]] = []
    fsync = os.fsync

    def record(handle: int) -> None:
        fsync(handle)
        where = os.readlink(f"/proc/self/fd/{handle}")
        synced.append((where, os.listdir(where)))

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.chdir(tmp_path)
    DataDirectory(Path("new") / "data").release()
    assert synced == [(str(tmp_path), ["new"]), (str(tmp_path / "new"), ["data"])]
    DataDirectory(Path("new") / "data").release()
    assert len(synced) == 2


def test_the_mode_of_a_directory_that_is_there_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    DataDirectory(tmp_path).release()
    assert mode(tmp_path) == 0o755


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path)
    with pytest.raises(DirectoryInUseError, match="in use by another"):
        DataDirectory(tmp_path)
    directory.release()
    DataDirectory(tmp_path).release()
