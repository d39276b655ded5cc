"""The commands as a reader types them: what they print, and that bad input ends in a clear message."""

import re
import subprocess
import sys

import pytest

import picogpt
import picogpt.cli


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny model on a small text, trained by the command, from another folder."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text("Shall I compare thee to a summer's day?\nThou art more lovely\n" * 60)
    done = command(folder, *TRAIN, "--out", "run")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


TRAIN = ["train", "--preset", "tiny", "--text", "text.txt", "--recipe.steps", "8", "--recipe.eval-every", "4"]


def command(folder, *words):
    line = [sys.executable, "-m", "picogpt", *words]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120)


def test_train_prints_losses_and_the_path_of_a_picture(trained):
    folder, out = trained
    assert re.search(r"train \d\.\d{4} \(its first", out)
    assert re.search(r"validation \d\.\d{4} \(all", out)
    picture = re.search(r"loss curve: (\S+)", out)[1]
    assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_eval_prints_the_loss_that_training_printed(trained):
    folder, out = trained
    loss = re.search(r"validation (\d\.\d{4})", out)[1]
    assert f"validation loss {loss}" in command(folder, "eval", "--checkpoint", "run", "--text", "text.txt").stdout


def test_sample_continues_the_prompt_and_repeats_with_a_seed(trained):
    folder, _ = trained
    words = ["sample", "--checkpoint", "run", "--prompt", "Shall", "--sample.seed", "1", "--sample.max-new-tokens", "20"]
    one, two = command(folder, *words), command(folder, *words)
    assert one.stdout.startswith("Shall")
    assert len(one.stdout) == 5 + 20 + 1
    assert one.stdout == two.stdout


def test_params_prints_the_golden_sum(tmp_path):
    assert command(tmp_path, "params").stdout.split()[-1] == "2,466,369"
    assert command(tmp_path, "params", "--model.n-layer", "6").stdout.split()[-1] == "4,833,345"


def test_seconds_choose_the_steps(trained):
    folder, _ = trained
    done = command(folder, *TRAIN[:5], "--seconds", "2", "--out", "timed")
    assert done.returncode == 0, done.stderr
    seconds = picogpt.load_rows(folder / "timed" / "history.csv")[-1]["seconds"]
    assert 0.3 < seconds < 12, "about 2 seconds, on a machine that others use too"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["params", "--preset", "picogtp"], "no preset is called 'picogtp': did you mean 'picogpt'"),
        ([*TRAIN, "--out", "run"], "holds a training: resume it"),
        ([*TRAIN, "--out", "text.txt/run"], "cannot write into text.txt/run"),
        ([*TRAIN, "--out", "new", "--resume"], "there is no checkpoint at new/last.safetensors"),
        ([*TRAIN, "--out", "new", "--model.n-head", "5"], "n_embd=32 cannot be shared equally by n_head=5"),
        ([*TRAIN, "--out", "new", "--recipe.learning-rate", "nan"], "learning_rate=nan must be a number"),
        ([*TRAIN, "--out", "new", "--model.block-size", "4000"], "needs at least 4001"),
        ([*TRAIN, "--out", "new", "--seconds", "-1"], "seconds=-1.0 must be"),
        ([*TRAIN, "--out", "new", "--recipe.device", "tpu"], "device 'tpu' is not on this machine"),
        (["train", "--text", "none.txt", "--out", "new"], "No such file or directory: 'none.txt'"),
        (["sample", "--checkpoint", "none"], "there is no checkpoint at none"),
        (["sample", "--checkpoint", "text.txt"], "text.txt cannot be read as safetensors"),
        (["sample", "--checkpoint", "run", "--prompt", ""], "the prompt is empty"),
        (["sample", "--checkpoint", "run", "--prompt", "Zoë"], "'Z' (U+005A) at position 0 is not among"),
        (["sample", "--checkpoint", "run", "--sample.top-k", "0"], "top_k=0 must be"),
        (["sample", "--checkpoint", "run", "--sample.temperature", "-1"], "temperature=-1.0 must be"),
        (["eval", "--checkpoint", "run"], "was trained on a text with other characters"),
    ],
)
def test_bad_input_ends_in_a_clear_message_and_leaves_nothing(trained, words, message, monkeypatch, capsys):
    """In this process, for a new one takes seconds to start; the last test of this file starts one."""
    folder, _ = trained
    monkeypatch.chdir(folder)
    try:
        status = picogpt.cli.main(words)
    except SystemExit as stop:  # tyro's
        status = stop.code
    assert status == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", "").split())  # tyro draws a frame around some
    assert not (folder / "new").exists()


def test_the_exit_status_of_the_process_tells_of_a_mistake(trained):
    folder, _ = trained
    for words in (["sample", "--checkpoint", "none"], ["params", "--model.n-head", "x"]):
        done = command(folder, *words)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
