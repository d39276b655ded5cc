P='/work/wt-lesson11/notebooks/11_kv_cache.py'
p=open(P).read()
def sub(a,b,n=1):
    global p
    assert p.count(a)==n,(p.count(a),a)
    p=p.replace(a,b)
sub('''print(f"the largest difference: {gap(largest, 0)}, of logits of standard deviation {plain.std():.1f}")''','''print(f"largest difference {gap(largest, 0)}, of logits of standard deviation {plain.std():.1f}")''')
sub('''    print(f"{rows:3} at once: {t:5.2f} ms for a step, {rows / t * 1000:7,.0f} characters per second")''','''    print(f"{rows:3} at once: {t:5.2f} ms a step, {rows / t * 1000:7,.0f} characters per second")''')
sub('''    print(f"{texts:3} at once: {many:5.1f} GB with 32 heads of keys and values, {few:5.1f} GB with 8")''','''    print(f"{texts:3} at once: {many:5.1f} GB with 32 heads of keys and values, {few:4.1f} with 8")''')
sub('''    print(f"{kv} heads: {pc.count_parameters(pc.GPT(config)):,} parameters, {size / 1e6:.2f} MB of cache")''','''    parameters = pc.count_parameters(pc.GPT(config))
    print(f"{kv} heads: {parameters:,} parameters, {size / 1e6:.2f} MB of cache")''')
