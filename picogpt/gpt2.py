"""GPT-2's files, as Hugging Face's transformers writes them, to our names and back. transformers itself is not needed.

A folder holds config.json (settings), model.safetensors (weights) and mostly tokenizer.json. The names of the weights are
ours, behind "transformer.". Four matrices of each block are transposed: transformers' Conv1D keeps them (in, out),
nn.Linear (out, in). Seen in transformers 5.23; https://huggingface.co/docs/transformers/model_doc/gpt2
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from picogpt_core import GPT, CausalSelfAttention, ModelConfig, TrainConfig, require

from .files import atomic_write
from .tokenizer import BpeTokenizer, Tokenizer, gpt2_tokenizer

# nanoGPT's recipe for GPT-2 on Tiny Shakespeare (config/finetune_shakespeare.py): 32 windows a step, one at a time
FINETUNE = TrainConfig(
    steps=20,
    batch_size=32,
    grad_accum=32,
    optimizer="adamw",
    learning_rate=3e-5,
    schedule="constant",
    warmup_steps=0,
    weight_decay=0.1,
    beta2=0.95,
    eval_every=5,
    log_every=1,
)

TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")

# ours: theirs
FIELDS = {
    "vocab_size": "vocab_size",
    "block_size": "n_positions",
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "tied_head": "tie_word_embeddings",
    "embd_dropout": "embd_pdrop",
    "resid_dropout": "resid_pdrop",
    "attn_dropout": "attn_pdrop",
}
# theirs: ours
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
# what an old config.json may leave out, and its value then
DEFAULTS = {"activation_function": "gelu_new", "tie_word_embeddings": True}
# theirs, which ours cannot change
REQUIRED = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
# ours, which theirs cannot change
THEIR_MODEL = dict(norm="pre", norm_kind="layernorm", final_norm=True, head_bias=False, causal=True)
THEIR_MODEL |= dict(positions="learned", n_kv_head=None, qk_norm=False)


def from_pretrained(
    source, embd_dropout: float | None = None, resid_dropout: float | None = None, attn_dropout: float | None = None
) -> GPT:
    """Return GPT-2's weights in our model, as float32, in evaluation mode.

    `source` is a name on the Hugging Face hub ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl" or another GPT-2), a folder
    written by transformers, or a transformers model. The three dropouts are the file's unless given.
    OSError if the source cannot be had, ValueError if it is not a GPT-2 that ours can represent.
    """
    config, weights = read_pretrained(source)
    given = dict(embd_dropout=embd_dropout, resid_dropout=resid_dropout, attn_dropout=attn_dropout)
    given = {name: value for name, value in given.items() if value is not None}
    with torch.device("meta"):  # shapes without memory: the weights are put in place, not copied
        model = GPT(ModelConfig(**(dataclasses.asdict(config) | given)))
    if config.tied_head and "wte.weight" in weights:
        weights["lm_head.weight"] = weights["wte.weight"]
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights are not those its config.json describes: {error}") from None
    if config.tied_head:
        model.lm_head.weight = model.wte.weight  # one parameter again, not two with the same numbers
    return model.eval()


def save_pretrained(model: GPT, folder: Path | str, tokenizer: Tokenizer | None = None) -> None:
    """Write the model as a folder that transformers' GPT2LMHeadModel.from_pretrained opens, and a BPE tokenizer with it.

    Biases that ours does not have are written as zeros, which add nothing. ValueError for what transformers' GPT-2 cannot be.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    folder, config, weights = Path(folder), model.config, model.state_dict()
    odd = [f"{name}={getattr(config, name)!r}" for name, value in THEIR_MODEL.items() if getattr(config, name) != value]
    odd += [] if config.activation in ACTIVATIONS.values() else [f"activation={config.activation!r}"]
    require(not odd, f"transformers' GPT-2 has no place for {', '.join(odd)}: this model cannot be saved in its format")
    theirs: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name == "lm_head.weight":
            theirs |= {} if config.tied_head else {name: value}
            continue
        theirs["transformer." + name] = (value.t() if name.endswith(TRANSPOSED) else value).contiguous()
        bias = name.replace(".weight", ".bias")
        if bias not in weights and not name.startswith(("wte", "wpe")):
            theirs["transformer." + bias] = value.new_zeros(value.shape[0])
    activation = next(name for name, ours in ACTIVATIONS.items() if ours == config.activation)
    end = 50256 if config.vocab_size == 50257 else None  # GPT-2's <|endoftext|>
    about = {theirs: getattr(config, ours) for ours, theirs in FIELDS.items()} | REQUIRED
    about |= dict(activation_function=activation, bos_token_id=end, eos_token_id=end, architectures=["GPT2LMHeadModel"])
    texts = {"config.json": json.dumps(about, indent=1)}
    if isinstance(tokenizer, BpeTokenizer):
        texts["tokenizer.json"] = tokenizer.saved["bpe"]
    for name, content in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    try:
        with atomic_write(folder / "model.safetensors") as temporary:
            save_file(theirs, temporary, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(f"could not write {folder / 'model.safetensors'}: {error}") from None


def pretrained_tokenizer(source: Path | str) -> BpeTokenizer:
    """Return the tokenizer of a name or folder: its tokenizer.json, else GPT-2's own if the vocabulary has its size.

    OSError if the source cannot be had, ValueError if it has no tokenizer and its vocabulary is not GPT-2's.
    """
    folder = pretrained_folder(source)
    if (folder / "tokenizer.json").is_file():
        return BpeTokenizer((folder / "tokenizer.json").read_text(encoding="utf-8"))
    size = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vocab_size")
    require(size == 50257, f"{source} has no tokenizer.json, and its vocab_size={size} is not the 50257 of GPT-2's own")
    return gpt2_tokenizer()


def crop_block_size(model: GPT, block_size: int) -> GPT:
    """Limit the model to windows of `block_size` tokens, fewer than before: less memory, and the same answers for them."""
    most = model.config.block_size
    require(1 <= block_size <= most, f"block_size={block_size} must be from 1 to this model's {most}: it can only be cropped")
    model.config = dataclasses.replace(model.config, block_size=block_size)
    for module in model.modules():
        if isinstance(module, CausalSelfAttention):
            module.config = model.config
    if model.config.positions == "learned":
        model.wpe = nn.Embedding.from_pretrained(model.wpe.weight.data[:block_size].clone(), freeze=False)  # (block_size, C)
    return model


# ----- reading


def pretrained_folder(source: Path | str) -> Path:
    """Return the folder with a model's files: `source` itself, or fetched from the hub if it is a name like "gpt2".

    OSError, with what to do instead, if it is neither.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), allow_patterns=["config.json", "tokenizer.json", "model*.safetensors"]))
    except Exception as error:  # whatever a network can do
        raise OSError(
            f"{str(source)!r} is not a folder here, and the Hugging Face hub did not give it ({type(error).__name__}: "
            f"{str(error).splitlines()[0][:150]}). On a machine with a network, transformers makes a folder to bring here: "
            f"GPT2LMHeadModel.from_pretrained({str(source)!r}).save_pretrained(FOLDER)"
        ) from None


def config_from(about: dict, name: str) -> ModelConfig:
    """Return our settings for the entries of a config.json. ValueError names everything that ours cannot represent."""
    about = DEFAULTS | about
    other = [f"{key}={about[key]!r}" for key, value in REQUIRED.items() if about.get(key, value) != value]
    activation = about["activation_function"]
    other += [] if activation in ACTIVATIONS else [f"activation_function={activation!r}"]
    missing = [theirs for ours, theirs in FIELDS.items() if theirs not in about and "dropout" not in ours]
    require(not missing, f"the config.json of {name} lacks {', '.join(missing)}")
    inner = about.get("n_inner")
    other += [] if inner in (None, 4 * about["n_embd"]) else [f"n_inner={inner}"]
    require(not other, f"{name} is not a GPT-2 like ours: {', '.join(other)}")
    fields = {ours: about[theirs] for ours, theirs in FIELDS.items() if theirs in about}
    fields |= dict(qkv_bias=True, head_bias=False, activation=ACTIVATIONS[activation])
    return ModelConfig(**fields)


def read_pretrained(source) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return settings and weights of a name on the hub, a folder or a transformers model, by our names, as float32.

    Each tensor is read, transposed and copied by itself, so that there are never three copies of the weights. A tied head
    is left out: it is the embedding. OSError and ValueError as from_pretrained raises them.
    """
    if not isinstance(source, Path | str):
        config = config_from(source.config.to_dict(), "this model")
        theirs = source.state_dict().items()
    else:
        from safetensors import SafetensorError, safe_open

        folder = pretrained_folder(source)
        require((folder / "config.json").is_file(), f"{folder} has no config.json: it is not a folder of a transformers model")
        files = sorted(folder.glob("model*.safetensors"))  # large models are cut into several
        require(bool(files), f"{folder} has no model*.safetensors: save the model again with a recent transformers")
        try:
            config = config_from(json.loads((folder / "config.json").read_text(encoding="utf-8")), str(folder))
            opened = [safe_open(file, "pt") for file in files]
        except (json.JSONDecodeError, SafetensorError, OSError) as error:
            raise ValueError(f"{folder} cannot be read: a file is cut short or something else ({error})") from None
        theirs = ((name, file.get_tensor(name)) for file in opened for name in file.keys())  # noqa: SIM118 (not a mapping)
    weights = {}
    for name, value in theirs:
        name = name.removeprefix("transformer.")
        if name.endswith((".attn.bias", ".attn.masked_bias")) or (config.tied_head and name == "lm_head.weight"):
            continue  # old files keep the causal mask too
        value = value.t() if name.endswith(TRANSPOSED) else value
        weights[name] = torch.empty(value.shape).copy_(value)
    return config, weights
