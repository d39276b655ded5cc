"""Training: what a step does, that it can be stopped at any moment and resumed bit by bit, and how it fails."""

import copy
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from torch import nn

import picogpt
import picogpt_core as pc

LOOP = sys.modules["picogpt.train"]  # the module: picogpt.train is its function
FAST = pc.TrainConfig(steps=12, batch_size=4, eval_every=5, log_every=2, warmup_steps=3, device="cpu", dtype="float32")


posix = pytest.mark.skipif(os.name != "posix", reason="Linux and macOS only: it sends signals to processes")
linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="Linux only: processes are found in /proc")


def without_seconds(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def changed(**fields):
    return dataclasses.replace(FAST, **fields)


# ----- what a step does


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_small_text_can_be_memorised(make_model, small, optimizer):
    model = make_model(n_embd=32, n_layer=1)
    run = picogpt.train(model, small, changed(steps=150, batch_size=8, eval_every=150, optimizer=optimizer), progress=False)
    assert run.val_losses[-1][1] < 1, "the validation text repeats the training text: it must become predictable"


@pytest.mark.parametrize("tied", [False, True])
def test_weight_decay_applies_to_the_matrices_only(make_model, tied):
    model = make_model(tied_head=tied, head_bias=not tied)
    names = {id(p): name for name, p in model.named_parameters()}
    optimizers = pc.make_optimizers(model, changed(weight_decay=0.5))
    decayed, left_alone = set(), set()
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        (decayed if group["weight_decay"] else left_alone).update(names[id(p)] for p in group["params"])
    stacks = {names[id(p)]: group["stack"] for group in optimizers[1].param_groups for p in group["params"]}
    assert {name for name, stack in stacks.items() if stack == 3} == {f"h.{i}.attn.c_attn.weight" for i in (0, 1)}
    matrices = {f"h.{i}.{part}.weight" for i in (0, 1) for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")}
    assert decayed == matrices | (set() if tied else {"lm_head.weight"})
    assert decayed | left_alone == set(names.values())
    assert not decayed & left_alone


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weight_decay_can_apply_to_everything(make_model, optimizer):
    model = make_model(bias=True)
    optimizers = pc.make_optimizers(model, changed(optimizer=optimizer, weight_decay=0.3, decay="all"))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    assert {group["weight_decay"] for group in groups} == {0.3}
    assert sum(p.numel() for group in groups for p in group["params"]) == pc.count_parameters(model)


def test_label_smoothing_is_the_cross_entropy_with_softened_targets(make_model, small):
    x, y = pc.get_batch(small.train, 3, 16, torch.Generator().manual_seed(0))
    model, V, s = make_model().eval(), small.tokenizer.vocab_size, 0.2
    wanted = nn.functional.one_hot(y, V) * (1 - s) + s / V  # (B, T, V)
    loss = -(wanted * model(x).log_softmax(dim=-1)).sum(dim=-1).mean()
    assert pc.cross_entropy(model(x), y, label_smoothing=s).item() == pytest.approx(loss.item(), abs=1e-5)
    run = picogpt.train(model, small, changed(steps=1, log_every=1, label_smoothing=s), progress=False)
    plain = picogpt.train(make_model(), small, changed(steps=1, log_every=1), progress=False)
    assert run.history[0]["train_loss"] != plain.history[0]["train_loss"]


def test_training_equals_a_plain_loop_with_adamw(make_model, small):
    """Batches, schedule, clipping and decay groups against the same in plain PyTorch."""
    config = changed(steps=6, optimizer="adamw", grad_clip=0.3, weight_decay=0.1, schedule="cosine")
    ours, theirs = make_model(), make_model()
    picogpt.train(ours, small, config, progress=False)
    matrices = [m.weight for m in theirs.modules() if isinstance(m, nn.Linear)]
    rest = [p for p in theirs.parameters() if all(p is not m for m in matrices)]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1.0, betas=(config.beta1, config.beta2))
    draw = torch.Generator().manual_seed(config.seed)
    for step in range(6):
        warm = (step + 1) / 3 if step < 3 else 0.05 + 0.95 * (1 + math.cos(math.pi * (step - 3) / 2)) / 2
        for group in adamw.param_groups:
            group["lr"] = 3e-3 * warm
        start = torch.randint(len(small.train) - 16, (4,), generator=draw)
        x = torch.stack([small.train[s : s + 16] for s in start])
        y = torch.stack([small.train[s + 1 : s + 17] for s in start])
        adamw.zero_grad()
        nn.functional.cross_entropy(theirs(x).transpose(1, 2), y).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.3)
        adamw.step()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), name


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_muon_equals_torch_muon_up_to_its_bfloat16():
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.zeros(48, 16)), None
    theirs = nn.Parameter(ours.detach().clone())
    a = pc.Muon([ours], lr=0.1, weight_decay=0.2)
    b = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.2, momentum=0.95)
    for _ in range(4):
        grad = torch.randn(48, 16)
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        a.step()
        b.step()
    assert (ours - theirs).norm() < 0.03 * ours.norm(), "they started from zero: all of it is steps"


