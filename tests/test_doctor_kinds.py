"""Faults of caches, generation and values in other styles are named by the first finding, and their twins are healthy."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import doctor_inside
import doctor_kinds
import doctor_reports
import pytest
import torch
from doctor_kinds import Fast, FastArgs, Stated, TwoLists, spoil
from torch import nn
from torch.nn import functional as F
from transformers import BartConfig, BartForCausalLM, GPT2Config, GPT2LMHeadModel

import picogpt_core as pc
from picogpt_doctor import cli, diagnose
from picogpt_doctor.patient import cache_maker

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """A bug of the doctor's own stops a test."""
    monkeypatch.setenv("PICOGPT_DOCTOR_STRICT", "1")


def findings(report):
    return [f for status in ("error", "fail", "warn") for f in report.of(status)]


@pytest.mark.slow
@pytest.mark.parametrize(("table", "name"), [(t, n) for t in (doctor_kinds, doctor_reports, doctor_inside) for n in t.KINDS])
def test_a_fault_is_named_by_the_first_finding_and_its_twin_is_healthy(table, name):
    _, check, words, _ = table.KINDS[name]
    model, options = table.make(name)
    first = findings(report := diagnose(model, **options))[0]
    assert not check or first.check == check, str(report)
    assert re.search(words, first.cause), str(report)
    model, options = table.make(name, healthy=True)
    assert not findings(report := diagnose(model, **options)), str(report)


@pytest.mark.parametrize("name", doctor_reports.HEALTHY)
def test_what_reports_called_healthy_is_healthy(name):
    torch.manual_seed(0)
    assert not findings(report := diagnose(doctor_reports.HEALTHY[name]())), str(report)


# ----- weights that are meant


def test_what_a_class_initialises_so_on_purpose_is_no_fault():
    """nanochat's zeros in the head and in the last matrix of each branch; a model whose owner initialises it anew."""

    class Zeros(TwoLists):
        def __init__(self, num_tokens=53):
            super().__init__(num_tokens)
            self.num_tokens = num_tokens
            for x in (self.to_logits.weight, *(a.to_out.weight for a in self.attns), *(f[2].weight for f in self.ffs)):
                nn.init.zeros_(x)

    assert not findings(report := diagnose(Zeros())), str(report)
    torch.manual_seed(0)
    model = Stated()
    for x in model.parameters():
        if x.dim() == 2:
            nn.init.normal_(x, std=0.1)
    assert diagnose(model)["weights"].status == "pass"


def test_weights_of_a_trained_model_may_be_anything():
    torch.manual_seed(0)
    model = Stated()
    spoil(model, "dead units")
    assert diagnose(model)["weights"].status == "fail"
    for name, x in model.named_parameters():
        if "ln" in name:
            nn.init.normal_(x, mean=1.0, std=0.1)
    found = diagnose(model)["weights"]
    assert (found.status, "trained model" in found.evidence) == ("skip", True)


def test_the_sizes_of_weights_that_may_be_trained_are_not_judged():
    """A model without gains and biases does not show whether it is new."""
    torch.manual_seed(0)
    model = Fast(FastArgs())
    for module in model.modules():
        if isinstance(module, nn.RMSNorm):
            module.weight = None
    with torch.no_grad():
        model.layers[0].wo.weight.mul_(3)
    assert diagnose(model)["weights"].status == "pass"


def test_without_a_second_instance_weights_are_compared_with_each_other():
    """The constructor's arguments are not kept: a layer of another size, and rows of 0, still show."""
    torch.manual_seed(0)
    model = TwoLists()
    with torch.no_grad():
        model.attns[1].to_q.weight.mul_(6)
    found = diagnose(model)["weights"]
    assert (found.status, "to_q.weight in layer 1" in found.cause) == ("fail", True), found  # or trained, or set by hand
    with torch.no_grad():
        model.attns[1].to_q.weight.div_(6)
        model.attns[0].to_kv.weight[:32] = 0
    assert "32 of 64 rows are 0" in diagnose(model)["weights"].cause


def test_a_decoder_whose_ids_are_its_labels_shifted_right_does_not_shift_them_again():
    torch.manual_seed(0)
    sizes = dict(vocab_size=60, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=64)
    assert diagnose(BartForCausalLM(BartConfig(**sizes, max_position_embeddings=40)))["its own loss"].status == "warn"


