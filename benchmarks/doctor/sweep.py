"""Every causal language model of the installed transformers, as a tiny random one, examined by the doctor.

    python benchmarks/doctor/sweep.py                        # all, about five minutes on one core
    python benchmarks/doctor/sweep.py llama mamba --show     # two of them, with their reports

What is to be expected stands in transformers.tsv beside this file: one row for each finding that we have looked into, and
whether it is a `fault` of the architecture, meant so (`meant`), or a `false alarm`. A model's finding that has no row there,
and a row whose finding does not come, are printed as disagreements; then the exit status is 1. Each model is made and
examined in a process of its own, in which nothing is fetched; one that takes more than 300 s or allocates more than 3 GiB is
stopped, and a row says so.

A sweep of all of them writes a row for each to data/runs/doctor_sweep.csv: what failed or was warned of, and the processor
seconds of the examination (of one thread, whatever else the machine was doing).
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import resource
import statistics
import sys
import time
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
warnings.filterwarnings("ignore")

import torch  # noqa: E402
import transformers  # noqa: E402
from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # noqa: E402
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL_LMS  # noqa: E402

from picogpt_doctor import Report, Status, diagnose  # noqa: E402

TABLE = Path(__file__).parents[2] / "data" / "runs" / "doctor_sweep.csv"
EXPECTED = Path(__file__).parent / "transformers.tsv"
JUDGEMENTS = ("fault", "meant", "false alarm", "not made")
SECONDS = 300.0  # for one model: making it and examining it
MEMORY = 3 * 2**30  # bytes that its process may allocate

# What makes a configuration tiny: fields by their name, whichever of them it has. Widths of 32, 4 heads of 8, 2 layers
WIDTH, HEADS, LAYERS, INNER, RANK, EXPERTS, LENGTH, VOCAB = 32, 4, 2, 64, 8, 4, 64, 96
SMALL = (
    (VOCAB, "vocab_size decoder_vocab_size unpadded_vocab_size vocab_size_per_layer_input encoder_hash_byte_group_vocab"),
    (LENGTH, "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions context_length model_max_length"),
    (
        WIDTH,
        "hidden_size d_model n_embd embedding_size emb_dim embedding_dim word_embed_proj_dim input_embedding_size "
        "output_embedding_size hidden_size_global attention_hidden_size lru_width backbone_hidden_size shape_embed_dim "
        "pronunciation_embed_dim original_max_position_embeddings max_source_positions",
    ),
    (
        LAYERS,
        "num_hidden_layers decoder_layers encoder_layers n_layer n_layers num_layers num_decoder_layers "
        "num_encoder_layers num_blocks num_layers_per_stack",
    ),
    (
        HEADS,
        "num_attention_heads decoder_attention_heads encoder_attention_heads n_head n_heads num_heads attention_heads "
        "num_decoder_attention_heads num_encoder_attention_heads swa_num_attention_heads index_n_heads linear_num_key_heads "
        "linear_num_value_heads linear_num_heads mamba_num_heads mamba_n_heads heads_per_ngram num_query_groups",
    ),
    (
        2,
        "num_key_value_heads num_kv_heads swa_num_key_value_heads num_experts_per_tok num_experts_per_token moe_k moe_topk "
        "num_expert_group n_group topk_group n_groups mamba_n_groups o_groups index_topk_blocks",
    ),
    (
        INNER,
        "intermediate_size decoder_ffn_dim encoder_ffn_dim ffn_dim d_inner dff dim_ff ffn_hidden_size feed_forward_size "
        "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size shared_experts_intermediate_size "
        "expert_ffn_hidden_size dense_intermediate_size intermediate_size_mlp mamba_d_ssm "
        "moe_shared_expert_intermediate_size",
    ),
    (
        8,
        "head_dim v_head_dim qk_nope_head_dim qk_rope_head_dim swa_head_dim index_head_dim linear_key_head_dim "
        "linear_value_head_dim linear_head_dim dim_head d_head kv_channels attention_head_size rotary_dim mamba_d_state "
        "state_size ssm_state_size time_step_rank chunk_size mamba_chunk_size mamba_dt_rank prompt_length adapter_rank "
        "q_lora_rank kv_lora_rank o_lora_rank laurel_rank gated_norm_rank hc_lowrank router_hidden_size classifier_proj_size "
        "hidden_size_per_layer_input d_rel",
    ),
    (EXPERTS, "num_experts n_routed_experts num_local_experts moe_num_experts zero_expert_num num_buckets"),
    (
        16,
        "qk_head_dim attention_head_dim mamba_headdim mamba_head_dim mamba_d_head sliding_window sliding_window_size "
        "window_size attention_window_size local_attention attention_chunk_size block_size local_attn_chunk_length "
        "lsh_attn_chunk_length index_topk mem_len",
    ),
)
SIZES = {name: size for size, names in SMALL for name in names.split()}
DERIVED = dict(head_dim=WIDTH // HEADS, num_key_value_heads=2)  # where they are None
OTHERS = dict(is_decoder=True, add_cross_attention=False)
EXPERTS_TOO = dict(n_routed_experts=EXPERTS, n_shared_experts=1, num_experts_per_tok=2)
SPECIAL: dict[str, dict] = {  # by model type: what the table above does not get right
    "bamba": dict(attn_layer_indices=[1]),
    "cohere_compass_text": dict(rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}),
    "dbrx": dict(
        attn_config=dict(kv_n_heads=2, rope_theta=10000.0, clip_qkv=8),
        ffn_config=dict(ffn_hidden_size=INNER, hidden_size=WIDTH),
    ),
    "deepseek_v2": EXPERTS_TOO,
    "deepseek_v4": dict(max_position_embeddings=256),  # one of its branches reads summaries of 128 tokens
    "dots1": EXPERTS_TOO,
    "dots3_note_text": dict(per_layer_config={}),
    "gemma3n_text": dict(num_kv_shared_layers=0),
    "gpt_neo": dict(num_layers=LAYERS, attention_types=[[["global", "local"], 1]]),
    "granitemoehybrid": dict(layer_types=["mamba", "attention"]),
    "falcon_h1": dict(mamba_d_ssm=INNER),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"]),
    "mamba2": dict(num_heads=8, head_dim=8),
    "minicpm3": dict(dim_model_base=8),
    "qwen4_exp_text": dict(
        indexer_n_heads=2, indexer_kv_heads=1, indexer_head_dim=8, indexer_budget=16, indexer_compress_ratio=4
    ),
    "xlm": dict(causal=True),
    "xmod": dict(default_language="en_XX"),
    "zamba": dict(num_hidden_layers=6, attn_layer_period=3, attn_layer_offset=1, attention_hidden_size=2 * WIDTH),
    "zamba2": dict(
        mamba_headdim=8,
        n_mamba_heads=8,
        attention_hidden_size=2 * WIDTH,
        num_hidden_layers=4,
        layers_block_type=["mamba", "hybrid"] * 2,
    ),
    "zaya": dict(num_experts_per_tok=1),
    "reformer": dict(axial_pos_embds_dim=(16, 16), axial_pos_shape=(8, 8), attn_layers=["local", "lsh"], num_buckets=4),
}


def tiny_config(kind: str):
    """Return a tiny configuration of a model type."""
    if CAUSAL_LMS.get(f"{kind}_text") == CAUSAL_LMS[kind]:  # the same class, whose configuration needs no images
        kind = f"{kind}_text"
    expected = getattr(transformers, CAUSAL_LMS[kind]).config_class
    return tiny(expected or CONFIG_MAPPING[kind], SPECIAL.get(kind, {}))


def tiny(config_class, special: dict):
    """Return a tiny configuration of a class, with the `special` fields."""
    default = config_class()
    have = vars(default) | {name: getattr(default, name) for name in default.attribute_map}
    fields = {name: size for name, size in SIZES.items() if type(have.get(name)) is int}
    fields |= {name: value for name, value in OTHERS.items() if name in have}
    fields |= {name: size for name, size in DERIVED.items() if name in have and have[name] is None}
    ids = [
        n for n, x in have.items() if n.endswith(("_token_id", "_token_index", "mask_index")) and type(x) is int and x >= VOCAB
    ]
    fields |= {name: VOCAB - 1 - i for i, name in enumerate(ids)}  # special tokens of its own, as there are
    if "kv_lora_rank" in have and "num_key_value_heads" in fields:
        fields["num_key_value_heads"] = HEADS
    if {"mamba_expand", "mamba_n_heads"} <= set(have):
        fields |= dict(mamba_n_heads=HEADS, mamba_d_head=int(have["mamba_expand"] * WIDTH) // HEADS)
    for name in getattr(config_class, "sub_configs", {}):
        if hasattr(have.get(name), "model_type") and have[name].model_type:
            fields[name] = tiny(type(have[name]), special.get(name, {}))
    special = {name: value for name, value in special.items() if not hasattr(fields.get(name), "to_dict")}
    kinds = list(dict.fromkeys(have.get("layer_types") or []))  # one layer of each kind, at least two
    layers: dict[str, list | int] = (
        dict(layer_types=(kinds * 2)[: max(2, len(kinds))], num_hidden_layers=max(2, len(kinds))) if len(kinds) > 1 else {}
    )
    if layers and isinstance(have.get("mlp_layer_types"), list):
        layers["mlp_layer_types"] = (["dense", "sparse"] * len(kinds))[: max(2, len(kinds))]
    try:
        return config_class(**fields | layers | special)
    except Exception:
        return config_class(**fields | special)


def make(kind: str) -> torch.nn.Module:
    """Return the tiny model of a type, with random weights."""
    torch.manual_seed(0)
    return getattr(transformers, CAUSAL_LMS[kind])(tiny_config(kind)).float()


def examine(kind: str, channel) -> None:
    """Send the report on one model type, or why it could not be made."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    inherited = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()  # from the process that forked
    resource.setrlimit(resource.RLIMIT_DATA, (inherited + MEMORY, inherited + MEMORY))
    began = time.process_time()
    try:
        model = make(kind)
    except BaseException as error:
        channel.send(f"could not be made: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        return
    size, made = sum(x.numel() for x in model.parameters()), time.process_time()
    report = diagnose(model)
    channel.send((size, made - began, time.process_time() - made, report))


def examine_apart(kind: str) -> tuple[int, float, float, Report] | str:
    """Return the size, the processor seconds for making and for examining it, and the report; or what went wrong."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    child = context.Process(target=examine, args=(kind, there), daemon=True)
    child.start()
    there.close()
    try:
        return here.recv() if here.poll(SECONDS) else f"no answer in {SECONDS:g} s"
    except EOFError:
        return "the process died"
    finally:
        child.kill()
        child.join()


def read_expected() -> dict[tuple[str, str], tuple[str, str]]:
    """Return what was judged: (model type, check) -> (status, judgement)."""
    with EXPECTED.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return {(row["model"], row["check"]): (row["status"], row["judged"]) for row in rows}


def findings_of(report: Report) -> dict[str, str]:
    """Return the checks that failed, or crashed, and those that an essential answer is missing of, with their status."""
    return {
        f.check: str(f.status)
        for f in report.findings
        if f.status in (Status.FAIL, Status.ERROR) or (f.unanswered and f.essential)
    }


def compare(kind: str, found: dict[str, str], expected: dict) -> list[str]:
    """Return in words where a report differs from what is expected of the model type."""
    wanted = {check: status for (model, check), (status, _) in expected.items() if model == kind}
    lines = [f"new: {check} {status}" for check, status in found.items() if wanted.get(check) != status]
    return lines + [f"gone: {check} {status}" for check, status in wanted.items() if check not in found]


def summary(results: dict, expected: dict) -> str:
    """Return the figures of a sweep in words."""
    reports = {kind: r for kind, r in results.items() if not isinstance(r, str)}
    examined = {kind: r for kind, r in reports.items() if r[3].examined}
    ill = {kind: findings_of(r[3]) for kind, r in examined.items() if findings_of(r[3])}
    judged = {kind: {expected.get((kind, check), ("", "not judged"))[1] for check in found} for kind, found in ill.items()}
    faulty = [kind for kind, words in judged.items() if "fault" in words]
    false = [kind for kind, words in judged.items() if words - {"fault", "meant"} and kind not in faulty]
    meant = [kind for kind, words in judged.items() if words == {"meant"}]
    healthy = len(examined) - len(faulty) - len(meant)
    times = sorted(r[2] for r in reports.values())
    crashes = sum(bool(r[3].of(Status.ERROR)) for r in reports.values())
    return (
        f"transformers {transformers.__version__}: {len(results)} causal LMs, {len(examined)} examined, {crashes} crashes of "
        f"the doctor; {len(faulty)} with a fault of their own, {len(meant)} unusual on purpose; "
        f"of the {healthy} others {len(false)} called ill "
        f"({len(false) / max(healthy, 1):.1%}); processor seconds a model: median {statistics.median(times):.2f}, "
        f"most {times[-1]:.1f}"
    )


def row(kind: str, result: tuple[int, float, float, Report] | str) -> dict:
    """Return what is stored of one model. How its failures are judged stands in transformers.tsv."""
    cells: dict = dict(model=kind, parameters="", exit_status="", failed="", warned="", seconds="", note="")
    if isinstance(result, str):
        cells |= dict(note=result)
    else:
        size, _, seconds, report = result
        cells |= dict(
            parameters=size,
            exit_status=report.exit_status,
            failed="; ".join(findings_of(report)),
            warned="; ".join(f.check for f in report.of(Status.WARN)),
            seconds=round(seconds, 2),
            note="; ".join(f.evidence for f in report.of(Status.ERROR)),
        )
    return cells | dict(transformers=transformers.__version__, torch=torch.__version__)


def main(words: list[str] | None = None) -> int:
    """Examine what the command line names, all by default. 1 if anything is not as expected."""
    parser = argparse.ArgumentParser(description="Examine every causal language model of the installed transformers.")
    parser.add_argument("kinds", nargs="*", metavar="model_type", help="llama mamba …; all if none is named")
    parser.add_argument("--show", action="store_true", help="print each report")
    given = parser.parse_args(words)
    if unknown := set(given.kinds) - set(CAUSAL_LMS):
        parser.error(f"transformers {transformers.__version__} has no causal LM {', '.join(sorted(unknown))}")
    expected, results, differ = read_expected(), {}, 0
    for kind in given.kinds or sorted(CAUSAL_LMS):
        results[kind] = result = examine_apart(kind)
        if isinstance(result, str):
            print(f"{kind:28}{result}", flush=True)
            differ += (kind, "made") not in expected
            continue
        size, _, seconds, report = result
        found = findings_of(report)
        lines = compare(kind, found, expected)
        differ += bool(lines)
        print(f"{kind:28}{size:>10,} parameters {seconds:6.2f} s  {report.exit_status}  {', '.join(found) or '-'}", flush=True)
        for line in lines:
            print(f"    {line}")
            f = report[line.split(": ")[1].rpartition(" ")[0]] if line.startswith("new") else None
            if f is not None:
                print(f"        {f.text}\n        {f.cause}\n        {f.where}")
        if given.show:
            print(report)
    if any(not isinstance(r, str) for r in results.values()):
        print(summary(results, expected))
    if not given.kinds:
        import picogpt  # here, because wild.py takes `make` from this file where only torch and transformers are installed

        torch.set_num_threads(1)  # as in `examine`, for the name of the machine
        machine = dict(machine=picogpt.describe_machine())
        picogpt.files.save_rows(TABLE, [row(kind, result) | machine for kind, result in results.items()])
    print(f"{differ} of {len(results)} not as expected")
    return int(differ > 0)


if __name__ == "__main__":
    sys.exit(main())