def test_muon_treats_query_key_and_value_as_three_matrices():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(48, 16))
    weight.grad = torch.randn(48, 16)
    pc.Muon([{"params": [weight], "stack": 3}], lr=1.0).step()
    for part in weight.detach().chunk(3):
        values = torch.linalg.svdvals(part)
        assert values.min() > 0.3, "each of the three moves in all directions"
        assert values.max() < 1.3


def test_gradient_accumulation_makes_the_same_step(make_model, small):
    whole, in_micro_batches = make_model(), make_model()
    one = picogpt.train(whole, small, changed(batch_size=8), progress=False)
    four = picogpt.train(in_micro_batches, small, changed(batch_size=8, grad_accum=4), progress=False)
    for a, b in zip(one.history, four.history, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)


def test_a_row_of_the_history_is_the_mean_since_the_row_before(make_model, small):
    each = [row["train_loss"] for row in picogpt.train(make_model(), small, changed(log_every=1), progress=False).history]
    rows = picogpt.train(make_model(), small, changed(log_every=3, eval_every=5), progress=False).history
    assert [row["step"] for row in rows] == [3, 5, 6, 9, 10, 12]
    edges = [0, *(row["step"] for row in rows)]
    for start, end, row in zip(edges, edges[1:], rows, strict=False):
        assert row["train_loss"] == pytest.approx(sum(each[start:end]) / (end - start), abs=1e-6)
        assert row["tokens"] == end * 4 * 16


def test_every_row_is_reported_with_the_model(make_model, small):
    seen, model = [], make_model()
    run = picogpt.train(model, small, FAST, progress=False, on_row=lambda row, net: seen.append((row, net)))
    assert [row for row, _ in seen] == run.history
    assert all(net is model for _, net in seen)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_learning_rate_warms_up_stays_and_falls_to_its_end(schedule):
    config = pc.TrainConfig(steps=100, warmup_steps=10, decay_fraction=0.4, final_lr_fraction=0.05, schedule=schedule)
    rate = [pc.learning_rate_at(step, config) for step in range(100)]
    assert rate[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rate[10:61] == [1.0] * 51
    assert rate[-1] == pytest.approx(1.0 if schedule == "constant" else 0.05)
    assert rate[10:] == sorted(rate[10:], reverse=True)


LOG = """number of parameters: 10.65M
step 0: train loss 4.2874, val loss 4.2823
iter 0: loss 4.2650, time 31264.36ms, mfu -100.00%
iter 10: loss 3.1462, time 17081.11ms, mfu 0.87%
[rank0] iter 490: loss 1.2073, time 17068.56ms, mfu 0.85%
step 500: train loss 1.0899, val loss 1.4640
saving checkpoint to out-shakespeare-char
iter 500: loss nan, time 17068.56ms, mfu 0.85%
"""


def test_a_console_log_of_nanogpt_is_read_and_drawn():
    rows = picogpt.read_nanogpt_log(LOG)
    assert [(r["step"], r["train_loss"]) for r in rows if r["train_loss"]][:3] == [(0, 4.265), (10, 3.1462), (490, 1.2073)]
    assert math.isnan(rows[-1]["train_loss"])
    assert [(r["step"], r["train_estimate"], r["val_loss"]) for r in rows if r["val_loss"]] == [
        (0, 4.2874, 4.2823),
        (500, 1.0899, 1.4640),
    ]
    ax = picogpt.plot_history(plt.figure().subplots(), rows, "nanoGPT")
    assert [list(line.get_xdata()) for line in ax.lines] == [[0, 10, 490, 500], [0, 500]]
    with pytest.raises(ValueError, match="no line like 'iter 490"):
        picogpt.read_nanogpt_log("epoch 3: loss 1.0")


def test_seq_len_trains_on_shorter_windows(make_model, small):
    model = make_model()
    before = model.wpe.weight.detach().clone()
    picogpt.train(model, small, changed(seq_len=8), progress=False)
    moved = (model.wpe.weight - before).abs().amax(dim=1) > 0  # (block_size,)
    assert moved[:8].all()
    assert not moved[8:].any(), "positions past the window are never trained"


def test_bfloat16_trains_close_to_float32(make_model, small):
    both = [picogpt.train(make_model(), small, changed(dtype=d), progress=False) for d in ("float32", "bfloat16")]
    losses = [run.history[-1]["train_loss"] for run in both]
    assert losses[0] != losses[1], "bfloat16 must change something"
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_compiled_training_is_the_same(make_model, small, monkeypatch):
    """Traced and differentiated by torch.compile; the last stage, which needs a C++ compiler, is left out."""
    original, calls = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda model: calls.append(1) or original(model, backend="aot_eager"))
    plain = picogpt.train(make_model(), small, changed(steps=3), progress=False)
    compiled = picogpt.train(make_model(), small, changed(steps=3, compile=True), progress=False)
    assert plain.history[-1]["train_loss"] == pytest.approx(compiled.history[-1]["train_loss"], abs=1e-4)
    assert calls == [1]


