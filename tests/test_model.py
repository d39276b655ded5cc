"""What must be true of a causal language model, and equality with independent implementations."""

import math

import pytest
import torch
from torch import nn

import picogpt_core as pc

SWITCHES = [
    {},
    dict(norm="post", final_norm=False, qkv_bias=True, activation="relu"),
    dict(bias=False, head_bias=False, tied_head=True, activation="gelu_tanh"),
]


@pytest.mark.parametrize("attention", ["sdpa", "manual"])
@pytest.mark.parametrize("switches", SWITCHES)
def test_no_position_depends_on_future_tokens(make_model, switches, attention):
    model = make_model(attention=attention, **switches).eval()
    ids = torch.randint(0, model.config.vocab_size, (3, 16))
    logits = model(ids)
    for t in range(1, 16):
        other = ids.clone()
        other[:, t:] = (other[:, t:] + 1) % model.config.vocab_size
        change = (model(other) - logits).abs().amax(dim=(0, 2))  # (T,)
        assert change[:t].max() < 1e-6
        assert change[t:].min() > 0


def test_without_the_mask_every_position_depends_on_future_tokens(make_model):
    model = make_model(causal=False).eval()
    ids = torch.randint(0, model.config.vocab_size, (1, 16))
    other = ids.clone()
    other[:, -1] = (other[:, -1] + 1) % model.config.vocab_size
    assert (model(other) - model(ids)).abs().amax(dim=-1).min() > 0


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_manual_attention_equals_the_fused_kernel(make_model, causal, training):
    by_hand = make_model(attention="manual", causal=causal).train(training)
    fused = make_model(attention="sdpa", causal=causal).train(training)
    ids = torch.randint(0, by_hand.config.vocab_size, (4, 16))
    assert torch.allclose(by_hand(ids), fused(ids), atol=1e-5)
    for model in (by_hand, fused):
        pc.cross_entropy(model(ids), ids).backward()
    for (name, ours), theirs in zip(by_hand.named_parameters(), fused.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5), name


