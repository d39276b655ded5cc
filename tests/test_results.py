"""docs/results.md and README.md say what the stored runs say, and a number that is changed is noticed."""

import shutil

import pytest

import lessons
import picogpt
import results
from picogpt_doctor import guard

# one stored number each: table, rows it is in, column, and the parts of the pages that must change with it
NUMBERS = [
    ("best", {"seed": 1337, "step": 5000}, "val_loss", [results.best, results.claims, results.reaches]),
    ("best", {"seed": 1338}, "seconds", [results.best]),
    ("best", {"seed": 1338}, "calibrated_loss", [results.best, results.reaches]),
    ("lengths", {"variant": "dropout 0.3"}, "temperature", [results.lengths]),
    ("ingredients_long", {"variant": "AdamW, rate 0.008"}, "val_loss", [results.ingredients]),
    ("dropout", {"variant": "dropout, 400 steps"}, "val_loss", [results.dropout]),
    ("split", {"variant": "nine tenths, 400 steps"}, "val_loss", [results.split]),
    ("reciting", {"step": 1000}, "recited_train", [results.reciting]),
    ("architecture", {"variant": "no mask", "step": 400}, "val_loss", [results.trained_alike, results.claims]),
    ("architecture", {"variant": "pre, no bias", "step": 400}, "val_loss", [results.trained_alike]),
    ("architecture", {"variant": "trained on 64", "step": 400}, "loss_part_7", [results.claims]),
    ("architecture_adamw", {"variant": "pre", "step": 400}, "val_loss", [results.trained_alike]),
    (
        "placement_picogpt",
        {"variant": "gpt2, pre", "seed": 1338, "step": 1200},
        "val_loss",
        [results.placement, results.claims],
    ),
    ("biases", {"variant": "post, no bias", "seed": 1338, "step": 400}, "val_loss", [results.biases, results.claims]),
    ("biases_since_gpt2", {"variant": "QK-norm", "seed": 1338, "step": 400}, "val_loss", [results.biases]),
    ("since_gpt2", {"variant": "SwiGLU", "step": 400}, "val_loss", [results.since_gpt2]),
    ("since_gpt2_long", {"variant": "rotary positions", "step": 2000}, "val_loss", [results.since_gpt2]),
    ("memorising", {"variant": "6 layers"}, "val_loss", [results.memorisation, results.claims]),
    ("memorising", {"variant": "3 layers"}, "train_loss", [results.memorisation, results.claims]),
    ("scaling", {"variant": "width 128"}, "val_loss", [results.scaling]),
    ("isoflop_held_out", {"parameters": 65729}, "val_loss", [results.isoflop]),
    ("demo", {}, "val_loss", [results.demo]),
    ("bench_lessons", {"lesson": "00_start_here", "budget": "quick"}, "seconds", [results.lesson_times, results.lesson_table]),
    ("bench_lessons", {"lesson": "00_start_here", "budget": "full"}, "seconds", [results.lesson_times]),
    ("bench_training", {"what": "ours, Muon, bfloat16"}, "tokens_per_second", [results.training_speed]),
    ("bench_training", {}, "float32_peak_gflops", [results.training_speed]),
    ("profile_training", {"operation": "attention"}, "bfloat16", [results.training_speed]),
    ("bench_time_to_loss", {"what": "ours"}, "seconds", [results.time_to_loss, results.reaches]),
    ("bench_time_to_loss", {"what": "nanoGPT's CPU recipe"}, "val_loss", [results.time_to_loss]),
    ("bench_generation", {"what": "6 layers: ours, cache"}, "characters_per_second", [results.writing_speed]),
    ("bench_gpt2_memory", {"way": "ours, from the folder"}, "peak_copies", [results.gpt2]),
]