# ----- evaluation


@pytest.mark.parametrize("length", [2, 16, 17, 18, 100, 405])
def test_evaluate_predicts_every_token_but_the_first_once(make_model, small, length):
    model = make_model().eval()
    ids = small.val[:length]
    total = 0.0
    for start in range(0, length - 1, 16):
        window = ids[start : start + 17]
        logprobs = model(window[None, :-1]).log_softmax(-1)[0]
        total -= logprobs.gather(1, window[1:, None]).sum().item()
    assert pc.evaluate(model, ids, batch_size=3) == pytest.approx(total / (length - 1), abs=1e-5)


@pytest.mark.parametrize("sure", [0.5, 1.0, 1.4])
def test_the_calibration_temperature_has_the_lowest_loss_and_follows_the_logits(make_model, small, sure):
    torch.manual_seed(0)
    model = make_model()
    picogpt.train(model, small, changed(steps=60), progress=False)
    before = pc.calibration_temperature(model, small.val)
    with torch.no_grad():
        model.lm_head.weight.mul_(sure)
        model.lm_head.bias.mul_(sure)
    temperature = pc.calibration_temperature(model, small.val)
    assert temperature == pytest.approx(before * sure, abs=0.002)
    losses = {t: pc.evaluate(model, small.val, temperature=t) for t in (temperature * 0.97, temperature, temperature * 1.03)}
    assert min(losses, key=losses.get) == temperature
    assert pc.evaluate(model, small.val, temperature=1.0) == pc.evaluate(model, small.val)


def test_no_temperature_is_found_where_none_matters(make_model, small):
    model = make_model()
    nn.init.zeros_(model.lm_head.weight)
    nn.init.zeros_(model.lm_head.bias)
    with pytest.raises(ValueError, match="no temperature changes the loss"):
        pc.calibration_temperature(model, small.val)


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_ignores_dropout_and_restores_the_mode(make_model, small, training):
    model = make_model(resid_dropout=0.5, embd_dropout=0.5, attn_dropout=0.5).train(training)
    assert pc.evaluate(model, small.val) == pc.evaluate(model, small.val)
    assert model.training is training


# ----- stop and resume


def interrupt_after(steps, monkeypatch):
    """Send a real SIGINT to this process in the middle of the given step."""
    left = [steps]

    def counting(*args):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return pc.get_batch(*args)

    monkeypatch.setattr(LOOP, "get_batch", counting)  # called once a step