def test_attention_equals_torch_multihead_attention(make_model):
    """An independent implementation, with our weights. Its boolean mask is the other way round: True hides."""
    ours = make_model(qkv_bias=True).h[0].attn
    theirs = nn.MultiheadAttention(16, 2, batch_first=True)
    weights = {"in_proj_weight": ours.c_attn.weight, "in_proj_bias": ours.c_attn.bias}
    weights |= {"out_proj.weight": ours.c_proj.weight, "out_proj.bias": ours.c_proj.bias}
    theirs.load_state_dict(weights)
    x = torch.randn(3, 16, 16)
    expected, _ = theirs(x, x, x, attn_mask=~pc.causal_mask(16), need_weights=False)
    assert torch.allclose(ours(x), expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_block_equals_torch_transformer_layer(make_model, norm):
    ours = make_model(qkv_bias=True, norm=norm).h[0]
    theirs = nn.TransformerEncoderLayer(16, 2, 64, 0.0, "gelu", batch_first=True, norm_first=norm == "pre")
    names = {"self_attn.in_proj_": "attn.c_attn.", "self_attn.out_proj.": "attn.c_proj.", "linear1.": "mlp.c_fc."}
    names |= {"linear2.": "mlp.c_proj.", "norm1.": "ln_1.", "norm2.": "ln_2."}
    state = ours.state_dict()
    theirs.load_state_dict({a + part: state[b + part] for a, b in names.items() for part in ("weight", "bias")})
    x = torch.randn(3, 16, 16)
    assert torch.allclose(ours(x), theirs(x, src_mask=~pc.causal_mask(16)), atol=1e-5)


@pytest.mark.parametrize("switches", SWITCHES)
def test_a_new_model_guesses_uniformly(make_model, switches):
    model = make_model(**switches)
    ids = torch.randint(0, model.config.vocab_size, (8, 16))
    loss = pc.cross_entropy(model(ids), ids.roll(-1, 1)).item()
    assert abs(loss - math.log(model.config.vocab_size)) < 0.3


@pytest.mark.parametrize("switches", SWITCHES)
def test_every_parameter_gets_a_gradient(make_model, switches):
    model = make_model(**switches)
    ids = torch.randint(0, model.config.vocab_size, (8, 16))
    pc.cross_entropy(model(ids), ids.roll(-1, 1)).backward()
    without_gradient = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert not without_gradient


def test_initialisation_is_as_documented():
    torch.manual_seed(0)
    model = pc.GPT(pc.ModelConfig())
    for name, p in model.named_parameters():
        if name.endswith("c_proj.weight"):
            assert p.std().item() == pytest.approx(0.02 / math.sqrt(6), rel=0.02), name
        elif p.dim() == 2:
            assert p.std().item() == pytest.approx(0.02, rel=0.02), name
        else:
            assert (p == (1 if "ln" in name and name.endswith("weight") else 0)).all(), name


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [2, 16])  # one thread gives a convolution to oneDNN from 16 rows on
def test_a_linear_layer_trains_as_a_convolution_of_the_same_numbers(bias, rows):
    torch.manual_seed(0)
    layer, x, g = pc.Linear(24, 65, bias=bias), torch.randn(rows, 9, 24, requires_grad=True), torch.randn(rows, 9, 65)
    y, plain = layer(x), nn.functional.linear(x, layer.weight, layer.bias)
    assert y.is_contiguous()
    assert torch.allclose(y, plain, atol=1e-5)
    gradients, expected = (torch.autograd.grad(out, [x, *layer.parameters()], g) for out in (y, plain))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(gradients, expected, strict=True))
    with torch.no_grad():
        assert torch.equal(layer(x), plain), "writing uses the product itself"


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("past", [0, 3])
def test_attention_in_bfloat16_is_attend(causal, past):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 4, n, 8).bfloat16() for n in (5, past + 5, past + 5))
    mine, expected = pc.bfloat16_attend(q, k, v, causal, 0.0), pc.attend(q.float(), k.float(), v.float(), causal)
    assert mine.dtype == torch.bfloat16
    assert (mine - expected).abs().max() < 0.03


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.99])
def test_dropout_drops_the_given_fraction_and_keeps_the_mean(p):
    drop, x = pc.Dropout(p), torch.ones(1000, 333, requires_grad=True)  # 333: not a multiple of 8
    torch.manual_seed(0)
    y = drop(x)
    y.backward(torch.ones_like(y))
    assert abs((y == 0).float().mean() - p) < 1 / 512 + 0.005, "p is rounded to a 256th"
    assert len(y.detach().unique()) == 2, "what stays grows by the same factor"
    assert abs(y.mean() - 1) < 0.03
    assert torch.equal(x.grad, y), "where the value went, the gradient goes"
    near = torch.corrcoef(torch.stack([(y[:, :-1] == 0).flatten().float(), (y[:, 1:] == 0).flatten().float()]))[0, 1]
    assert abs(near) < 0.01, "neighbours fall independently"
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("config", [pc.preset("picogpt"), pc.preset("tiny"), pc.preset("picogpt-6layer")])
def test_flops_per_token_counts_every_product_of_the_model(config):
    """2 mn for a vector through an (m, n) matrix, twice that again backward; scores and weighted sums over T positions.

    By convention 6 for each other parameter too, positions left out: wte, biases and norms.
    """
    C, L, T, V = config.n_embd, config.n_layer, config.block_size, config.vocab_size
    products = L * (C * 3 * C + C * C + 2 * C * 4 * C) + C * V + L * 2 * T * C
    with torch.device("meta"):
        vectors = sum(p.numel() for p in pc.GPT(config).parameters() if p.dim() == 1)
    assert pc.flops_per_token(config) == 3 * 2 * (products + V * C + vectors)
    assert pc.flops_per_token(config) - pc.flops_per_token(config, T // 2) == 12 * L * C * (T // 2)


def test_last_only_gives_the_logits_of_the_last_position(make_model):
    model = make_model().eval()
    ids = torch.randint(0, model.config.vocab_size, (3, 9))
    assert torch.allclose(model(ids, last_only=True), model(ids)[:, [-1]], atol=1e-6)
    assert model(ids, last_only=True).shape == (3, 1, model.config.vocab_size)


def test_a_tied_head_is_the_embedding(make_model):
    model = make_model(tied_head=True, head_bias=False)
    assert model.lm_head.weight is model.wte.weight


def test_rows_of_a_batch_do_not_depend_on_each_other(make_model):
    model = make_model().eval()
    ids = torch.randint(0, model.config.vocab_size, (4, 16))
    alone = torch.cat([model(row[None]) for row in ids])
    assert torch.allclose(model(ids), alone, atol=1e-6)


@pytest.mark.parametrize("T", [0, 17])
def test_a_window_longer_than_the_block_or_empty_is_refused(make_model, T):
    with pytest.raises(ValueError, match=f"a window of {T} tokens: this model takes 1 to block_size=16"):
        make_model()(torch.zeros(1, T, dtype=torch.long))


def test_the_parameter_table_adds_up(make_model):
    model = make_model()
    *rows, total = pc.parameter_table(model).splitlines()
    assert sum(int(row.split()[-1].replace(",", "")) for row in rows) == int(total.split()[-1].replace(",", ""))


def test_a_model_on_another_device_takes_ids_and_targets_from_here(make_model):
    """As after a training on a GPU. The device "meta" has shapes and no numbers; ids from elsewhere it would refuse."""
    model, ids = make_model().to("meta"), torch.zeros(2, 5, dtype=torch.long)
    logits = model(ids)
    assert logits.device.type == "meta"
    assert logits.shape == (2, 5, model.config.vocab_size)
    assert pc.cross_entropy(logits, ids).device.type == "meta"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dropout_keeps_the_number_format(make_model, dtype):
    model = make_model(resid_dropout=0.1, embd_dropout=0.1).to(dtype).train()
    assert model(torch.zeros(2, 4, dtype=torch.long)).dtype == dtype


@pytest.mark.parametrize(("p", "kept"), [(0.001, 1.0), (0.25, 0.75), (1.0, 0.0)])
def test_dropout_drops_its_share_and_keeps_the_mean(p, kept):
    torch.manual_seed(0)
    x = pc.Dropout(p)(torch.ones(100_000))
    assert (x != 0).float().mean().item() == pytest.approx(kept, abs=0.01)
    assert x.mean().item() == pytest.approx(1.0 if kept else 0.0, abs=0.02)


def test_evaluation_mode_gives_each_module_its_own_mode_back_also_after_an_error(make_model):
    model = make_model().train()
    model.h[0].eval()
    with pytest.raises(KeyError), pc.evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        raise KeyError
    assert [model.training, model.h[1].training, model.h[0].training, model.h[0].mlp.training] == [True, True, False, False]


def test_attention_weights_do_not_depend_on_dropout(make_model):
    model = make_model(resid_dropout=0.5, embd_dropout=0.5).train()
    ids = torch.arange(8)[None]
    one, two = pc.attention_weights(model, ids), pc.attention_weights(model, ids)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert model.training


def test_a_name_is_not_a_model_config():
    with pytest.raises(ValueError, match=r"GPT\('tiny'\): give a ModelConfig, or preset"):
        pc.GPT("tiny")


# ----- the probe


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_the_probe_finds_a_causal_model_causal_even_with_dropout(make_model, dropout):
    model = make_model(resid_dropout=dropout, embd_dropout=dropout, attn_dropout=dropout).train()
    ids = torch.randint(0, model.config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    moved = pc.moved_by_the_future(model, ids, position=10)
    assert moved.shape == (16,)
    assert (moved[:10] == 0).all()
    assert (moved[10:] > 0).all()
    assert model.training


def test_the_probe_sees_a_missing_mask_and_a_model_that_ignores_its_input(make_model):
    ids = torch.randint(0, 20, (1, 16), generator=torch.Generator().manual_seed(0))
    assert (pc.moved_by_the_future(make_model(causal=False), ids, position=10) > 0).all()
    deaf = make_model()
    torch.nn.init.zeros_(deaf.lm_head.weight)
    assert (pc.moved_by_the_future(deaf, ids, position=10) == 0).all()
    with pytest.raises(ValueError, match="position=16 must lie in the text: 0 to 15"):
        pc.moved_by_the_future(deaf, ids, position=16)
