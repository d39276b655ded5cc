"""What PyTorch does while a model answers: which softmax over which axis, which attention weights came out of it.

A Tape is a TorchDispatchMode: it is shown every operation after it was carried out. What is known of a tensor, for instance
"the scores of these queries and keys, divided by 2.83", is a Facts, and facts travel with the data: the result of an operation
takes over the facts of its first tensor argument; operations in FRESH forget them; a few (products, softmax) write new ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from .report import one_line


@dataclasses.dataclass(frozen=True, eq=False)
class Facts:
    """What is known of a tensor. N is B·nh or (B, nh), as the model has it."""

    q: Tensor | None = None  # (N, Tq, hs): it holds scores, of these queries
    k: Tensor | None = None  # (N, Tk, hs): and these keys
    hs: int | None = None  # the axis that queries and keys have in common
    factor: float | None = 1.0  # what it was multiplied by since the last linear layer; None: learned, or not one number
    source: Tensor | None = None  # the input of the linear layer that it comes from
    scores: Tensor | None = None  # (N, Tq, Tk): what went into the softmax that it comes from
    soft: Tensor | None = None  # (N, Tq, Tk): what came out of it
    beside: tuple[int, float] = (0, 1.0)  # it may hold scores of other keys than those of the T positions: hs, and what to
    # multiply `factor` by, which is counted from the product on
    axis: str = "keys"  # what that softmax ran over: keys, queries, or another axis
    wide: str = ""  # the weight of a linear layer that widened it, with nothing but a bias since
    raised: tuple[str, float] = ("", 0.0)  # what bounds the scores from below, in words, and the lowest one before that
    projected: str = ""  # the weight of a linear layer, of whose output it is all or part, with nothing but a bias since
    product: tuple[str, str] = ("", "")  # of which two such outputs, of one input, it is the product
    plain: tuple[str, int] = ("", 0)  # that of any linear layer, and how many features it took, with nothing but a bias since

    @property
    def empty(self) -> bool:
        tensors = (self.q, self.k, self.source, self.scores, self.soft)
        return (
            all(x is None for x in tensors)
            and self.factor == 1.0
            and not self.wide
            and not self.plain[0]
            and not self.projected
            and not self.beside[0]
        )


NOTHING = Facts()
UNDO = {"tanh": "a soft cap (tanh)", "nan_to_num": "nan_to_num", "hardtanh": "hardtanh"}  # what makes a mask's -inf finite
UNDO |= dict.fromkeys(("clamp", "clamp_min", "maximum"), "a clamp")


@dataclasses.dataclass
class Attention:
    """One attention that was recorded. N is B·nh or (B, nh), as the model has it."""

    weights: Tensor  # (N, Tq, Tk): what the values are weighted with in the end
    out: Tensor  # (N, Tq, hs): the weighted values
    facts: Facts  # of the weights
    v: Tensor | None = None  # (N, Tk, hs)
    after: Tensor | None = None  # the input of the next linear layer
    fused: str = ""  # of scaled_dot_product_attention: how its mask was given

    # the facts under short names, for the checks
    q = property(lambda self: self.facts.q)
    k = property(lambda self: self.facts.k)
    hs = property(lambda self: self.facts.hs)
    factor = property(lambda self: self.facts.factor)
    source = property(lambda self: self.facts.source)
    scores = property(lambda self: self.facts.scores)
    soft = property(lambda self: self.facts.soft)
    axis = property(lambda self: self.facts.axis)


@dataclasses.dataclass(frozen=True)
class Lookup:
    """Rows that were taken from a table: an embedding."""

    name: str  # of the table, "" if it is not a weight of the model
    length: int  # of the table
    rows: Tensor  # the indices


@dataclasses.dataclass(frozen=True)
class Statistics:
    """A mean, variance or norm that was taken."""

    kind: str  # LayerNorm, BatchNorm, mean
    shape: tuple[int, ...]
    dims: tuple[int, ...]  # the axes that it ran over


Handler = Callable[["Tape", tuple, dict, Tensor, Facts], Facts | None]
HANDLERS: dict[str, Handler] = {}


def on(*operations: str) -> Callable[[Handler], Handler]:
    """Register a handler for operations by PyTorch's names, without underscores at either end.

    It is given (tape, args, kwargs, result, facts) and returns the facts of the result, or None to leave them as they are.
    """

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(operations, handler))
        return handler

    return register


class Tape(TorchDispatchMode):
    """Record attentions, embeddings, statistics and random numbers of one call on ids (B, T).

    T is chosen so that no other axis is as long: two axes of length T are queries and keys. `start` positions may be in a
    cache already; then there are T queries and start + T keys. `names_by_address` maps data_ptr() of each weight and buffer to
    its name. What could not be recorded is counted in `not_recorded`; `strict` raises the first such error at the end.
    """

    FRESH = frozenset({"mm", "addmm", "linear", "embedding", "native_layer_norm", "convolution", "_softmax"})
    SAME = frozenset(
        {"view", "_unsafe_view", "t", "transpose", "permute", "clone", "expand", "squeeze", "unsqueeze", "_to_copy"}
    )
    KEEPS_SCORES = frozenset({"add", "sub", "masked_fill", "where", "minimum", "maximum"})  # of whichever argument has them
    PARTS = SAME | {
        "unsafe_view",
        "to_copy",
        "slice",
        "select",
        "split",
        "chunk",
        "unbind",
        "split_with_sizes",
        "reshape",
        "alias",
    }
    JOINS = frozenset({"cat", "stack"})
    ACTIVATIONS = frozenset({"silu", "gelu", "relu", "mish", "elu", "leaky_relu"})
    PRODUCTS = frozenset({"bmm", "baddbmm", "mm", "addmm", "linear"})

    def __init__(self, names_by_address: dict[int, str], ids: Tensor, start: int = 0, not_recorded=None, strict=False):
        super().__init__()
        self.names_by_address, self.strict = names_by_address, strict
        self.not_recorded: Counter[str] = Counter() if not_recorded is None else not_recorded
        self.first_error: Exception | None = None
        self.ids, self.T, self.keys = ids, ids.shape[1], start + ids.shape[1]
        self.attentions: list[Attention] = []
        self.embeddings: list[Lookup] = []
        self.tables: list[tuple[str, int]] = []  # name and length of what was cut to T positions
        self.statistics: list[Statistics] = []
        self.random = False  # whether random numbers were drawn
        self.angles: list[tuple[int, ...]] = []  # shapes of cosines, computed or cut from a table: of rotary embeddings
        self.choices: list[tuple[int, ...]] = []  # the shapes of what the largest were taken of
        self.half_angles = ""  # "bfloat16": what angles are computed in
        self.nonlinear: set[str] = set()  # the operations that were carried out, by PyTorch's names
        self.halved: Counter[str] = Counter()  # "float16": how many float32 tensors of the call were made so
        self.sums_aside: list[tuple[tuple[int, ...], int]] = []  # shape and axis of running sums along another axis than time
        self.convolved: list[tuple[Tensor, Tensor]] = []  # (B, C, …): what convolutions over time were given, and gave
        self.padded: list[int] = []  # kernel sizes of convolutions that are padded on the right
        self.reordered: list[str] = []  # roll and flip along time
        self.softmaxes: list[tuple[int, ...]] = []  # the shapes of all of them
        self.scores: list[Tensor] = []  # (…, Tq, Tk): what went into each softmax over keys
        self.beside: list[tuple[int, int, float]] = []  # head size, keys and factor of softmaxes over other keys (a prefix)
        self.narrowed = 0  # how many linear layers give half as many features as they take, or fewer
        self.straight: list[tuple[str, str]] = []  # a layer that widens, and the next one, which narrows its output
        # linear layers whose output also goes elsewhere, into a sum, an attention, or another linear layer: the two in a row
        # cannot become one
        self.elsewhere: set[str] = set()
        self.taken_by: dict[str, set[str]] = defaultdict(set)  # for each linear layer, those that take its unchanged output
        self.done_with: dict[str, set[str]] = defaultdict(set)  # for each weight or buffer, the operations that take it
        self.gated: list[tuple[str, str, str]] = []  # an activation, and the two linear layers whose product it was given
        self.alive: list = []  # tensors of the call must stay, or their ids would be used again
        self.facts_by_id: dict[int, Facts] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or the first call would import the compiler, for seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        try:
            self.record(func, args, kwargs or {}, out)
        except Exception as error:  # an unforeseen form: the model goes on, and the report counts it
            self.not_recorded[f"{func.overloadpacket}: {one_line(error)}"] += 1
            self.first_error = self.first_error or error
        return out

    def __exit__(self, kind, value, trace):
        super().__exit__(kind, value, trace)
        if self.strict and self.first_error is not None and kind is None:
            raise self.first_error

    def record(self, func, args: tuple, kwargs: dict, out) -> None:
        """Work out the facts of an operation's result."""
        operation = func.overloadpacket.__name__
        first = next((a for a in args if isinstance(a, Tensor)), None)
        self.nonlinear.add(operation.strip("_"))
        for name in filter(None, map(self.name, args)):
            self.done_with[name].add(operation.strip("_"))
        result = out[0] if isinstance(out, tuple) and out and isinstance(out[0], Tensor) else out
        if not isinstance(result, Tensor):
            if isinstance(out, list | tuple) and first is not None:  # split, chunk, unbind: the parts are like the whole
                for part in out:
                    self.remember(part, self.facts_of(first))
            return
        facts = self.inherited(operation, args, self.facts_of(first))
        facts = self.projection(operation.strip("_"), args, facts)
        if operation in self.JOINS:  # rotary halves, or a part with positions beside one without
            parts = [self.facts_of(x) for x in args[0]]
            if len({f.factor for f in parts}) == 1:
                facts = Facts(factor=parts[0].factor, source=parts[0].source)
        if handler := HANDLERS.get(operation.strip("_")):
            facts = handler(self, args, kwargs, result, facts) or facts
        if operation in self.PRODUCTS:
            facts = self.product(operation, args, kwargs, result, facts)
        elif operation.startswith("_scaled_dot_product"):
            facts = self.fused_attention(named_arguments(func, args, kwargs), result)
        elif first is not None and facts.q is not None and operation.strip("_") in UNDO and self.is_scores(first):
            facts = dataclasses.replace(facts, raised=(UNDO[operation.strip("_")], float(first.min())))
        self.remember(result, facts)

    def inherited(self, operation: str, args: tuple, facts: Facts) -> Facts:
        """Return what the result of an operation takes over from its arguments; `facts` are those of the first tensor."""
        if operation in self.FRESH:
            facts = NOTHING
        # a bias may be added, or another widened tensor
        linear = operation == "add" and (any(map(self.name, args)) or all(self.facts_of(a).wide for a in args))
        if facts.wide and operation not in self.SAME and not linear:
            facts = dataclasses.replace(facts, wide="")
        biased = operation.rstrip("_") == "add" and any(map(self.name, args))
        if operation.rstrip("_") == "add" and not biased and all(isinstance(a, Tensor) for a in args[:2]):
            plain = {name for a in args[:2] if (name := self.facts_of(a).plain[0])}
            # the sum of two linear layers is one, unless the other comes after this one (an adapter and what it adapts)
            self.elsewhere |= plain if len(plain) == 1 else {name for name in plain if self.taken_by.get(name)}
        if facts.plain[0] and operation not in self.SAME and not biased:
            facts = dataclasses.replace(facts, plain=("", 0))
        if operation.rstrip("_") in self.KEEPS_SCORES:
            facts = next((self.facts_of(a) for a in args if self.facts_of(a).q is not None), facts)
        by = self.number(args[1], args[0]) if operation.rstrip("_") in ("mul", "div") and len(args) > 1 else None
        if by is not None:
            if facts.factor is None or math.isnan(by):
                return dataclasses.replace(facts, factor=None)
            return dataclasses.replace(facts, factor=facts.factor * by if "mul" in operation else facts.factor / by)
        if operation in ("mul", "mul_") and facts.soft is None and self.facts_of(args[1]).q is not None:
            return self.facts_of(args[1])
        return facts

    def projection(self, operation: str, args: tuple, facts: Facts) -> Facts:
        """Return the facts with what is known of projections: a gate multiplies two, one of them after an activation."""
        mine = [self.facts_of(a) for a in args[:2] if isinstance(a, Tensor)]
        if operation in self.ACTIVATIONS and mine and mine[0].product[0]:
            self.gated.append((operation, *mine[0].product))
        biased = operation == "add" and any(map(self.name, args))
        keeps = operation in self.PARTS or biased
        product = ("", "")
        of = [m.source.data_ptr() for m in mine if m.projected and m.source is not None]  # each layer sees a view of its own
        if operation == "mul" and len(of) == 2 and of[0] == of[1]:
            product = (mine[0].projected, mine[1].projected)
        if keeps == bool(facts.projected) and facts.product == product:
            return facts
        return dataclasses.replace(facts, projected=facts.projected if keeps else "", product=product)

    def facts_of(self, tensor) -> Facts:
        return self.facts_by_id.get(id(tensor), NOTHING) if isinstance(tensor, Tensor) else NOTHING

    def remember(self, tensor, facts: Facts) -> None:
        self.alive.append(tensor)
        self.facts_by_id[id(tensor)] = facts

    def name(self, tensor) -> str:
        """Return the name of a weight or buffer, "" of any other tensor."""
        return self.names_by_address.get(tensor.data_ptr(), "") if isinstance(tensor, Tensor) else ""

    def number(self, by, what) -> float | None:
        """Return a factor that is the same for all as a number; nan for a learned one; None for a tensor of many."""
        if isinstance(by, int | float):
            return float(by)
        if isinstance(by, Tensor) and by.numel() == 1:
            return math.nan if self.name(by) or by.requires_grad else float(by)
        if isinstance(what, Tensor) and what.numel() == 1 and isinstance(by, Tensor):
            return float(what)
        return None

    def is_ids(self, rows: Tensor) -> bool:
        """Whether these are the ids themselves."""
        return rows.numel() == self.ids.numel() and any(
            torch.equal(rows.flatten(), ids.flatten()) for ids in (self.ids, self.ids.t())
        )

    def is_scores(self, tensor) -> bool:
        """Whether the last two axes are queries and keys."""
        return isinstance(tensor, Tensor) and tensor.dim() >= 2 and tuple(tensor.shape[-2:]) == (self.T, self.keys)

    def is_beside(self, a: Tensor, out: Tensor) -> bool:
        """Whether a product may be scores of T queries and other keys than those of the T positions."""
        return out.shape[-2] == self.T != a.shape[-1] and out.shape[-1] not in (self.T, self.keys) and out.dim() == 3

    def statistics_over_time(self) -> list[Statistics]:
        """Return each mean, variance or norm that ran over the axis of time."""
        return [
            s
            for s in self.statistics
            if len(s.shape) >= 3 and s.shape.count(self.T) == 1 and any(s.shape[d] == self.T for d in s.dims)
        ]

    # ----- products and attention

    def product(self, operation: str, args: tuple, kwargs: dict, out: Tensor, facts: Facts) -> Facts:
        """Record a matrix product: queries by keys, weights by values, or a linear layer."""
        adds, batched = operation in ("baddbmm", "addmm"), operation in ("bmm", "baddbmm")
        a, b = args[1:3] if adds else args[:2]
        if batched and self.is_scores(out) and a.shape[-1] != self.keys:  # q @ k.T
            fa, fb = self.facts_of(a).factor, self.facts_of(b).factor
            factor = None if fa is None or fb is None else fa * fb * float(kwargs.get("alpha", 1) if adds else 1)
            return Facts(q=a, k=b.transpose(-2, -1), hs=a.shape[-1], source=self.facts_of(a).source, factor=factor)
        if batched and self.is_scores(a) and out.shape[-1] != self.keys:  # weights @ v
            known = self.facts_of(a)
            self.elsewhere |= {name} if (name := self.facts_of(b).plain[0]) else set()
            if known.q is not None or known.soft is not None:
                self.attentions.append(Attention(a, out, known, v=b))
            return NOTHING
        if not batched:
            facts = self.linear(a, b, out, facts)
        if not batched or (operation == "bmm" and facts.empty):
            facts = dataclasses.replace(facts, source=a, factor=1.0)
        fa, fb = self.facts_of(a).factor, self.facts_of(b).factor
        if batched and not adds and self.is_beside(a, out) and fa is not None and fb is not None and facts.factor:
            return dataclasses.replace(facts, beside=(a.shape[-1], fa * fb / facts.factor))
        return dataclasses.replace(facts, beside=NOTHING.beside) if facts.beside[0] else facts

    def linear(self, a: Tensor, b: Tensor, out: Tensor, facts: Facts) -> Facts:
        """Record a linear layer: its input a (…, in), its matrix b, its output (…, out)."""
        if self.attentions and self.attentions[-1].after is None and len(a) == self.ids.numel():
            self.attentions[-1].after = a
        if not (weight := self.name(b)):
            return facts
        before, taken = self.facts_of(a).plain
        middle = a.shape[-1]
        if a.shape[-1] >= 2 * out.shape[-1]:
            self.narrowed += 1
        wide = self.facts_of(a).wide if a.shape[-1] >= 2 * out.shape[-1] else ""
        if before:
            self.taken_by[before].add(weight)
            self.elsewhere |= {before} if len(self.taken_by[before]) > 1 else set()
        if wide or (before and middle >= min(taken, out.shape[-1])):  # two matrices of a smaller rank between are meant
            self.straight.append((wide or before, weight))
        facts = dataclasses.replace(facts, plain=(weight, middle), projected=weight, product=("", ""))
        return dataclasses.replace(facts, wide=weight) if out.shape[-1] >= 2 * a.shape[-1] else facts

    def fused_attention(self, given: dict, out: Tensor) -> Facts:
        """Record what scaled_dot_product_attention runs, by the names of its arguments, which differ from kernel to kernel: the
        weights are computed anew from them."""
        q, k = given["query"], given["key"]  # (B, nh, Tq, hs), (B, nh, Tk, hs)
        self.elsewhere |= {name for tensor in (q, k, given["value"]) if (name := self.facts_of(tensor).plain[0])}
        self.softmaxes.append((*q.shape[:-1], k.shape[-2]))
        if (q.shape[-2], k.shape[-2]) != (self.T, self.keys):
            return NOTHING
        causal, scale, hs = given.get("is_causal", False), given.get("scale"), q.shape[-1]
        mask = given.get("attn_mask") if given.get("attn_bias") is None else given["attn_bias"]
        scale = 1 / math.sqrt(hs) if scale is None else scale
        if k.shape[1] != q.shape[1]:  # several query heads to one key head
            k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        scores = q.float() @ k.float().transpose(-2, -1) * scale  # (B, nh, Tq, hs) @ (B, nh, hs, Tk) -> (B, nh, Tq, Tk)
        if causal:
            scores = scores.masked_fill(~torch.ones_like(scores[0, 0], dtype=torch.bool).tril(), -math.inf)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        fq, fk = self.facts_of(q).factor, self.facts_of(k).factor
        factor = None if fq is None or fk is None else fq * fk * scale
        soft = scores.softmax(dim=-1)
        facts = Facts(q=q, k=k, hs=hs, factor=factor, source=self.facts_of(q).source, scores=scores, soft=soft)
        self.scores.append(scores)
        how = "is_causal=True" if causal else "a mask" if mask is not None else "no mask"
        self.attentions.append(Attention(soft, out, facts, v=given["value"], fused=how))
        return NOTHING