@pytest.fixture
def copied_runs(tmp_path, monkeypatch):
    """The stored runs in a folder of their own, which the tool reads."""
    shutil.copytree(picogpt.DATA / "runs", tmp_path / "runs")
    monkeypatch.setattr(results, "RUNS", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def copied_readme(tmp_path, monkeypatch):
    file = tmp_path / "README.md"
    shutil.copy(results.README, file)
    monkeypatch.setattr(results, "README", file)
    return file


def change(folder, name, where, column, factor=1.05):
    """Multiply a column in all rows that agree with `where`."""
    rows = picogpt.load_rows(folder / f"{name}.csv")
    changed = [row for row in rows if row[column] and where.items() <= row.items()]
    assert changed, "no such row"
    for row in changed:
        row[column] = type(row[column])(row[column] * factor)
    picogpt.save_rows(folder / f"{name}.csv", rows)


def test_every_number_is_that_of_the_stored_runs(capsys):
    assert results.main(["--check"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(("name", "where", "column", "parts"), NUMBERS)
def test_another_number_in_a_run_changes_what_is_written(copied_runs, name, where, column, parts):
    before = [part() for part in parts]
    change(copied_runs, name, where, column, 1.1 if name == "bench_lessons" else 1.05)  # its seconds are rounded to whole ones
    assert [part.__name__ for part, text in zip(parts, before, strict=True) if part() == text] == []


def test_no_loss_of_ours_is_below_what_lesson_03_calls_credible():
    rows = [row for name in ("best", "best_cpu", "ten_minutes") for row in picogpt.load_rows(results.RUNS / f"{name}.csv")]
    assert min(row.get("calibrated_loss") or row["val_loss"] or 9 for row in rows) > 1.39


def test_another_number_in_a_run_fails_the_check(copied_runs):
    assert results.stale() == []
    change(copied_runs, "best", {"seed": 1339, "step": 5000}, "val_loss")
    assert results.stale() == [results.RESULTS, results.README]
    assert results.main(["--check"]) == 1


def test_another_number_in_the_readme_is_noticed_and_written_back(copied_readme):
    text = copied_readme.read_text()
    copied_readme.write_text(text.replace("**1.4341**", "**1.3341**"))
    assert copied_readme.read_text() != text
    assert results.stale() == [copied_readme]
    assert results.filled(copied_readme.read_text()) == text


def test_the_doctors_page_lists_the_checks_that_there_are():
    text = results.DOCTOR.read_text(encoding="utf-8")
    unbroken = " ".join(text.split())
    assert results.filled(text, results.DOCTOR_PARTS, "doctor.md") == text
    for name, (kind, _) in guard.all_checks().items():
        assert f"\n| {name} | " in text or f"*{name}*" in text, f"the {kind}'s check {name} is not on the page"
    for option in ("--generate", "--new-cache", "--golden", "--seconds", "--total-seconds", "--block-size", "--eos"):
        assert f"`{option} " in text
    facts = {name: guard.facts_of(name) for name in guard.all_checks()}
    warn = [f"*{name}*" for name in facts if not facts[name].fails]
    assert f" {results.in_words(len(warn)).capitalize()} checks never do more than warn: {results.listed(warn)}." in unbroken
    for kind in ("step", "batch", "checkpoint"):
        (name,) = (name for name, (of, _) in guard.all_checks().items() if of == kind and facts[name].essential)
        assert f"*{name}* of a {kind}" in unbroken


def test_what_stands_outside_the_markers_is_the_writers_own(copied_readme):
    copied_readme.write_text(copied_readme.read_text().replace("## Lessons", "## The lessons"))
    assert results.stale() == []


def test_a_lost_marker_is_named(copied_readme):
    text = copied_readme.read_text()
    with pytest.raises(ValueError, match="README.md should hold once: <!-- claims: begin"):
        results.filled(text.replace("<!-- claims: end -->", ""))
    with pytest.raises(ValueError, match="should hold once: <!-- demo: begin"):
        results.filled(text + text)


def test_a_conclusion_that_no_longer_holds_stops_the_tool(copied_runs):
    change(copied_runs, "architecture", {"variant": "post"}, "val_loss", factor=0.9)
    with pytest.raises(ValueError, match="no longer show that with Muon Post-LN ends higher"):
        results.pages()


def test_every_lesson_was_timed_and_is_quick_when_asked():
    took = results.lesson_seconds()
    for script in lessons.scripts():
        times = took.get(script.stem, {})
        assert {"quick", "full"} <= set(times), f"python benchmarks/lesson_times.py {script.stem[:2]}, at both budgets"
        assert times["quick"] <= 60, script.stem
