"""Compiled code is kept in a folder named after the sources, wherever that folder lies."""

from pathlib import Path

import pytest

import kernels.cpu


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Where compiled code of a package in `package/` would be kept, for a user who has chosen a folder or has not."""
    package, users = tmp_path / "package", tmp_path / "users"
    package.mkdir()
    (package / "a.py").write_text("A = 1\n")
    monkeypatch.setattr(kernels.cpu, "__file__", str(package / "__init__.py"))
    monkeypatch.setattr(kernels.cpu.AppDirs, "user_cache_dir", str(users))

    def of(chosen="") -> Path:
        monkeypatch.setattr(kernels.cpu.config, "CACHE_DIR", str(chosen))
        with kernels.cpu._cache_of_these_sources():
            found = Path(kernels.cpu.config.CACHE_DIR)
        assert str(chosen) == kernels.cpu.config.CACHE_DIR, "numba's setting is put back"
        return found

    return of


def test_beside_the_sources_or_where_the_user_wants_it(place, tmp_path):
    assert place().parent == tmp_path / "package" / "__pycache__"
    assert place(tmp_path / "chosen").parent == tmp_path / "chosen"


def test_among_the_users_own_where_the_package_cannot_be_written(place, tmp_path):
    (tmp_path / "package" / "__pycache__").write_text("a file in its place")
    assert place().parent == tmp_path / "users"
    (tmp_path / "file").write_text("no folder")
    assert place(tmp_path / "file").parent == tmp_path / "users"


def test_other_sources_have_another_folder(place, tmp_path):
    for chosen in ("", tmp_path / "chosen"):
        before = place(chosen)
        (tmp_path / "package" / "a.py").write_text(f"A = 2  # {chosen}\n")
        assert place(chosen) != before
        assert place(chosen).parent == before.parent


def test_numba_keeps_it_there():
    with kernels.cpu._cache_of_these_sources():
        found = Path(kernels.cpu.config.CACHE_DIR)
    assert Path(kernels.cpu.gibbs_sweep.__globals__["_sweep_group"]._cache.cache_path).parent == found


def test_where_nothing_can_be_written_it_is_for_this_process(place, tmp_path):
    (tmp_path / "package" / "__pycache__").write_text("a file in its place")
    (tmp_path / "users").write_text("a file in its place")
    found, other = place(), place()
    assert found != other
    assert found.stat().st_mode & 0o077 == 0
    for folder in (found, other):
        folder.rmdir()