def named_arguments(func, args: tuple, kwargs: dict) -> dict:
    """Return the arguments of an operation by name, with the defaults of those that were not given."""
    schema = func._schema.arguments
    defaults = {a.name: a.default_value for a in schema if a.has_default_value()}
    return defaults | dict(zip((a.name for a in schema), args, strict=False)) | kwargs


class Stilled(TorchDispatchMode):
    """Random numbers at their means, and nothing dropped, in the block: what is left is what the tokens do.

    How many numbers are drawn may depend on the tokens (dropout on the tokens that an expert gets); then all others, drawn
    later, are other ones, and that looks like a dependence.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn = False  # whether numbers were drawn that are no dropout of PyTorch's: what is made of means is not known

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given, name = named_arguments(func, args, kwargs or {}), func.overloadpacket.__name__
        if name in ("native_dropout", "_fused_dropout"):
            x = given.get("input", given.get("self"))
            return x.clone(), torch.ones_like(x, dtype=torch.bool if name == "native_dropout" else torch.uint8)
        if name.startswith("_scaled_dot_product") and given.get("dropout_p"):
            positions = [a.name for a in func._schema.arguments]
            at = positions.index("dropout_p")
            return func(*args[:at], 0.0, *args[at + 1 :], **(kwargs or {}))
        out = func(*args, **(kwargs or {}))
        kind = name.strip("_").removesuffix("_like").removesuffix("_functional")
        if kind == "bernoulli":
            mean = given.get("p", given["self"] if name == "bernoulli" else 0.5)
        elif kind in ("rand", "uniform"):
            mean = (given.get("from", 0.0) + given.get("to", 1.0)) / 2
        elif kind in ("randn", "normal"):
            mean = given.get("mean", 0.0)
        elif kind == "exponential":
            mean = 1 / given["lambd"]
        else:
            return out
        self.drawn = True
        return out.copy_(mean) if isinstance(mean, Tensor) else out.fill_(mean)


class Telling(TorchDispatchMode):
    """What the head computes, less its mean over some texts and times a factor, in the block: then the likeliest token is
    another one at other positions, and, with a large factor, nearly always the one that is drawn.

    The weights themselves stay: the head may be the embedding too, and other weights would change the stream that it reads.
    """

    def __init__(self, head: Tensor | None, vocab: int):
        super().__init__()
        self.head, self.vocab, self.factor = None if head is None else head.data_ptr(), vocab, 1.0
        self.mean: Tensor | None = None  # (V,)
        self.seen: list[Tensor] = []  # (…, V): what the head computed, until `begin`

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def begin(self, factor: float) -> bool:
        """Change the logits from now on, by what was seen; return whether they are, which needs a head that was found."""
        if len(self.seen) != 1:
            self.head = None
            return False
        self.mean, self.factor = self.seen[0].reshape(-1, self.vocab).mean(dim=0), factor
        self.seen = []
        return True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if self.head is None or func.overloadpacket.__name__ not in Tape.PRODUCTS or out.shape[-1] != self.vocab:
            return out
        if not any(isinstance(a, Tensor) and a.data_ptr() == self.head for a in args):
            return out
        if self.mean is None:
            self.seen.append(out)
            return out
        return (out - self.mean) * self.factor


class InRange(TorchDispatchMode):
    """An index that is out of range, or nothing to draw from, raises in the block what it raises on a CPU, before the operation
    runs.

    On a GPU the operation itself would run into an assertion of the device, and no later call of this process could use that
    GPU. Some checks ask on purpose for a position past the last one, for a target that the loss may not ignore, or for a top_p
    that may leave no token. Code that is compiled already, and kernels that are not PyTorch's, are not seen.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if (error := out_of_range(func, args, kwargs or {})) is not None:
            raise error  # here, and not deeper: a frame below this one would look like a hook of the doctor's
        return func(*args, **(kwargs or {}))


