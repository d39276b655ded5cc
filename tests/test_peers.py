"""The peers that write with our weights compute what our model computes: else their speed would mean nothing."""

import shutil
import subprocess
import sys

import pytest
import torch

import picogpt
import picogpt_core as pc

sys.path.insert(0, str(picogpt.ROOT / "benchmarks"))
import peers


@pytest.fixture
def model():
    """Of other sizes than PicoGPT's, with weights that are all in use: 70 outputs do not fill two tiles of gpt.c."""
    torch.manual_seed(0)
    model = pc.GPT(pc.ModelConfig(vocab_size=70, block_size=24, n_layer=2, n_head=4, n_embd=64)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def ids():
    return torch.randint(70, (1, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def run(model, tmp_path):
    """Runs gpt.c on that model and returns what it printed. Skipped where there is no C compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("NO C COMPILER: gpt.c was not tried. Install gcc (apt-get install gcc)")
    program = peers.build_c(tmp_path)
    peers.write_for_c(model, tmp_path / "model")
    return lambda *words: subprocess.check_output([program, tmp_path / "model", *map(str, words)], text=True)


def test_gpt_c_gives_our_logits_text_and_a_speed(model, ids, run):
    printed = [[float(word) for word in line.split()] for line in run("logits", *ids[0].tolist()).splitlines()]
    with torch.no_grad():
        torch.testing.assert_close(torch.tensor(printed), model(ids)[0], atol=1e-4, rtol=0)
    text = pc.generate(model, ids[:, :3], pc.SampleConfig(21, temperature=0))[0, 3:]
    assert list(map(int, run("greedy", 21, *ids[0, :3].tolist()).split())) == text.tolist()
    assert float(run("speed", 10)) > 0


def test_what_gpt_c_does_not_compute_is_refused(tmp_path):
    for changes, words in ((dict(activation="relu"), "gpt.c computes the preset picogpt"), (dict(n_embd=32), "multiple of 64")):
        with pytest.raises(ValueError, match=words):
            peers.write_for_c(pc.GPT(pc.ModelConfig(n_layer=1, **changes)), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_onnx_runtime_gives_our_logits(model, ids):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is a peer, not a part of the course: pip install onnxruntime onnx")
    pytest.importorskip("onnx", reason="pip install onnxruntime onnx")
    writer = peers.OnnxWriter(model)
    logits = [torch.from_numpy(writer.logits(token, past).copy()) for past, token in enumerate(ids[0].tolist())]
    with torch.no_grad():
        torch.testing.assert_close(torch.stack(logits), model(ids)[0], atol=1e-4, rtol=0)
