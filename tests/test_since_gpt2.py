"""The fields for what came since GPT-2: each works with cache, training, checkpoints and the doctor, and equals its source."""

import dataclasses

import pytest
import torch
import transformers

import picogpt
import picogpt_core as pc
from picogpt_doctor import diagnose

SMALL = pc.ModelConfig(vocab_size=17, block_size=16, n_layer=2, n_head=4, n_embd=32)
FIELDS = {
    "rmsnorm": dict(norm_kind="rmsnorm"),
    "rotary": dict(positions="rotary"),
    "swiglu": dict(activation="swiglu"),
    "grouped": dict(n_kv_head=2),
    "multi-query": dict(n_kv_head=1),
    "qk-norm": dict(qk_norm=True),
    "output": dict(norm="output"),
    "sandwich": dict(norm="sandwich"),
    "none": dict(norm="none"),
    "flat": dict(init="gpt2-flat"),
    "xavier": dict(init="xavier"),
    "all": dict(
        norm="sandwich", norm_kind="rmsnorm", positions="rotary", activation="swiglu", n_kv_head=2, qk_norm=True, qkv_bias=True
    ),
}
each_field = pytest.mark.parametrize("changes", FIELDS.values(), ids=FIELDS)


def build(changes, **more):
    torch.manual_seed(0)
    return pc.GPT(dataclasses.replace(SMALL, **(changes | more)))


def parameters_by_formula(c: pc.ModelConfig) -> int:
    """Added up from the architecture, without building it."""
    C, hs = c.n_embd, c.n_embd // c.n_head
    norm = 0 if c.norm == "none" else C if c.norm_kind == "rmsnorm" else C * (1 + c.bias)
    qkv = C + 2 * hs * (c.n_kv_head or c.n_head)
    attention = C * qkv + qkv * c.qkv_bias + C * C + C * c.bias + 2 * hs * c.qk_norm
    hidden = round(8 * C / 3) if c.activation == "swiglu" else 4 * C
    wide = 2 * hidden if c.activation == "swiglu" else hidden
    mlp = C * wide + wide * c.bias + hidden * C + C * c.bias
    block = attention + mlp + norm * (4 if c.norm == "sandwich" else 2)
    head = c.vocab_size * C * (not c.tied_head) + c.vocab_size * c.head_bias
    positions = c.block_size * C * (c.positions == "learned")
    return c.vocab_size * C + positions + c.n_layer * block + norm * c.final_norm + head


@each_field
def test_the_count_is_that_of_the_formula(changes):
    model = build(changes)
    assert pc.count_parameters(model) == parameters_by_formula(model.config)


def test_swiglu_has_as_many_parameters_as_the_mlp_it_replaces():
    plain, gated = (pc.count_parameters(pc.GPT(pc.ModelConfig(activation=name))) for name in ("gelu", "swiglu"))
    assert abs(gated / plain - 1) < 0.001


@each_field
@pytest.mark.parametrize("attention", ["sdpa", "manual"])
def test_a_cache_changes_no_logit(changes, attention):
    model = build(changes, attention=attention).eval()
    ids = torch.randint(17, (3, 16))  # (B, T)
    with torch.no_grad():
        whole = model(ids)
        for first in (1, 7, 15):
            cache = pc.KVCache(model.config, batch_size=3)
            parts = [model(ids[:, :first], cache=cache)]
            parts.append(model(ids[:, first : first + 3], cache=cache))  # several at once
            parts += [model(ids[:, [t]], cache=cache) for t in range(first + 3, 16)]
            assert torch.allclose(torch.cat(parts, dim=1)[:, :16], whole, atol=1e-5)


@each_field
def test_future_tokens_change_nothing(changes):
    model = build(changes).eval()
    ids = torch.randint(17, (1, 16))
    other = ids.clone()
    other[:, 8:] = (other[:, 8:] + 1) % 17
    with torch.no_grad():
        moved = (model(ids) - model(other)).abs().amax(dim=(0, 2))  # (T,)
    assert moved[:8].max() == 0
    assert moved[8:].min() > 0


@each_field
def test_it_learns_resumes_and_comes_back_from_a_checkpoint(changes, small, tmp_path):
    model = build(changes, vocab_size=small.tokenizer.vocab_size)
    recipe = pc.TrainConfig(steps=60, batch_size=8, eval_every=30, log_every=5, warmup_steps=5, device="cpu", dtype="float32")
    run = picogpt.train(model, small, recipe, tmp_path, progress=False)
    assert run.val_losses[-1][1] < 2.8, "below a blind guess (3.18) and the letters' frequencies (2.82)"
    saved = picogpt.load_checkpoint(tmp_path / "last.safetensors").model
    assert saved.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), saved.parameters(), strict=True))