BAGS = frozenset({"embedding_bag", "embedding_bag_forward_only"})
LOSSES = frozenset({"nll_loss_forward", "nll_loss2d_forward"})
ALONG_ONE = frozenset({"gather", "scatter", "scatter_add", "scatter_reduce", "index_select", "index_add", "index_reduce"})
ALONG_ONE |= {"index_copy", "index_fill"}
ALONG_EACH = frozenset({"index", "index_put", "index_put_impl", "unsafe_index", "unsafe_index_put"})  # an index for each axis
LOOKED_AT = BAGS | LOSSES | ALONG_ONE | ALONG_EACH | {"embedding", "multinomial"}


def out_of_range(func, args: tuple, kwargs: dict) -> Exception | None:
    """Return the exception that an operation raises on a CPU if an index in its arguments is out of range, or if they are no
    probabilities to draw by."""
    name = func.overloadpacket.__name__.strip("_")
    if name not in LOOKED_AT:
        return None
    given = named_arguments(func, args, kwargs)
    with _disable_current_modes(), torch._C.DisableTorchFunction():  # a tape would take this for the model's work
        if name in BAGS | {"embedding"}:
            error = IndexError if name == "embedding" else RuntimeError
            return error("index out of range in self") if beyond(given["indices"], len(given["weight"])) else None
        x = given["self"]
        if name == "multinomial":
            return no_probabilities(x)
        if name in LOSSES:
            target = given["target"].long()
            found = beyond(target[target != given["ignore_index"]], x.shape[1 if x.dim() > 1 else 0])
            return IndexError(f"Target {found[0]} is out of bounds.") if found else None
        indices = [*given["indices"]] if name in ALONG_EACH else [None] * (given["dim"] % max(x.dim(), 1)) + [given["index"]]
        axis, wraps = 0, name in ALONG_EACH | {"index_fill"}
        for index in indices:
            if index is not None and index.dtype in (torch.bool, torch.uint8):  # a mask of one or several axes
                axis += index.dim()
                continue
            size = x.shape[axis] if axis < x.dim() else 1
            if index is not None and (found := beyond(index, size, -size if wraps else 0)):
                error = IndexError if wraps or name == "index_copy" else RuntimeError
                return error(f"index {found[0]} is out of bounds for dimension {axis} with size {size}")
            axis += 1
    return None