@pytest.mark.parametrize(("ahead", "again", "status"), [(1, 0, "pass"), (2, 0, "fail"), (1, 1, "fail")])
def test_what_a_loss_adds_whatever_the_targets_are_is_taken_off(ahead, again, status):
    """A mixture of experts adds a loss for the balance of its router; JetMoE shifted its labels twice beside one."""

    class Balanced(GPT2LMHeadModel):
        def forward(self, input_ids, labels=None):
            logits = super().forward(input_ids).logits
            if labels is None:
                return logits
            flat, goals = logits[:, :-ahead].flatten(0, 1), labels[:, ahead:].flatten()  # (B·T', V), (B·T',)
            loss = F.cross_entropy(flat[: len(flat) - again], goals[again:])  # once more over the flattened batch, or not
            return loss + 0.02 * logits.logsumexp(-1).square().mean(), logits

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_positions=40, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    found = diagnose(Balanced(config))["its own loss"]
    assert found.status == status, found
    assert "depend on them" in found.evidence
    assert (status == "fail") == ("shifted twice" in found.cause)


# ----- caches and generation


def test_a_cache_that_leaks_into_the_next_request_is_named():
    class Leaks(GPT2LMHeadModel):
        last = None

        def forward(self, input_ids=None, past_key_values=None, use_cache=None):
            answer = super().forward(input_ids, past_key_values=past_key_values or self.last, use_cache=use_cache)
            self.last = answer.past_key_values if use_cache else self.last
            return answer

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=60, n_positions=40, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
    assert "reads another's" in diagnose(Leaks(config))["cache"].cause


def test_a_cache_that_stays_from_generate_is_named_even_where_it_breaks_the_next_call():
    """DEFault-bench's CLK: the last cache, and positions after it, are put in where the caller gives none."""
    model = GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, vocab_size=61, bos_token_id=0, eos_token_id=0)
    )
    kept: list = []

    def put_in(module, args, kwargs):
        if kept and kwargs.get("past_key_values") is None:
            ids, past = kwargs.get("input_ids", args[0] if args else None), kept[-1].get_seq_length()
            positions = torch.arange(past, past + ids.shape[1]).expand(len(ids), -1)
            kwargs = kwargs | dict(past_key_values=kept[-1], use_cache=True, position_ids=positions)
        return args, kwargs

    def keep(module, args, output):
        kept.extend([output.past_key_values] if getattr(output, "past_key_values", None) is not None else [])

    model.register_forward_pre_hook(put_in, with_kwargs=True)
    model.register_forward_hook(keep)
    assert "reads another's" in diagnose(model.eval())["cache"].cause

    class WithoutGenerate(GPT2LMHeadModel):
        """What it answers no more from the cache check on has another reason."""

        generate = None

    tired: list = []

    def refuse(*_):
        if tired == ["cache"]:
            raise RuntimeError("it answers no more")

    for kind, status, cause in ((WithoutGenerate, "skip", ""), (GPT2LMHeadModel, "fail", "what generate leaves in the model")):
        other = kind(model.config).eval()
        other.register_forward_pre_hook(refuse)
        found = diagnose(other, progress=lambda name, _: tired.__setitem__(slice(None), [name]))["cache"]
        assert (found.status, cause in found.cause, "answers no more" in found.evidence) == (status, True, True), found


def test_a_graph_that_is_built_is_a_warning_and_one_that_is_kept_a_fault():
    class Writes(TwoLists):
        keeps = False

        def generate(self, ids, n):
            kept = []
            for _ in range(n):
                logits = self(ids[:, -40:])[:, -1]
                kept += [logits] if self.keeps else []
                ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), 1)
            return ids

    torch.manual_seed(0)
    model = Writes()
    assert diagnose(model)["generate"].status == "warn"
    model.keeps = True
    found = diagnose(model)["generate"]
    assert (found.status, "memory grows" in found.cause) == ("fail", True), found


def test_several_tokens_after_a_cache_that_fail_are_a_finding_and_a_refusal_is_none():
    class Fails(Fast):
        error = RuntimeError

        def forward(self, idx, state=None, input_pos=None):
            if state is not None and input_pos is not None and input_pos[0] > 0 and len(input_pos) > 1:
                raise self.error("one token at a time")
            return super().forward(idx, state, input_pos)

    torch.manual_seed(0)
    model = Fails(FastArgs())
    found = diagnose(model)["cache"]  # its method empty_cache is found
    assert (found.status, "cannot follow" in found.cause) == ("warn", True), found
    model.error = ValueError
    assert diagnose(model)["cache"].status == "pass"


CODE = """
import sys
sys.path.insert(0, {tests!r})
from doctor_kinds import Fast, complete, complete_without_context


def caches(model, rows):
    return model.empty_cache(rows)
"""