open(P,'w').write(p)
T='/work/wt-lesson11/tests/test_exercises.py'
t=open(T).read()
old=t[t.index('    ("11", "check_memory"'):t.index('    ("12", "check_pass_rate", lambda p, q: (p * q)')]
new='''    ("11", "check_append", lambda store, length, new: None, "it returned None, wanted a tensor of shape (2, 3, 4, 4)"),
    ("11", "check_append", lambda store, length, new: store[length], "it returned (3, 9, 4), wanted"),
    ("11", "check_append", lambda store, length, new: store[99], "your function stopped with IndexError"),
    ("11", "check_append", appended(returns="store"), "return only what is filled"),
    ("11", "check_append", appended(returns="new"), "return the old ones too"),
    ("11", "check_append", appended(start=0), "for 1 after 4: the new ones stand at the beginning"),
    ("11", "check_append", appended(shift=1), "they are not in the store"),
    ("11", "check_append", appended(in_place=False), "the next step will not find them"),
    ("11", "check_append", appended(forget=True), "the older ones have changed"),
    ("11", "check_append", appended(to_the_end=True), "written beyond the new positions"),
    ("11", "check_append", lambda store, length, new: torch.cat([store, new], dim=2), "the store has room for them"),
    ("11", "check_append", lambda store, length, new: 0 * appended()(store, length, new), "not what the store holds"),
    ("11", "check_mask", lambda m, n: torch.ones(m, n + m).tril(n), "make it booleans, not float32"),
    ("11", "check_mask", lambda m, n: pc.causal_mask(n + m)[:m], "the triangle is at the top left"),
    ("11", "check_mask", lambda m, n: ~pc.causal_mask(m, past=n), "True and False are exchanged"),
    ("11", "check_mask", lambda m, n: pc.causal_mask(m, past=n).tril(n - 1), "may also look at itself"),
    ("11", "check_mask", lambda m, n: torch.ones(m, n + m).tril(n + 1).bool(), "one position too many"),
    ("11", "check_mask", lambda m, n: torch.ones(m, n + m).bool(), "the early ones see the later ones"),
    ("11", "check_mask", lambda m, n: torch.cat([torch.zeros(m, n).bool(), pc.causal_mask(m)], 1), "all old positions are visible"),
    ("11", "check_mask", lambda m, n: pc.causal_mask(m), "it returned (3, 3), wanted a tensor of shape (3, 7)"),
    ("11", "check_mask", lambda m, n: pc.causal_mask(m, past=n).flip(1), "row 0 is [0, 0, 1, 1, 1, 1, 1]"),
    ("11", "check_mask", lambda m, n: "a triangle", "it returned 'a triangle'"),
    ("11", "check_cached_attention", cached(mask=lambda m, n: pc.causal_mask(n + m)[:m]), "for 1 after 4: the triangle is at the top"),
    ("11", "check_cached_attention", cached(mask=lambda m, n: torch.ones(m, n + m).bool()), "see their own future"),
    ("11", "check_cached_attention", cached(root=False), "divide the scores by √hs"),
    ("11", "check_cached_attention", cached(late=True), "the mask comes before the softmax"),
    ("11", "check_cached_attention", cached(past=False), "the past is left out"),
    ("11", "check_cached_attention", cached(in_place=False), "are not in the stores"),
    ("11", "check_cached_attention", lambda q, k, v, ks, vs, n: q, "not the numbers of the whole text"),
    ("11", "check_cached_attention", lambda q, k, v, ks, vs, n: k @ q, "your function stopped with RuntimeError"),
    ("11", "check_cached_attention", lambda q, k, v, ks, vs, n: ..., "it returned Ellipsis"),
    ("11", "check_greedy", lambda model, ids, n: ids, "the prompt and 30 more"),
    ("11", "check_greedy", lambda model, ids, n: pc.generate(model, ids, GREEDY), "that is the core's loop"),
    ("11", "check_greedy", continued(cache=False), "915 tokens read. Each once makes 49"),
    ("11", "check_greedy", continued(whole=True), "Is what you read in the cache twice?"),
    ("11", "check_greedy", continued(pick=lambda z: z.argmin(1, keepdim=True)), "character 20 of the text is not the likeliest"),
    ("11", "check_greedy", lambda model, ids, n: continued()(model, ids, n).flip(1), "the prompt comes first"),
    ("11", "check_cache_bytes", lambda config, *sizes: cache_of(config, *sizes) / 2, "that is one of the two"),
    ("11", "check_cache_bytes", lambda c, *sizes: cache_of(c, *sizes) * c.n_head / (c.n_kv_head or 8), "only queries have n_head"),
    ("11", "check_cache_bytes", lambda c, *sizes: cache_of(c, *sizes) / c.n_layer, "each layer has keys"),
    ("11", "check_cache_bytes", lambda c, *sizes: cache_of(c, *sizes) * c.n_head, "C / n_head numbers"),
    ("11", "check_cache_bytes", lambda c, texts, T, number: cache_of(c, texts, T, 1), "multiply by the bytes of each"),
    ("11", "check_cache_bytes", lambda c, texts, T, number: cache_of(c, 1, T, number), "that is for one text"),
    ("11", "check_cache_bytes", lambda config, *sizes: 1e9, "1,000,000,000.0, wanted 7,864,320"),
    ("11", "check_cache_bytes", lambda config, *sizes: True, "it returned True, wanted a number"),
    ("11", "check_cache_bytes", lambda config, *sizes: config.heads, "your function stopped with AttributeError"),
    ("11", "check_cache_bytes", lambda config, *sizes: math.nan, "not yet, for PicoGPT: nan"),
    ("11", "check_ragged", lambda pads, width: None, "return positions, and mask"),
    ("11", "check_ragged", lambda pads, width: pads[width], "your function stopped with IndexError"),
    ("11", "check_ragged", lambda pads, width: (pads, pads), "positions: it returned (3,), wanted"),
    ("11", "check_ragged", lambda pads, width: (ragged(pads, width)[0], pads), "mask: it returned (3,), wanted"),
    ("11", "check_ragged", ragged_with(position=lambda t, pads: t + 0 * pads), "each row counts from its own first token"),
    ("11", "check_ragged", ragged_with(position=lambda t, pads: t - pads), "wpe has no row -5"),
    ("11", "check_ragged", ragged_with(position=lambda t, pads: (t - pads + 1).clamp(min=0)), "and its first 5 are padding"),
    ("11", "check_ragged", ragged_with(position=lambda t, pads: (t - pads).clamp(min=0).float()), "positions are whole numbers"),
    ("11", "check_ragged", ragged_with(sees=lambda t, pads: (t[:, None] >= t) & (pads >= 0)[..., None, None]), "sees padding"),
    ("11", "check_ragged", ragged_with(sees=lambda t, pads: (t >= pads)[:, None, None] & (t[:, None] >= t)), "sees nothing: nan"),
    ("11", "check_ragged", ragged_with(sees=lambda t, pads: (t >= pads)[:, None, None].expand(-1, 1, len(t), -1)), "its own future"),
    ("11", "check_ragged", ragged_with(sees=lambda t, pads: torch.eye(len(t)).bool().expand(len(pads), 1, -1, -1)), "all of its own past"),
'''
t=t.replace(old,new)
helpers='''def appended(start=None, shift=0, returns="filled", in_place=True, forget=False, to_the_end=False):
    """An `append` for exercise 1 of lesson 11, with the slips that are asked for."""

    def append(store, length, new):
        if not in_place:
            return torch.cat([store[:, :, :length], new], dim=2)
        first, m = (length if start is None else start) + shift, new.shape[2]
        store[:, :, first : first + m] = new
        if forget:
            store[:, :, :length] = 0
        if to_the_end:
            store[:, :, length + m :] = 0
        return {"filled": store[:, :, : length + m], "store": store, "new": new}[returns]

    return append


def cached(mask=lambda m, n: pc.causal_mask(m, past=n), root=True, late=False, past=True, in_place=True):
    """The attention for exercise 3 of lesson 11, with the slips that are asked for."""

    def attention(q, k, v, k_store, v_store, length):
        m, n = q.shape[2], length if past else 0
        old_k, old_v = (appended(in_place=in_place)(store, length, new) for store, new in ((k_store, k), (v_store, v)))
        k, v = (old_k, old_v) if past else (k, v)
        scores = q @ k.mT / (math.sqrt(q.shape[3]) if root else 1)
        if late:
            return (scores.softmax(-1) * mask(m, n)) @ v
        return scores.masked_fill(~mask(m, n), -math.inf).softmax(-1) @ v

    return attention


def continued(cache=True, whole=False, pick=lambda z: z.argmax(1, keepdim=True)):
    """A loop for exercise 4 of lesson 11, with the slips that are asked for: `whole` reads all again, into the same cache."""

    def greedy(model, ids, n):
        kept, new = pc.KVCache(model.config) if cache else None, ids
        for _ in range(n):
            new = pick(model(ids if whole or not cache else new, cache=kept)[:, -1])
            ids = torch.cat([ids, new], dim=1)
            if whole and kept.length + ids.shape[1] > model.config.block_size:
                kept = pc.KVCache(model.config)
        return ids

    return greedy


def cache_of(config, texts, tokens, number):
    return 2 * config.n_layer * (config.n_kv_head or config.n_head) * config.n_embd // config.n_head * texts * tokens * number


def ragged(pads, width):
    t, pads = torch.arange(width), pads[:, None]
    seen = (t[:, None] >= t) & (t >= pads)[:, None, None]
    return (t - pads).clamp(min=0), seen | torch.eye(width, dtype=torch.bool)


def ragged_with(position=None, sees=None):
    """Positions and mask for exercise 6 of lesson 11, one of them another: functions of t (width,) and pads (B, 1)."""

    def other(pads, width):
        t, (positions, mask) = torch.arange(width), ragged(pads, width)
        return position(t, pads[:, None]) if position else positions, sees(t, pads[:, None]) if sees else mask

    return other


'''
i=t.index('WRONG'); i=t.rindex('\n\n\n',0,i)+3
# put helpers before the first line of the block that precedes WRONG
t=t[:i]+helpers+t[i:]
open(T,'w').write(t)