def beyond(index: Tensor, size: int, lowest: int = 0) -> list[int]:
    """Return the first of some indices that is not from `lowest` to size - 1, [] if there is none."""
    return index[(index < lowest) | (index >= size)][:1].tolist()


def no_probabilities(x: Tensor) -> Exception | None:
    """Return what torch.multinomial raises on a CPU for these numbers (…, V) if it cannot draw by them."""
    if not bool((x.isfinite() & (x >= 0)).all()):
        return RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
    nothing = bool((x.sum(dim=-1) <= 0).any())
    return RuntimeError("invalid multinomial distribution (sum of probabilities <= 0)") if nothing else None


# ----- single operations


@on("softmax", "safe_softmax")
def _(tape: Tape, args, kwargs, out, facts) -> Facts | None:
    x, dim = args[0], args[1] % args[0].dim()
    tape.softmaxes.append(tuple(x.shape))
    known = tape.facts_of(x)
    if known.beside[0] and known.factor is not None and dim == x.dim() - 1:
        tape.beside.append((known.beside[0], x.shape[-1], known.beside[1] * known.factor))
    if not (tape.is_scores(x) and sum(n in (tape.T, tape.keys) for n in x.shape) >= 2):
        queries = [d for d, n in enumerate(x.shape[:-1]) if n == tape.T]
        if dim == x.dim() - 1 and x.shape[-1] == tape.keys and len(queries) == 1:  # (B, Tq, nh, Tk), say
            tape.scores.append(x.movedim(queries[0], -2))
        return None
    axis = {x.dim() - 1: "keys", x.dim() - 2: "queries"}.get(dim, "another axis")
    if axis == "keys":
        tape.scores.append(x)
    return dataclasses.replace(tape.facts_of(x), scores=x, soft=out, axis=axis)


