"""A compiled model gives what the model gives: logits, text and draws, with and without a draft."""

import tempfile

import pytest
import torch

import picogpt
import picogpt_core as pc

LLAMA = dict(norm="sandwich", norm_kind="rmsnorm", positions="rotary", activation="swiglu", n_kv_head=2, qk_norm=True)
OTHER = dict(norm="none", activation="gelu_tanh", qkv_bias=True, n_layer=3, n_kv_head=1, final_norm=False)
FIELDS = {  # fields, rows, lengths
    "as Llama": (LLAMA | dict(tied_head=True, head_bias=False, bias=False), 1, (1,)),
    "post, a batch": (dict(norm="post", activation="relu", attention="manual", resid_dropout=0.5), 4, (1,)),
    "three layers": (OTHER, 1, (3,)),  # three tokens a step: what speculation with two drafted ones reads
}
SETTINGS = [pc.SampleConfig(40, temperature=0), pc.SampleConfig(40, temperature=0.8, top_k=5, seed=7)]  # past the block, 16


@pytest.fixture(scope="module", params=FIELDS.values(), ids=FIELDS)
def pair(request):
    """A model of other weights than its first ones, and the same compiled."""
    fields, rows, lengths = request.param
    torch.manual_seed(0)
    model = pc.GPT(pc.ModelConfig(**(dict(vocab_size=24, block_size=16, n_layer=2, n_head=4, n_embd=32) | fields))).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1) if parameter.dim() == 2 else torch.nn.init.uniform_(parameter, -1, 1)
    return model, picogpt.CompiledGPT(model, rows, lengths)


def prompt(rows, length):
    return torch.randint(24, (rows, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.slow
def test_the_logits_are_those_of_the_model_at_every_position(pair):
    model, compiled = pair
    rows = compiled.batch_size
    ids = prompt(rows, 16)
    with torch.no_grad():
        whole = model(ids)
        for length in compiled.steps:
            for first in (0, 1, 2, 5):  # the last goes to the model, whose keys and values a step must continue
                cache = pc.KVCache(model.config, rows)
                cache.k.fill_(99), cache.v.fill_(-99)  # what lies behind the end of a cache plays no part
                parts = [compiled(ids[:, :first], cache=cache)] if first else []
                parts += [compiled(part, cache=cache) for part in ids[:, first:].split(length, dim=1)]
                torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-4, rtol=0)
                assert cache.length == 16


@pytest.mark.slow
@pytest.mark.parametrize("length", [1, 3, 5, 16, 20])
def test_the_text_and_the_draws_are_those_of_the_model_also_past_the_block(pair, length):
    model, compiled = pair
    for rows in (compiled.batch_size, 2):  # two rows are not what it was compiled for
        for settings in SETTINGS:
            ids = prompt(rows, length).int()  # not the format of an id that was drawn
            assert torch.equal(pc.generate(compiled, ids, settings), pc.generate(model, ids, settings))


@pytest.mark.slow
def test_steps_run_compiled_and_only_those(pair, monkeypatch):
    model, compiled = pair
    rows, counts = compiled.batch_size, dict.fromkeys(compiled.steps, 0)

    def count(length, step):
        def counted(arguments):
            counts[length] += 1
            return step(arguments)

        return counted

    monkeypatch.setattr(compiled, "steps", {length: count(length, step) for length, step in compiled.steps.items()})
    pc.generate(compiled, prompt(rows, 5), SETTINGS[0])
    expected = {1: 11} if 1 in counts else {3: 0}
    assert counts == expected, "a token at a time, after the prompt and until the block is full"
    pc.generate(compiled, prompt(rows + 1, 5), SETTINGS[0])
    assert counts == expected, "for another number of rows nothing was compiled"
    with pytest.raises(ValueError, match=f"{rows} rows of ids with a cache for {rows + 1}"):
        compiled(prompt(rows, 1), cache=pc.KVCache(model.config, rows + 1))
    with pytest.raises(ValueError, match="a cache works in evaluation mode only"):
        compiled.train()(prompt(rows, 1), cache=pc.KVCache(model.config, rows))
    compiled.eval()


@pytest.mark.slow
def test_speculation_with_a_compiled_target_or_draft_writes_the_same(pair):
    model, compiled = pair
    torch.manual_seed(1)
    other = pc.GPT(pc.ModelConfig(vocab_size=24, block_size=16, n_layer=1, n_head=2, n_embd=8))
    for settings in SETTINGS:
        for plain, fast in (((model, other), (compiled, other)), ((other, model), (other, compiled))):
            done, expected = (pc.generate_speculative(*models, prompt(1, 2), settings, gamma=2) for models in (fast, plain))
            assert torch.equal(done.ids, expected.ids)
            assert done.rounds == expected.rounds


@pytest.mark.slow
def test_the_weights_are_those_of_the_moment_of_compiling(pair):
    model, compiled = pair
    ids = prompt(compiled.batch_size, 5)  # the prompt goes to the model and the rest to the compiled step
    before, kept = pc.generate(compiled, ids, SETTINGS[0]), {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1)
    assert not torch.equal(pc.generate(model, ids, SETTINGS[0]), before)
    assert torch.equal(pc.generate(compiled, ids, SETTINGS[0]), before)
    model.load_state_dict(kept)


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (lambda model: model.bfloat16(), {}, "the model is bfloat16 on cpu: only a float32 model on a CPU"),
        (lambda model: model.to("meta"), {}, "the model is float32 on meta"),
        (lambda model: pc.GPT(pc.ModelConfig(causal=False)), {}, "causal=False: without a causal mask"),
        (lambda model: model, dict(batch_size=0), "batch_size=0 must be a whole number of at least 1"),
        (lambda model: model, dict(lengths=(1, 0)), "lengths=(1, 0) must be whole numbers from 1 to block_size=16"),
        (lambda model: model, dict(lengths=(17,)), "lengths=(17,) must be whole numbers"),
    ],
)
def test_what_cannot_be_compiled_is_refused(make_model, change, arguments, words):
    with pytest.raises(ValueError) as error:
        picogpt.CompiledGPT(change(make_model()), **arguments)
    assert words in str(error.value)


@pytest.mark.slow
def test_without_a_compiler_the_message_says_what_to_do_and_no_file_is_left(make_model, monkeypatch, tmp_path, capfd):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    no_compiler = torch._inductor.config.patch("cpp.cxx", (None, "no-such-compiler"))
    with no_compiler, pytest.raises(OSError, match=r"PyTorch finds no C\+\+ compiler on this machine: install one"):
        picogpt.CompiledGPT(make_model(n_layer=1))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