@posix
@pytest.mark.parametrize("stop_at", [1, 4, 5, 7, 11])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_ctrl_c_saves_and_resuming_is_bitwise_as_if_never_stopped(make_model, small, tmp_path, monkeypatch, stop_at, optimizer):
    config = changed(optimizer=optimizer)
    whole = make_model(resid_dropout=0.2)
    expected = picogpt.train(whole, small, config, tmp_path / "whole", progress=False)

    stopped = make_model(resid_dropout=0.2)
    with monkeypatch.context() as patch:
        interrupt_after(stop_at, patch)
        with pytest.raises(KeyboardInterrupt, match=f"stopped after step {stop_at} of .* continue with resume=True"):
            picogpt.train(stopped, small, config, tmp_path / "parts", progress=False)
    torch.randn(7)  # the random state in between must not matter
    resumed = make_model(seed=99, resid_dropout=0.2)
    run = picogpt.train(resumed, small, config, tmp_path / "parts", resume=True, progress=False)

    assert without_seconds(run.history) == without_seconds(expected.history)
    for (name, a), b in zip(resumed.named_parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b), name
    last = [picogpt.load_checkpoint(tmp_path / part / "last.safetensors") for part in ("whole", "parts")]
    assert all(torch.equal(last[0].tensors[name], last[1].tensors[name]) for name in last[0].tensors)