@on("to_copy")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    if args[0].dtype == torch.float32 and out.dtype in (torch.float16, torch.bfloat16) and tape.T in out.shape:
        tape.halved[str(out.dtype).removeprefix("torch.")] += 1


@on("embedding")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    tape.embeddings.append(Lookup(tape.name(args[0]), args[0].shape[0], args[1].detach().clone()))


@on("index")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    rows = [i for i in args[1] if i is not None]
    if tape.name(args[0]) and len(rows) == 1 and args[0].dim() == 2:
        tape.embeddings.append(Lookup(tape.name(args[0]), args[0].shape[0], rows[0].detach().clone()))


@on("slice")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    cut = [n for n, m in zip(args[0].shape, out.shape, strict=True) if m == tape.T and n > m]
    if cut and (name := tape.name(args[0])):
        tape.tables.append((name, cut[0]))
    if out.dim() >= 2 and any(word in tape.name(args[0]).lower() for word in ("cos", "freq", "rotary", "rope")):
        tape.angles.append(tuple(out.shape))


@on("native_layer_norm", "fused_rms_norm")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    shape = tuple(args[0].shape)
    tape.statistics.append(Statistics("LayerNorm", shape, tuple(range(len(shape) - len(args[1]), len(shape)))))


@on("native_batch_norm")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    tape.statistics.append(Statistics("BatchNorm", tuple(args[0].shape), (0,)))


