"""The Makefile and the hooks. Recipes are only printed, or run with stand-ins: nothing is set up or installed."""

import os
import re
import subprocess

import pytest
import yaml

import lessons

ROOT = lessons.ROOT


def make(*words, ready=True):
    """Run make as if .venv were ready, or were not, and as if the tests had not been started by another make."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    line = ["make", "--no-print-directory", "--assume-old=.venv/ready" if ready else "--always-make", *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, env=env)


def test_every_target_is_listed_in_its_group():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.*?)\n\n", makefile, re.MULTILINE | re.DOTALL)[1].replace("\\\n", "").split())
    assert targets == phony
    groups = make("help").stdout.strip().split("\n\n")
    assert [group.splitlines()[0] for group in groups] == ["To learn", "To teach", "To contribute"]
    assert set(re.findall(r"^  make ([a-z]+) ", "\n".join(groups), re.MULTILINE)) == targets - {"browser"}
    assert max(map(len, "\n".join(groups).splitlines())) <= 128


def test_a_lesson_needs_its_number():
    done = make("lesson")
    assert done.returncode == 2
    assert done.stdout == "error: which lesson? For example: make lesson NN=05\n"


@pytest.mark.parametrize(
    ("words", "run"), [((), "run  09"), (("TIMINGS=1",), "run --renew-timings 09"), (("TIMINGS=0",), "run  09")]
)
def test_timings_are_renewed_only_when_asked_for(words, run):
    assert make("-n", "lesson", "NN=09", *words).stdout.splitlines()[-1] == f".venv/bin/python tools/lessons.py {run}"


def test_hooks_are_for_contributors_only():
    assert "pre_commit install" in make("-n", "contribute").stdout
    learner = make("-n", "setup", "lab", "demo", "exercises", ready=False).stdout
    assert "pip install" in learner
    assert "pre_commit" not in learner


def test_hooks_use_the_pinned_versions_in_any_environment():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in local["hooks"]:
        assert hook["language"] == "python", "neither .venv nor an active environment is needed"
        assert set(hook["additional_dependencies"]) <= set(pins)


@pytest.fixture
def bin_folder(tmp_path):
    """A PATH with what the browser recipe needs, and no browser."""
    for name in ("sh", "awk"):
        (tmp_path / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())

    def add(name, script):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)

    return tmp_path, add


@pytest.mark.parametrize(
    ("user", "apt", "lines"),
    [
        ("0", "exit 0", ["installing chromium with apt-get, for the browser tests"]),
        ("0", None, ["chromium is not here and cannot be installed: the browser tests will be skipped"]),
        ("7", "exit 0", ["chromium is not here and cannot be installed: the browser tests will be skipped"]),
    ],
    ids=["root with apt", "root without apt", "a user"],
)
def test_a_browser_is_installed_or_missed_in_one_line(user, apt, lines, bin_folder):
    folder, add = bin_folder
    add("id", f"echo {user}")
    if apt is not None:
        add("apt-get", apt)
    make_itself = subprocess.check_output(["which", "make"], text=True).strip()
    done = subprocess.run([make_itself, "browser"], cwd=ROOT, capture_output=True, text=True, env={"PATH": str(folder)})
    assert (done.stdout.splitlines(), done.stderr) == (lines, "")
    add("chromium", "exit 1")
    done = subprocess.run([make_itself, "browser"], cwd=ROOT, capture_output=True, text=True, env={"PATH": str(folder)})
    assert (done.stdout, done.stderr) == ("", ""), "nothing to install, nothing to say"
