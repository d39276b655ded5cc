"""Everything around a GPT: text, tokenizers, checkpoints, the training loop, GPT-2's files, plots, the command line.

    import picogpt_core as pc          # what a GPT is
    import picogpt                     # what is around it

    corpus = picogpt.load_corpus()
    run = picogpt.train(pc.GPT(pc.ModelConfig()), corpus, pc.TrainConfig(steps=300))

Each file imports only those before it: files, machine, download, tokenizer, data, checkpoint, compiled, train, gpt2, study,
verify, judge, plot, draw, head_page, patients (of lesson 13), cli. `picogpt.train` is the function; its module is reached by
`from picogpt.train import …`. On the command line: `python -m picogpt --help`.
"""

from . import draw
from .checkpoint import Checkpoint, TrainingState, load_checkpoint, load_shipped, save_checkpoint
from .compiled import CompiledGPT
from .data import SHAKESPEARE, Corpus, bits_per_byte, load_corpus, load_shakespeare, split
from .files import DATA, ROOT, atomic_write, load_rows, save_rows
from .gpt2 import FINETUNE, crop_block_size, from_pretrained, pretrained_tokenizer, save_pretrained
from .head_page import head_page, show_heads
from .judge import judge as judge_model
from .machine import budget, describe_machine, has_fast_bfloat16, matmul_flops, pick_device, rank_and_world_size
from .plot import plot_attention, plot_finals, plot_history, plot_ngrams, plot_study, visible_characters
from .study import Difference, compare, final_losses, paired_difference, read_nanogpt_log, summary_of
from .tokenizer import BpeTokenizer, CharTokenizer, Tokenizer, generate_text, gpt2_tokenizer, learn_bpe
from .train import Run, describe_run, train
from .verify import compare_with_bands, usual, verify_machine

__all__ = [
    "DATA",
    "FINETUNE",
    "ROOT",
    "SHAKESPEARE",
    "BpeTokenizer",
    "CharTokenizer",
    "Checkpoint",
    "CompiledGPT",
    "Corpus",
    "Difference",
    "Run",
    "Tokenizer",
    "TrainingState",
    "atomic_write",
    "bits_per_byte",
    "budget",
    "compare",
    "compare_with_bands",
    "crop_block_size",
    "describe_machine",
    "describe_run",
    "draw",
    "final_losses",
    "from_pretrained",
    "generate_text",
    "gpt2_tokenizer",
    "has_fast_bfloat16",
    "head_page",
    "judge_model",
    "learn_bpe",
    "load_checkpoint",
    "load_corpus",
    "load_rows",
    "load_shakespeare",
    "load_shipped",
    "matmul_flops",
    "paired_difference",
    "pick_device",
    "plot_attention",
    "plot_finals",
    "plot_history",
    "plot_ngrams",
    "plot_study",
    "pretrained_tokenizer",
    "rank_and_world_size",
    "read_nanogpt_log",
    "save_checkpoint",
    "save_pretrained",
    "save_rows",
    "show_heads",
    "split",
    "summary_of",
    "train",
    "usual",
    "verify_machine",
    "visible_characters",
]
