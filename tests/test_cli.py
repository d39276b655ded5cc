"""The commands as a reader types them: what they print, and that bad input ends in a clear message."""

import contextlib
import io
import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import picogpt
import picogpt.cli
import picogpt_core as pc

TRAIN = ["train", "--preset", "tiny", "--text", "text.txt", "--recipe.steps", "8", "--recipe.eval-every", "4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, sonnet):
    """The folder of a tiny model on a small text, trained by the command, and what that printed."""
    folder, printed = tmp_path_factory.mktemp("cli"), io.StringIO()
    (folder / "text.txt").write_text(sonnet)
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        assert picogpt.cli.main([*TRAIN, "--out", "run"]) == 0
    return folder, printed.getvalue()


@pytest.fixture
def run(trained, monkeypatch, capsys):
    """Runs a command in that folder and returns what it printed. In this process: a new one takes seconds to start."""
    monkeypatch.chdir(trained[0])

    def run(*arguments):
        assert picogpt.cli.main(arguments) == 0
        return capsys.readouterr().out

    return run


def test_train_prints_losses_and_the_path_of_a_picture(trained):
    folder, out = trained
    assert re.search(r"train \d\.\d{4} \(its first", out)
    assert re.search(r"validation \d\.\d{4} \(all", out)
    picture = re.search(r"loss curve: (\S+)", out)[1]
    assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_eval_prints_the_loss_that_training_printed(trained, run):
    loss = re.search(r"validation (\d\.\d{4})", trained[1])[1]
    assert f"validation loss {loss}" in run("eval", "--checkpoint", "run", "--text", "text.txt")


def test_sample_continues_the_prompt_and_repeats_with_a_seed(run):
    arguments = ["sample", "--checkpoint", "run", "--prompt", "Shall", "--sample.max-new-tokens", "20", "--sample.seed"]
    one, again, other = (run(*arguments, seed) for seed in "112")
    assert one.startswith("Shall")
    assert len(one) == 5 + 20 + 1
    assert one == again != other


@pytest.mark.slow
def test_sample_writes_the_same_when_compiled_and_prints_nothing_else(trained, monkeypatch, capfd):
    monkeypatch.chdir(trained[0])
    line = ["sample", "--checkpoint", "run", "--prompt", "Shall I", "--sample.max-new-tokens", "40", "--sample.seed", "1"]
    assert picogpt.cli.main(line) == 0
    plain = capfd.readouterr()
    assert picogpt.cli.main([*line, "--compile"]) == 0
    assert capfd.readouterr() == plain


def test_params_prints_the_golden_sum(run):
    assert run("params").split()[-1] == "2,466,369"
    assert run("params", "--model.n-layer", "6").split()[-1] == "4,833,345"


def clock(durations):
    """What a clock shows that is read at the begin and at the end of each duration, and stands still in between."""
    now = 0.0
    for seconds in durations:
        yield now
        now += seconds
        yield now


def test_seconds_become_steps_at_the_measured_rate(trained, run, monkeypatch):
    """Steps of a quarter of a second, by a clock of ours, after two slow ones: 2 seconds are 8 steps."""
    ticks = clock(itertools.chain([5.0, 3.0], itertools.repeat(0.25)))
    monkeypatch.setattr(sys.modules["picogpt.train"], "time", SimpleNamespace(perf_counter=ticks.__next__))
    assert " parameters, 8 steps, " in run(*TRAIN[:5], "--seconds", "2", "--out", "timed")
    timed = picogpt.load_rows(trained[0] / "timed" / "history.csv")
    assert timed[-1]["seconds"] == 2
    assert [row["step"] for row in timed if row["val_loss"]] == [2, 4, 6, 8], "evaluated about five times"
    (at_eight,) = (row for row in picogpt.load_rows(trained[0] / "run" / "history.csv") if row["step"] == 8)
    assert timed[-1]["val_loss"] == at_eight["val_loss"], "the steps that were measured left no trace in the model"


def test_a_machine_that_is_busy_for_a_moment_does_not_make_the_training_short(run, monkeypatch):
    ticks = clock([3.0] * 20 + [0.25] * 16)
    monkeypatch.setattr(sys.modules["picogpt.train"], "time", SimpleNamespace(perf_counter=ticks.__next__))
    corpus, recipe = picogpt.load_corpus("To be, or not to be. " * 50), pc.TrainConfig(device="cpu", dtype="float32")
    model = pc.GPT(pc.ModelConfig(corpus.tokenizer.vocab_size, 8, 1, 1, 8))
    assert picogpt.cli.steps_in(1000.0, model, corpus, recipe) == 1000 / 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["params", "--preset", "picogtp"], "no preset is called 'picogtp': did you mean 'picogpt'"),
        ([*TRAIN, "--out", "run"], "holds a training: continue it"),
        ([*TRAIN, "--out", "text.txt/run"], "cannot write into text.txt/run"),
        ([*TRAIN, "--out", "new", "--resume"], "there is no checkpoint at new/last.safetensors"),
        ([*TRAIN, "--out", "new", "--model.n-head", "5"], "n_embd=32 is not divisible by n_head=5"),
        ([*TRAIN, "--out", "new", "--recipe.learning-rate", "nan"], "learning_rate=nan must be a number"),
        ([*TRAIN, "--out", "new", "--model.block-size", "4000"], "needs at least 4001"),
        ([*TRAIN, "--out", "new", "--seconds", "-1"], "seconds=-1.0 must be"),
        ([*TRAIN, "--out", "new", "--recipe.device", "tpu"], "device 'tpu' is not on this machine"),
        (["train", "--text", "none.txt", "--out", "new"], "there is no text file at none.txt"),
        (["sample", "--checkpoint", "none"], "there is no checkpoint at none"),
        (["sample", "--checkpoint", "text.txt"], "text.txt cannot be read as safetensors"),
        (["sample", "--checkpoint", "run", "--prompt", ""], "the prompt is empty"),
        (["sample", "--checkpoint", "run", "--prompt", "Zoë"], "'Z' (U+005A) at position 0 is not among"),
        (["sample", "--checkpoint", "run", "--sample.top-k", "0"], "top_k=0 must be"),
        (["sample", "--checkpoint", "run", "--sample.temperature", "-1"], "temperature=-1.0 must be"),
        (["eval", "--checkpoint", "run"], "'F' (U+0046) at position 0 is not among the 24 characters"),
    ],
)
def test_bad_input_ends_in_a_clear_message_and_leaves_nothing(trained, arguments, message, monkeypatch, capsys):
    monkeypatch.chdir(trained[0])
    try:
        status = picogpt.cli.main(arguments)
    except SystemExit as stop:  # tyro's
        status = stop.code
    assert status == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", "").split())  # tyro draws a frame around some
    assert not (trained[0] / "new").exists()


