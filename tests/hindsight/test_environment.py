"""What a run is made of besides its source."""

from __future__ import annotations

import platform
import subprocess

import pytest

from gpurescue.hindsight import environment


def test_facts_name_the_interpreter_and_what_is_installed(tmp_path):
    found = environment.facts(tmp_path)
    assert found["python"] == platform.python_version()
    assert found["package pytest"] == pytest.__version__
    assert all(isinstance(x, str) for pair in found.items() for x in pair)


def git(folder, *arguments):
    command = ["git", "-c", "user.name=x", "-c", "user.email=x@x", *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "x")
    return tmp_path


def test_the_commit_is_found_however_git_keeps_it(repository):
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "below").mkdir()
    assert environment.git_commit(repository / "below") == commit
    git(repository, "pack-refs", "--all")
    assert environment.git_commit(repository) == commit
    git(repository, "worktree", "add", "-q", "tree", "--detach")
    git(repository / "tree", "commit", "-q", "--allow-empty", "-m", "y")
    other = git(repository / "tree", "rev-parse", "HEAD")
    assert other != commit
    assert environment.git_commit(repository / "tree") == other
    git(repository / "tree", "checkout", "-q", "-b", "branch")
    assert environment.git_commit(repository / "tree") == other


def test_there_need_be_no_git(tmp_path):
    (tmp_path / "x").mkdir()
    assert environment.git_commit(tmp_path / "x") is None
    (tmp_path / ".git").write_text("what")
    assert environment.git_commit(tmp_path) is None