@on("mean", "var", "var_mean", "std", "std_mean", "amax")
def record_mean(tape: Tape, args, kwargs, out, facts) -> None:
    shape, dims = tuple(args[0].shape), kwargs.get("dim", args[1] if len(args) > 1 else None)
    if len(shape) > 1 and not isinstance(dims, bool):
        dims = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
        tape.statistics.append(Statistics("mean", shape, tuple(d % len(shape) for d in dims)))


@on("linalg_vector_norm")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    record_mean(tape, (args[0], args[2] if len(args) > 2 else None), kwargs, out, facts)


@on("convolution")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    weight, padding = args[1], args[4]
    if weight.dim() == 3:
        tape.convolved.append((args[0], out))
    if weight.dim() == 3 and out.shape[-1] == args[0].shape[-1] == tape.T and padding[0] > 0:
        tape.padded.append(weight.shape[-1])


@on("constant_pad_nd")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    x, pad = args[:2]
    if len(pad) >= 2 and x.dim() == 3 and x.shape[-1] == tape.T and pad[1] > 0:
        tape.padded.append(pad[0] + pad[1] + 1)


@on("cos", "polar")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    if out.dim() >= 2:
        tape.angles.append(tuple(out.shape))
        if args[0].dtype in (torch.float16, torch.bfloat16):
            tape.half_angles = str(args[0].dtype).removeprefix("torch.")


@on("topk", "max", "argmax", "sort")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    tape.choices.append(tuple(args[0].shape))


@on("cumsum")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    shape = tuple(args[0].shape)
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % max(len(shape), 1)
    if len(shape) >= 4 and args[0].is_floating_point() and shape.count(tape.T) == 1 and shape[dim] != tape.T:
        tape.sums_aside.append((shape, dim))


@on("roll")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    if args[0].is_floating_point() and tape.T in args[0].shape:
        tape.reordered.append("torch.roll carries the last tokens to the front")


@on("flip")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    if args[0].is_floating_point() and any(args[0].shape[d] == tape.T for d in args[1]):
        tape.reordered.append("torch.flip reverses the order of time")


@on("native_dropout", "bernoulli", "rand", "randn", "rand_like", "randn_like", "normal", "uniform", "multinomial")
@on("randint", "normal_functional")
def _(tape: Tape, args, kwargs, out, facts) -> None:
    tape.random = True