@each_field
def test_greedy_text_is_the_same_with_and_without_a_cache_beyond_the_block(changes):
    model, settings = build(changes), pc.SampleConfig(40, temperature=0)
    ids = torch.randint(17, (2, 3))
    assert torch.equal(pc.generate(model, ids, settings), pc.generate(model, ids, settings, use_cache=False))


@each_field
def test_attention_weights_are_distributions_over_the_past(changes):
    for weights in pc.attention_weights(build(changes).eval(), torch.randint(17, (2, 9))):
        assert weights.shape == (2, 4, 9, 9)
        assert torch.allclose(weights.sum(dim=-1), torch.ones(2, 4, 9))
        assert weights.triu(1).abs().max() == 0


@each_field
def test_the_doctor_finds_nothing(changes):
    report = diagnose(build(changes))
    expected = ["norms"] if changes.get("norm") == "none" else []  # which is what it says of a model without any
    assert [finding.check for finding in report.of("fail")] == expected, str(report)


def in_transformers(model: pc.GPT) -> transformers.PreTrainedModel:
    """Our weights in transformers' Qwen 3, or without QK-norm in its Llama."""
    c = model.config
    settings, theirs = (
        (transformers.Qwen3Config, transformers.Qwen3ForCausalLM)
        if c.qk_norm
        else (transformers.LlamaConfig, transformers.LlamaForCausalLM)
    )
    config = settings(
        head_dim=c.n_embd // c.n_head,  # Qwen 3's default is 128
        vocab_size=c.vocab_size,
        hidden_size=c.n_embd,
        intermediate_size=round(8 * c.n_embd / 3),
        num_hidden_layers=c.n_layer,
        num_attention_heads=c.n_head,
        num_key_value_heads=c.n_kv_head,
        max_position_embeddings=c.block_size,
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
    )
    other = theirs(config).eval()
    weights = {"model.embed_tokens.weight": model.wte.weight, "model.norm.weight": model.ln_f.weight}
    weights["lm_head.weight"] = model.lm_head.weight
    for i, block in enumerate(model.h):
        at = f"model.layers.{i}."
        query, key, value = block.attn.c_attn.weight.split(block.attn.sizes)
        gate, up = block.mlp.c_fc.weight.chunk(2)
        weights |= {f"{at}self_attn.{name}_proj.weight": w for name, w in zip("qkv", (query, key, value), strict=True)}
        weights |= {f"{at}self_attn.o_proj.weight": block.attn.c_proj.weight, f"{at}mlp.gate_proj.weight": gate}
        weights |= {f"{at}mlp.up_proj.weight": up, f"{at}mlp.down_proj.weight": block.mlp.c_proj.weight}
        weights |= {f"{at}input_layernorm.weight": block.ln_1.weight, f"{at}post_attention_layernorm.weight": block.ln_2.weight}
        if c.qk_norm:
            weights |= {f"{at}self_attn.{name}.weight": getattr(block.attn, name).weight for name in ("q_norm", "k_norm")}
    other.load_state_dict(weights)
    return other


@pytest.mark.parametrize(("n_kv_head", "qk_norm"), [(4, False), (2, False), (1, False), (2, True)])
def test_with_all_of_their_fields_it_equals_transformers_llama_and_qwen3(n_kv_head, qk_norm):
    llama_like = dict(norm_kind="rmsnorm", positions="rotary", activation="swiglu", bias=False, head_bias=False)
    model = build(llama_like, n_kv_head=n_kv_head, qk_norm=qk_norm, init="xavier").eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:  # the weights of norms: not all 1
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    ids = torch.randint(17, (3, 16))
    with torch.no_grad():
        assert torch.allclose(model(ids), in_transformers(model)(ids).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(n_kv_head=3), "n_kv_head=3 cannot serve n_head=8 query heads"),
        (dict(n_kv_head=16), "n_kv_head=16 cannot serve"),
        (dict(positions="rotary", n_embd=24), "must be even"),
        (dict(init="he"), "init='he' must be one of"),
        (dict(norm="middle"), "norm='middle' must be one of 'pre', 'post', 'output', 'sandwich', 'none'"),
    ],
)
def test_what_cannot_be_is_refused(wrong, words):
    with pytest.raises(ValueError) as error:
        pc.ModelConfig(**wrong)
    assert words in str(error.value)