@pytest.mark.slow
def test_the_process_ends_with_the_status_of_the_command(trained):
    def command(*arguments):
        line = [sys.executable, "-m", "picogpt", *arguments]
        return subprocess.run(line, cwd=trained[0], capture_output=True, text=True, timeout=120)

    done = command("params")
    assert (done.returncode, done.stdout.split()[-1], done.stderr) == (0, "2,466,369", "")
    for arguments in (["sample", "--checkpoint", "none"], ["params", "--model.n-head", "x"]):
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr
        assert "Traceback" not in done.stderr


@pytest.fixture
def run_again(trained, monkeypatch, capsys, tmp_path):
    """The trained folder, copied, and a function that runs a command there: its status and what it printed to stderr."""
    folder, _ = trained
    shutil.copytree(folder, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")

    def run(*words):
        status = picogpt.cli.main(list(words))
        return status, capsys.readouterr().err

    return run


def test_resume_takes_the_command_that_started_the_training(run_again):
    assert run_again(*TRAIN, "--out", "run", "--resume")[0] == 0
    assert run_again("train", "--text", "text.txt", "--out", "run", "--resume")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe.steps", "50"], "leave out --recipe.steps 50 (stored: 8)"),
        (["--preset", "demo"], "leave out --model.block-size 128 (stored: 32)"),
        (["--bpe", "300"], "leave out --bpe 300 (stored: 24)"),
    ],
)
def test_resume_refuses_what_it_would_ignore(run_again, words, message):
    status, err = run_again("train", "--text", "text.txt", "--out", "run", "--resume", *words)
    assert status == 2
    assert message in err


def test_a_vocabulary_size_that_the_text_decides_is_refused(run_again):
    status, err = run_again(*TRAIN, "--out", "new", "--model.vocab-size", "99")
    assert (status, Path("new").exists()) == (2, False)
    assert "--model.vocab-size 99: it follows from the text" in err