@pytest.mark.slow
def test_the_command_line_takes_a_free_function_and_a_cache(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CODE.format(tests=str(HERE)))
    command = [sys.executable, "-m", "picogpt_doctor", f"{path}:Fast", "--new-cache", f"{path}:caches"]
    command += ["--generate", f"{path}:complete_without_context"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent, check=False)
    said = " ".join(done.stdout.split())
    assert (done.returncode, "Not healthy: generate failed." in said) == (1, True), done.stdout + done.stderr
    assert "the context is lost" in said
    assert "35 after 13 up to 48 tokens, from state" in said
    with pytest.raises(cli.UsageError, match="has no function 'nothing': it defines .*caches"):
        cli.load_function(f"{path}:nothing")


def test_our_own_model_is_healthy_with_its_cache_up_to_the_block_size():
    torch.manual_seed(0)
    model = pc.GPT(pc.ModelConfig(block_size=32, n_layer=2, n_head=4, n_embd=32))
    report = diagnose(model, new_cache=lambda rows: pc.KVCache(model.config, rows))
    assert "up to 32 tokens" in report["cache"].evidence
    assert not findings(report), str(report)


def test_what_makes_a_cache_may_ask_for_the_rows_the_model_or_both():
    def of_rows(B, length=5):
        return B, length

    def of_both(model, rows):
        return model, rows

    model = nn.Identity()
    makers = (of_rows, of_both, lambda rows, model: (rows, model), lambda model: model, lambda: "empty", lambda rows=3: rows)
    makers += (lambda model, rows=1: (model, rows), lambda model, device="cpu": device)
    made = [cache_maker(function, model) for function in makers]
    assert [make(2) for make in made] == [(2, 5), (model, 2), (2, model), model, "empty", 2, (model, 2), "cpu"]


# ----- what has an effect, and what stays


@dataclasses.dataclass
class Fields:
    vocab_size: int = 53
    attn_pdrop: float = 0.1
    rope_theta: float = 10_000.0
    logit_cap: float = 30.0
    embedding_multiplier: float = 1.0
    resid_pdrop: float = 0.0
    classifier_dropout: float = 0.1


class Takes(doctor_reports.Small):
    """It passes on what its configuration states, but for one field."""

    def __init__(self, config):
        super().__init__(rotary=("halves", "halves"))
        self.config, self.ignored = config, config.__dict__.get("ignored", "")
        base = 100.0 if self.ignored == "rope_theta" else config.rope_theta
        for attention in self.attentions:
            attention.how = SimpleNamespace(**vars(self.how) | dict(frequencies="buffer"))
            attention.inv_freq = base ** (-torch.arange(0, 8, 2) / 8)

    def forward(self, idx):
        logits = super().forward(idx)
        if self.ignored != "logit_cap":
            logits = self.config.logit_cap * torch.tanh(logits / self.config.logit_cap)
        return F.dropout(logits, 0.1 if self.ignored == "attn_pdrop" else self.config.attn_pdrop, self.training)


@pytest.mark.parametrize("ignored", ["", "attn_pdrop", "rope_theta", "logit_cap"])
def test_a_field_of_the_configuration_without_effect_is_named(ignored):
    """Multipliers of 1, dropouts of 0 and fields of other heads ask for nothing."""

    @dataclasses.dataclass
    class Config(Fields):
        ignored: str = ""

    torch.manual_seed(0)
    finding = diagnose(Takes(Config(ignored=ignored)))["configuration"]
    if ignored == "rope_theta":  # which can be measured
        assert finding.status == "fail", finding
        assert "rope_theta" in finding.cause
    elif ignored:
        assert finding.status == "warn", finding
        assert f"config.{ignored} has no effect" in finding.cause
    else:
        assert finding.status in ("pass", "skip"), finding


def test_buffers_that_forward_registers_anew_are_put_back():
    class Anew(doctor_reports.Small):
        def forward(self, idx):
            self.register_buffer("table", torch.zeros(idx.shape[1]), persistent=False)
            return super().forward(idx)

    model = Anew()
    model.register_buffer("table", torch.ones(3))
    before = model.table
    diagnose(model)
    assert model.table is before
    assert before.tolist() == [1, 1, 1]


@pytest.mark.parametrize("stated", [8**-0.5, 8**0.5])
def test_a_scale_that_is_stated_is_no_excuse_for_the_wrong_direction(stated):
    """1/√8 divided by, or √8 multiplied with, is as wrong stated as it is unstated."""
    model = doctor_inside.NoCache(FastArgs(), doctor_inside.scaled("fused", 0.5))
    model.config.softmax_scale = stated
    assert "multiplied where it should be divided" in diagnose(model)["scale"].cause