@posix
def test_a_second_ctrl_c_stops_at_once_and_the_handler_is_restored():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), picogpt.machine.defer_interrupt() as interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupted.wait(1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


KILLS = 8


def train_a_little(out, text, began=None, saves=None, most_bytes=None):
    """In a process of its own: 40 steps with a checkpoint at every second one, from the start or from where it was.

    `began` is released whenever a save begins; after `saves` of them it waits to be killed. With `most_bytes` the kernel
    kills it as it writes the next byte of a file.
    """
    corpus = picogpt.load_corpus(text)
    torch.manual_seed(0)
    model = pc.GPT(pc.ModelConfig(corpus.tokenizer.vocab_size, 16, 2, 2, 16, resid_dropout=0.1))
    save, count = LOOP.save_best_and_last, itertools.count()

    def announced(*arguments):
        began.release()
        if next(count) == saves:
            time.sleep(600)
        save(*arguments)

    if began is not None:
        LOOP.save_best_and_last = announced  # in this process only
    if most_bytes is not None:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    picogpt.train(model, corpus, changed(steps=40, eval_every=2), out, (out / "last.safetensors").exists(), progress=False)


@posix
@pytest.mark.slow
def test_a_run_killed_anywhere_in_a_save_resumes_to_the_same_end(tmp_path, sonnet):
    """At moments spread over a save and the steps after it; and at bytes of both files, which no moment would hit for sure."""
    fork = multiprocessing.get_context("forkserver")  # a process that has torch already, and forks in no time
    fork.set_forkserver_preload(["picogpt", "test_training", "torch._dynamo"])  # the last: the first optimizer imports it

    def start(out, **how):
        process = fork.Process(target=train_a_little, args=(out, sonnet), kwargs=how)
        process.start()
        return process

    def end(process):
        process.join()
        return process.exitcode

    def history(out):
        picogpt.load_checkpoint(out / "best.safetensors")
        return without_seconds(picogpt.load_checkpoint(out / "last.safetensors").about["history"])

    whole, run, began, moments = tmp_path / "whole", tmp_path / "run", fork.Semaphore(0), []
    process = start(whole, began=began)
    for _ in range(20):
        assert began.acquire(timeout=60)
        moments.append(time.perf_counter())
    assert end(process) == 0
    expected = history(whole)
    period = sorted(later - sooner for sooner, later in itertools.pairwise(moments))[10]

    for i in range(KILLS):
        began = fork.Semaphore(0)
        process = start(run, began=began, saves=2)
        for _ in range(1 + (i == 0)):  # before the first save is done there is nothing to resume
            assert began.acquire(timeout=60)
        time.sleep(period * i / KILLS)
        process.kill()
        assert end(process) == -signal.SIGKILL
        saved = history(run)
        assert saved == expected[: len(saved)]
    sizes = [(run / name).stat().st_size for name in ("best.safetensors", "last.safetensors")]  # with the next row they grow
    for most in (0, sizes[0] // 2, sizes[1] // 2, sizes[1]):
        assert end(start(run, most_bytes=most)) == -signal.SIGXFSZ
        assert history(run) == saved, f"killed after {most} bytes"
    assert end(start(run)) == 0
    assert history(run) == expected


# ----- several processes

NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}  # each process would need one of its own


def torchrun(folder, *arguments):
    command = ["-m", "picogpt", "train", "--preset", "tiny", "--text", "text.txt", "--recipe.dtype", "float32", *arguments]
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | NO_GPU
    return subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_two_processes_give_the_history_of_one(text_folder):
    arguments = ["--recipe.steps", "20", "--recipe.eval-every", "5", "--recipe.grad-accum", "2", "--out"]
    process = torchrun(text_folder, *arguments, "two")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("loss curve") == 1, "one process reports"
    line = [sys.executable, "-m", "picogpt", "train", "--preset", "tiny", "--text", "text.txt", "--recipe.dtype", "float32"]
    subprocess.run([*line, *arguments, "one"], cwd=text_folder, check=True, capture_output=True, env=os.environ | NO_GPU)
    one, two = (picogpt.load_rows(text_folder / name / "history.csv") for name in ("one", "two"))
    assert [row["step"] for row in one] == [row["step"] for row in two] == [5, 10, 15, 20]
    for a, b in zip(one, two, strict=True):
        for key in ("train_loss", "val_loss", "grad_norm"):
            assert a[key] == pytest.approx(b[key], abs=1e-5), key


@linux
@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_with_a_message_and_a_checkpoint_to_resume(text_folder):
    arguments = ["--recipe.steps", "3000", "--recipe.eval-every", "10", "--out", "run"]
    process = torchrun(text_folder, *arguments)
    deadline = time.time() + 60
    while not (text_folder / "run" / "last.safetensors").exists() and time.time() < deadline:
        time.sleep(0.05)
    assert (text_folder / "run" / "last.safetensors").exists(), "no checkpoint within a minute"
    listed = subprocess.check_output(["pgrep", "-P", str(process.pid)], text=True).split()
    victim = next(pid for pid in listed if "RANK=1" in Path(f"/proc/{pid}/environ").read_text().split("\0"))
    os.kill(int(victim), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "another process of this run ended" in err, err
    assert "--resume continues from last.safetensors" in err
    saved = picogpt.load_checkpoint(text_folder / "run" / "last.safetensors").about
    assert 10 <= saved["step"] < 3000


@pytest.mark.slow
def test_a_batch_that_two_processes_cannot_share_is_refused(text_folder):
    process = torchrun(text_folder, "--recipe.batch-size", "3", "--out", "run")
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "batch_size=3 cannot be shared by 2 processes" in err


def test_a_full_disk_leaves_the_last_good_checkpoint(make_model, small, tmp_path):
    path = tmp_path / "model.safetensors"
    picogpt.save_checkpoint(path, make_model(), small.tokenizer, step=1)
    good = path.read_bytes()
    resource = pytest.importorskip("resource", reason="Linux and macOS only: a limit on the size of files")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) // 2, limits[1]))  # the kernel refuses to write further
    try:
        with pytest.raises(OSError, match="could not write .*model.safetensors"):
            picogpt.save_checkpoint(path, make_model(seed=1), small.tokenizer, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == good
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


def test_resuming_with_other_settings_names_them(make_model, small, tmp_path):
    picogpt.train(make_model(), small, FAST, tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"a different training: learning_rate=0.003 \(now 0.001\)"):
        picogpt.train(make_model(), small, changed(learning_rate=1e-3), tmp_path, resume=True, progress=False)
    with pytest.raises(ValueError, match=r"a different model: n_layer=2 \(now 1\)"):
        picogpt.train(make_model(n_layer=1), small, FAST, tmp_path, resume=True, progress=False)
    other = small._replace(train=small.train.flip(0))
    with pytest.raises(ValueError, match="a different text"):
        picogpt.train(make_model(), other, FAST, tmp_path, resume=True, progress=False)


# ----- what is refused before any work


def test_a_folder_with_a_training_is_not_overwritten(make_model, small, tmp_path):
    picogpt.train(make_model(), small, FAST, tmp_path, progress=False)
    with pytest.raises(ValueError, match="holds a training: continue it"):
        picogpt.train(make_model(), small, FAST, tmp_path, progress=False)


def test_nothing_to_resume(make_model, small, tmp_path):
    with pytest.raises(ValueError, match="nothing to resume"):
        picogpt.train(make_model(), small, FAST, tmp_path, resume=True, progress=False)


def test_a_folder_that_cannot_be_written(make_model, small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write into .*file.*Choose another folder"):
        picogpt.train(make_model(), small, FAST, tmp_path / "file" / "run", progress=False)


def test_a_short_text_another_vocabulary_and_a_long_window_are_refused(make_model, small):
    with pytest.raises(ValueError, match="the training text has 16 tokens: a window of 16 needs at least 17"):
        picogpt.train(make_model(), small._replace(train=small.train[:16]), FAST, progress=False)
    with pytest.raises(ValueError, match="the validation text has 1 tokens"):
        picogpt.train(make_model(), small._replace(val=small.val[:1]), FAST, progress=False)
    with pytest.raises(ValueError, match="different tokens, the model vocab_size=7"):
        picogpt.train(make_model(vocab_size=7), small, FAST, progress=False)
    with pytest.raises(ValueError, match="seq_len=17 is longer than the model's block_size=16"):
        picogpt.train(make_model(), small, changed(seq_len=17), progress=False)


# ----- a loss that is not a number


def test_a_learning_rate_far_too_high_is_named_as_the_cause(make_model, small):
    config = changed(learning_rate=900.0, optimizer="adamw", warmup_steps=0, grad_clip=0, log_every=1)
    cause = r"at step [2-9]: the gradient norm was \S+ before; most likely learning_rate=900 is too high for warmup_steps=0 and"
    with pytest.raises(FloatingPointError, match=cause):
        picogpt.train(make_model(), small, config, progress=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_hold_nan_or_inf_are_named_as_the_cause(make_model, small, value):
    model = make_model()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = value
    with pytest.raises(FloatingPointError, match="at step 1: before any update: the weights it started from hold"):
        picogpt.train(model, small, FAST, progress=False)


def test_the_step_of_the_first_nan_is_exact(make_model, small, tmp_path, monkeypatch):
    original, calls = pc.backward, []

    def poisoned(*args):
        calls.append(1)
        return original(*args) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(LOOP, "backward", poisoned)
    with pytest.raises(FloatingPointError, match="at step 4: no loss was recorded yet before; most likely learning_rate=0.003"):
        picogpt.train(make_model(), small, changed(log_every=10, eval_every=10), tmp_path, progress=False)
    assert not (tmp_path / "last.safetensors").exists(), "broken weights are not saved"


# ----- checkpoints


@pytest.mark.parametrize("tied", [False, True])
def test_a_checkpoint_gives_back_model_text_and_history(make_model, small, tmp_path, tied):
    model = make_model(tied_head=tied, head_bias=not tied)
    run = picogpt.train(model, small, FAST, tmp_path, progress=False)
    saved = picogpt.load_checkpoint(tmp_path)
    best = min(value for _, value in run.val_losses)
    assert pc.evaluate(saved.model, small.val) == pytest.approx(best, abs=1e-6)
    assert saved.about["val_loss"] == best
    assert saved.tokenizer.chars == small.tokenizer.chars
    assert picogpt.load_rows(tmp_path / "history.csv") == run.history
    assert json.loads((tmp_path / "history.json").read_text())["model"]["n_embd"] == 16


def test_damaged_and_foreign_files_are_named(make_model, small, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    picogpt.save_checkpoint(path, make_model(), small.tokenizer)
    whole = path.read_bytes()
    for cut in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="cannot be read as safetensors"):
            picogpt.load_checkpoint(path)
    path.write_bytes(b"PK\x03\x04" + b"a pickle in a zip" * 100)
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        picogpt.load_checkpoint(path)
    save_file({"a": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="not one of PicoGPT's"):
        picogpt.load_checkpoint(path)
    wrong = {
        "{": "Expecting property name",
        "[]": r"its header holds \[\]",
        "null": "its header holds None",
        "3": "its header holds 3",
        "{}": "its header lacks the entry 'model'",
        json.dumps({"model": {"n_layer": 0}}): "n_layer=0 must be an integer",
        json.dumps({"model": {"colour": "red"}}): "unexpected keyword argument 'colour'",
        json.dumps({"model": {}}): "its header lacks the entry 'chars'",
    }
    for header, words in wrong.items():
        save_file({"a": torch.zeros(3)}, path, metadata={"picogpt": header})
        with pytest.raises(ValueError, match=words):
            picogpt.load_checkpoint(path)
    with pytest.raises(ValueError, match="there is no checkpoint at"):
        picogpt.load_checkpoint(tmp_path / "nowhere")


def test_weights_of_another_shape_than_in_the_header_are_refused(make_model, small, tmp_path):
    small_model, large = make_model(), make_model(n_embd=32)
    liar = copy.copy(large)
    liar.config = small_model.config
    picogpt.save_checkpoint(tmp_path / "m.safetensors", liar, small.tokenizer)
    with pytest.raises(ValueError, match="do not make a PicoGPT model"):
        picogpt.load_checkpoint(tmp_path / "m.safetensors")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError), picogpt.atomic_write(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# ----- edges


def test_rows_that_do_not_divide_into_micro_batches_are_refused(make_model):
    ids = torch.zeros(6, 8, dtype=torch.long)
    with pytest.raises(ValueError, match="6 rows cannot be split into 4 equal micro-batches"):
        pc.backward(make_model(), ids, ids, micro_batches=4)


def test_the_learning_rate_stays_at_its_end_beyond_the_last_step():
    config = pc.TrainConfig(steps=100)
    assert pc.learning_rate_at(500, config) == pc.learning_rate_at(99, config) == config.final_lr_fraction


def test_a_gradient_that_is_not_finite_at_the_last_step_is_an_error(make_model, small, tmp_path, monkeypatch):
    def poisoned(net, *args):
        loss = pc.backward(net, *args)
        poisoned.calls += 1
        if poisoned.calls == 12:
            net.wte.weight.grad[0, 0] = math.nan
        return loss

    poisoned.calls = 0
    monkeypatch.setattr(LOOP, "backward", poisoned)
    with pytest.raises(FloatingPointError, match="the gradient is not a finite number at step 12"):
        picogpt.train(make_model(), small, FAST, tmp_path, progress=False)
    assert picogpt.load_checkpoint(tmp_path / "last.safetensors").about["step"] == 10, "broken weights are not saved"


def test_ctrl_c_in_the_last_step_ends_a_loop_over_seeds_too(make_model, small, tmp_path, monkeypatch):
    interrupt_after(12, monkeypatch)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 12 of 12; saved"):
        picogpt.train(make_model(), small, FAST, tmp_path, progress=False)
    assert picogpt.load_checkpoint(tmp_path / "last.safetensors").about["step"] == 12


def test_a_model_without_the_state_of_its_training_cannot_be_continued(make_model, small, tmp_path):
    model = make_model()
    picogpt.save_checkpoint(tmp_path / "last.safetensors", model, small.tokenizer)
    with pytest.raises(ValueError, match="holds a model, but not the state of its training"):
        picogpt.train(model, small, FAST, tmp_path, resume=True, progress=False)


def test_a_text_whose_validation_part_has_changed_is_another_text(make_model, small, tmp_path):
    picogpt.train(make_model(), small, changed(steps=5), tmp_path, progress=False)
    with pytest.raises(ValueError, match="a different text"):
        other = small._replace(val=small.val[:-1])
        picogpt.train(make_model(), other, changed(steps=5), tmp_path, resume=True, progress=False)


def test_a_wrapped_model_is_not_saved(make_model, small, tmp_path):
    with pytest.raises(ValueError, match="a DataParallel cannot be saved: give the GPT itself"):
        picogpt.save_checkpoint(tmp_path / "m.safetensors", nn.DataParallel(make_model()), small.tokenizer)


def test_a_path_may_be_a_string(make_model, small, tmp_path):
    picogpt.save_checkpoint(str(tmp_path / "m.safetensors"), make_model(), small.tokenizer)
    picogpt.save_rows(str(tmp_path / "rows.csv"), [dict(a=1, b=None)])
    assert picogpt.load_rows(str(tmp_path / "rows.csv")) == [dict(a=1, b=None)]
    assert picogpt.load_checkpoint(str(tmp_path / "m.safetensors"), torch.device("cpu")).about == {}


@pytest.mark.skipif(os.name != "posix", reason="whether a process lives is asked with signal 0, which only POSIX has")
def test_only_our_own_left_overs_of_dead_processes_are_removed(make_model, small, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = tmp_path / f".last.safetensors.{dead.pid}-1.tmp"
    others = [tmp_path / name for name in (".notes.tmp", f".last.safetensors.{os.getpid()}-1.tmp", f".mine.{dead.pid}-1.tmp")]
    for file in (stale, *others):
        file.write_text("x")
    picogpt.train(make_model(), small, changed(steps=2), tmp_path, progress=False)
    assert not stale.exists()
    assert all(file.exists() for file in others)
