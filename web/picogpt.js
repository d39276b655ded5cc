/* PicoGPT a second time: plain JavaScript, to be read beside picogpt_core.py.

    const { model, tokenizer } = await PicoGPT.load_shipped("picogpt");         // weights/picogpt.js must be there
    const settings = new PicoGPT.SampleConfig({ max_new_tokens: 50, seed: 1 });
    for (const { id } of PicoGPT.generate(model, tokenizer.encode("ROMEO:\n"), settings)) …

Sections, as in the core
    1. Settings        ModelConfig, SampleConfig
    2. Model           attend, KVCache, CausalSelfAttention, MLP, Block, GPT, cross_entropy, attention_weights, the probe
    3. Training        only evaluate: nothing is trained in a browser
    4. Sampling        logits -> probabilities -> one token -> generate
    5. Weights         how a checkpoint gets into a browser, and characters to ids

Names are the core's, in the core's order; so underscores, where a JavaScript programmer would write keepTopK. What is left out
is what the shipped models do not use: other norms, rotary positions, grouped queries, dropout, gradients. There is one text at
a time, so the axis B is missing. An array with the shape (T, C) is one Float32Array, row after row: number (t, c) is at
t * C + c.

Axes, in the comments on shapes
    T  positions in a window (at most block_size)    V  vocab_size
    C  n_embd, the width                             L  n_layer
    nh n_head, the number of heads                   hs C / nh, the width of a head

No package, no build step, no request. A browser loads it as a script, Node with require. */

const PicoGPT = (() => {
  "use strict";

  // -------------------------------------------------------------------------------------------------------------------
  // 1. Settings
  // -------------------------------------------------------------------------------------------------------------------

  class ValueError extends Error {}

  /** Throw ValueError with `message` unless `condition` holds: for everything a caller can get wrong. */
  function require(condition, message) {
    if (!condition) throw new ValueError(message);
  }

  /** What the model is. The fields are the core's; a value that this file cannot compute is refused. */
  class ModelConfig {
    constructor(fields) {
      const only = { norm: "pre", norm_kind: "layernorm", final_norm: true, activation: "gelu", positions: "learned" };
      for (const [name, value] of Object.entries({ ...only, n_kv_head: null, qk_norm: false, tied_head: false })) {
        const told = `${name}=${JSON.stringify(fields[name])} is not written in picogpt.js, only ${JSON.stringify(value)}`;
        require(fields[name] === value, told);
      }
      Object.assign(this, fields);
    }
  }

  /** How text is drawn from a trained model. Throw ValueError, in words, for a value that makes no sense. */
  class SampleConfig {
    constructor({ max_new_tokens = 500, temperature = 1, top_k = null, top_p = null, min_p = null, seed = null } = {}) {
      const count = (n, low) => Number.isSafeInteger(n) && n >= low;
      require(count(max_new_tokens, 0), `max_new_tokens=${max_new_tokens} must be an integer of at least 0`);
      const finite = Number.isFinite(temperature) && temperature >= 0;
      require(finite, `temperature=${temperature} must be a finite number of at least 0`);
      const tiny = 2 ** -126; // of float32, as in the core
      require(temperature === 0 || temperature >= tiny, `temperature=${temperature} is 0 in float32: give 0 for greedy`);
      require(top_k === null || count(top_k, 1), `top_k=${top_k} must be an integer of at least 1`);
      require(top_p === null || (top_p > 0 && top_p <= 1), `top_p=${top_p} must be above 0 and at most 1`);
      require(min_p === null || (min_p >= 0 && min_p <= 1), `min_p=${min_p} must be from 0 to 1`);
      require(seed === null || count(seed, 0), `seed=${seed} must be an integer of at least 0`);
      // temperature: logits are divided by it; 0 takes the likeliest token (greedy)
      // top_k: keep the k likeliest tokens (and any that tie with the k-th)
      // top_p: keep the fewest likeliest tokens that together have at least this probability
      // min_p: keep the tokens that are at least this fraction as likely as the likeliest (lesson 10; the core has no min-p)
      Object.assign(this, { max_new_tokens, temperature, top_k, top_p, min_p, seed });
    }
  }

  // -------------------------------------------------------------------------------------------------------------------
  // 2. Model, from leaf to root
  // -------------------------------------------------------------------------------------------------------------------

  /** Return the dot product of n numbers of a, from i on, and of b, from j on. n is a multiple of 4.

  Nearly all the time goes into this loop. Four sums instead of one: a processor starts the next product while it still
  adds the last, but only to another sum. Both arrays are read in the order in which they lie in memory. */
  function dot(a, i, b, j, n) {
    let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (const end = i + n; i < end; i += 4, j += 4) {
      s0 += a[i] * b[j];
      s1 += a[i + 1] * b[j + 1];
      s2 += a[i + 2] * b[j + 2];
      s3 += a[i + 3] * b[j + 3];
    }
    return s0 + s1 + (s2 + s3);
  }

  /** Replace n numbers, from `start` on, by their softmax: positive, and they sum to 1. */
  function softmax_(x, start, n) {
    let max = -Infinity, sum = 0;
    for (let j = start; j < start + n; j++) max = Math.max(max, x[j]);
    for (let j = start; j < start + n; j++) sum += x[j] = Math.exp(x[j] - max); // at most exp(0): no overflow
    for (let j = start; j < start + n; j++) x[j] /= sum;
  }

  /** Return Q Kᵀ / √hs of one head and one query, for the n positions that it may attend to: those after it are left out.

  q (hs,) begins at `at`; k is (block_size, hs) from `start` on. -> scores (n,), into `out` at `to` */
  function attention_scores(q, at, k, start, n, hs, out, to) {
    for (let j = 0; j < n; j++) out[to + j] = dot(q, at, k, start + j * hs, hs) / Math.sqrt(hs);
  }

  /** What attention is: every query takes a weighted average of the values, softmax(Q Kᵀ / √hs) V.

  q (T, C), heads side by side; k and v (nh, block_size, hs) of one layer, of which `past` positions come from the cache and T
  are new. -> (T, C). With `keep` (nh, block_size, block_size) the weights are written there, for those who want to see them. */
  function attend(q, k, v, T, past, config, keep) {
    const { n_head: nh, n_embd: C, block_size: block, causal } = config, hs = C / nh;
    const y = new Float32Array(T * C); // (T, C)
    const weights = new Float32Array(block); // one row of (nh, T, past + T)
    for (let h = 0; h < nh; h++) {
      const head = h * block * hs; // where this head's keys and values begin
      for (let t = 0; t < T; t++) {
        const n = causal ? past + t + 1 : past + T; // the mask: this many positions can be seen, the first ones
        attention_scores(q, t * C + h * hs, k, head, n, hs, weights, 0);
        softmax_(weights, 0, n); // the row sums to 1, and nothing of it is spent on the future
        if (keep) keep.fill(0, (h * block + past + t) * block, (h * block + past + t + 1) * block);
        if (keep) keep.set(weights.subarray(0, n), (h * block + past + t) * block);
        for (let j = 0; j < n; j++) {
          const w = weights[j], value = head + j * hs, out = t * C + h * hs; // heads side by side: they are joined already
          for (let i = 0; i < hs; i++) y[out + i] += w * v[value + i];
        }
      }
    }
    return y;
  }

  /** Keys and values of the positions that a model has read, so that it need not compute them again.

  For each layer k and v, (nh, block_size, hs). The first `length` positions are filled. To forget the last ones, make `length`
  smaller: what lies behind it is overwritten. With `keep_weights` also what every position looked at, for each layer
  (nh, block_size, block_size). */
  class KVCache {
    constructor(config, keep_weights = false) {
      const { n_layer: L, n_embd: C, n_head: nh, block_size: block } = config;
      const arrays = (size) => Array.from({ length: L }, () => new Float32Array(size));
      this.config = config;
      this.k = arrays(block * C); // nh · block · hs = block · C
      this.v = arrays(block * C);
      this.weights = keep_weights ? arrays(nh * block * block) : null;
      this.length = 0;
    }

    /** Store the keys and values of T new positions, in qkv (T, 3C): query, key and value side by side. */
    append(layer, qkv, T) {
      const { n_embd: C, n_head: nh, block_size: block } = this.config, hs = C / nh;
      for (let t = 0; t < T; t++) {
        for (let h = 0; h < nh; h++) { // split_heads: (T, C) -> (nh, T, hs)
          const from = t * 3 * C + h * hs, to = (h * block + this.length + t) * hs;
          this.k[layer].set(qkv.subarray(from + C, from + C + hs), to);
          this.v[layer].set(qkv.subarray(from + 2 * C, from + 2 * C + hs), to);
        }
      }
    }
  }

  /** y = W x + b at every position. The weight is (out, in), as in PyTorch, so a row of it meets x number by number. */
  class Linear {
    constructor(weight, bias) {
      this.weight = weight; // (out, in)
      this.bias = bias; // (out,), or undefined
    }

    forward(x, T) { // (T, in) -> (T, out)
      const { weight, bias } = this, n = x.length / T, n_out = weight.length / n;
      const y = new Float32Array(T * n_out);
      for (let o = 0; o < n_out; o++) {
        const row = o * n, b = bias ? bias[o] : 0;
        let t = 0;
        for (; t + 4 <= T; t += 4) { // four positions at once: each weight is fetched once for all of them
          const t0 = t * n, t1 = t0 + n, t2 = t1 + n, t3 = t2 + n;
          let s0 = b, s1 = b, s2 = b, s3 = b;
          for (let i = 0; i < n; i++) {
            const w = weight[row + i];
            s0 += w * x[t0 + i];
            s1 += w * x[t1 + i];
            s2 += w * x[t2 + i];
            s3 += w * x[t3 + i];
          }
          [y[t * n_out + o], y[(t + 1) * n_out + o], y[(t + 2) * n_out + o], y[(t + 3) * n_out + o]] = [s0, s1, s2, s3];
        }
        for (; t < T; t++) y[t * n_out + o] = b + dot(weight, row, x, t * n, n);
      }
      return y;
    }
  }

  /** Shift and scale the C features of each position to mean 0 and variance 1, then apply the learned weight and bias. */
  class LayerNorm {
    constructor(weight, bias) {
      this.weight = weight; // (C,)
      this.bias = bias; // (C,), or undefined
    }

    forward(x, T) { // (T, C) -> (T, C)
      const C = x.length / T, y = new Float32Array(T * C);
      for (let t = 0, at = 0; t < T; t++, at += C) {
        let mean = 0, variance = 0;
        for (let c = 0; c < C; c++) mean += x[at + c] / C;
        for (let c = 0; c < C; c++) variance += (x[at + c] - mean) ** 2 / C;
        const scale = 1 / Math.sqrt(variance + 1e-5);
        for (let c = 0; c < C; c++) y[at + c] = (x[at + c] - mean) * scale * this.weight[c] + (this.bias ? this.bias[c] : 0);
      }
      return y;
    }
  }

  /** Every position gathers from itself and the positions before it, in nh heads side by side. */
  class CausalSelfAttention {
    constructor(config, layer, weights) {
      this.config = config;
      this.layer = layer;
      this.c_attn = new Linear(weights["c_attn.weight"], weights["c_attn.bias"]); // query, key and value in one
      this.c_proj = new Linear(weights["c_proj.weight"], weights["c_proj.bias"]);
    }

    forward(x, T, cache) { // (T, C) -> (T, C)
      const { layer } = this, C = this.config.n_embd;
      const qkv = this.c_attn.forward(x, T); // (T, C) -> (T, 3C)
      cache.append(layer, qkv, T);
      const q = new Float32Array(T * C); // (T, C)
      for (let t = 0; t < T; t++) q.set(qkv.subarray(t * 3 * C, t * 3 * C + C), t * C);
      const keep = cache.weights ? cache.weights[layer] : null;
      const y = attend(q, cache.k[layer], cache.v[layer], T, cache.length, this.config, keep); // (T, C)
      return this.c_proj.forward(y, T);
    }
  }

  /** The error function, to 1.5e-7: Abramowitz and Stegun 1964, formula 7.1.26. JavaScript has none. */
  function erf(x) {
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const sum = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    return Math.sign(x) * (1 - sum * Math.exp(-x * x));
  }

  /** x · Φ(x), the exact GELU: x times the probability that a standard normal number is below it. */
  function gelu(x) {
    return 0.5 * x * (1 + erf(x * Math.SQRT1_2));
  }

  /** Every position by itself: expand to 4C, apply the activation, project back. */
  class MLP {
    constructor(weights) {
      this.c_fc = new Linear(weights["c_fc.weight"], weights["c_fc.bias"]);
      this.c_proj = new Linear(weights["c_proj.weight"], weights["c_proj.bias"]);
    }

    forward(x, T) { // (T, C) -> (T, C)
      return this.c_proj.forward(this.c_fc.forward(x, T).map(gelu), T); // (T, C) -> (T, 4C) -> (T, C)
    }
  }

  /** Attention, then MLP, each added to its own input (the residual connection), with a norm before each (Pre-LN). */
  class Block {
    constructor(config, layer, weights) {
      this.ln_1 = new LayerNorm(weights["ln_1.weight"], weights["ln_1.bias"]);
      this.attn = new CausalSelfAttention(config, layer, inside(weights, "attn."));
      this.ln_2 = new LayerNorm(weights["ln_2.weight"], weights["ln_2.bias"]);
      this.mlp = new MLP(inside(weights, "mlp."));
    }

    forward(x, T, cache) { // (T, C) -> (T, C)
      x = add(x, this.attn.forward(this.ln_1.forward(x, T), T, cache));
      return add(x, this.mlp.forward(this.ln_2.forward(x, T), T));
    }
  }

  function add(x, y) {
    return x.map((number, i) => number + y[i]);
  }

  /** Return the weights whose names begin with `prefix`, without it: those of one part of the model. */
  function inside(weights, prefix) {
    const own = Object.entries(weights).filter(([name]) => name.startsWith(prefix));
    return Object.fromEntries(own.map(([name, array]) => [name.slice(prefix.length), array]));
  }

  /** Token ids to logits for the next token. */
  class GPT {
    constructor(config, weights) {
      this.config = config;
      this.wte = weights["wte.weight"]; // (V, C)
      this.wpe = weights["wpe.weight"]; // (block_size, C)
      this.h = Array.from({ length: config.n_layer }, (_, layer) => new Block(config, layer, inside(weights, `h.${layer}.`)));
      this.ln_f = new LayerNorm(weights["ln_f.weight"], weights["ln_f.bias"]);
      this.lm_head = new Linear(weights["lm_head.weight"], weights["lm_head.bias"]);
    }

    /** Return the logits (T, V) for ids (T,); with `last_only` (V,), all that generation needs.

    With a `cache`, ids are the T tokens that follow those in the cache, and join them. Throw ValueError for more than
    block_size tokens, and for a model without a causal mask if the cache is not empty. */
    forward(ids, { last_only = false, cache = new KVCache(this.config) } = {}) {
      let T = ids.length;
      const { n_embd: C, block_size: most, causal } = this.config, past = cache.length;
      const room = past ? ` after ${past} in the cache: there is room for ${most - past} more,` : ": this model takes 1 to";
      require(T >= 1 && T <= most - past, `a window of ${T} tokens${room} block_size=${most}`);
      require(causal || past === 0, "a cache works with a causal model only: earlier positions would have to change");
      let x = new Float32Array(T * C);
      for (let t = 0; t < T; t++) {
        for (let c = 0; c < C; c++) x[t * C + c] = this.wte[ids[t] * C + c] + this.wpe[(past + t) * C + c]; // both (T, C)
      }
      for (const block of this.h) x = block.forward(x, T, cache); // (T, C) -> (T, C)
      cache.length += T;
      x = this.ln_f.forward(x, T);
      if (last_only) [x, T] = [x.subarray((T - 1) * C), 1]; // (T, C) -> (C,)
      return this.lm_head.forward(x, T); // (T, C) -> (T, V)
    }
  }

  /** Return -log p(target) in nats at every position: the surprise. logits (T, V), targets (T,) -> (T,) */
  function surprises(logits, targets) {
    const V = logits.length / targets.length;
    return Float32Array.from(targets, (target, t) => {
      const row = logits.subarray(t * V, (t + 1) * V); // (V,)
      const max = row.reduce((a, b) => Math.max(a, b));
      return max - row[target] + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - max), 0));
    });
  }

  /** Return the mean of -log p(target) in nats per token. logits (T, V), targets (T,) */
  function cross_entropy(logits, targets) {
    return surprises(logits, targets).reduce((sum, nats) => sum + nats, 0) / targets.length;
  }

  /** Return each layer's attention weights (nh, block_size, block_size) on ids (T,); rows and columns up to T are filled.

  Row t of a head says how much position t takes from each position. */
  function attention_weights(model, ids) {
    const cache = new KVCache(model.config, true);
    model.forward(ids, { cache });
    return cache.weights;
  }

  /** Return how far the logits at each of the T positions lie apart at most. Two times (T, V) -> (T,) */
  function largest_change(logits, others, T) {
    const V = logits.length / T, moved = new Float32Array(T);
    for (let i = 0; i < logits.length; i++) {
      const t = Math.floor(i / V);
      moved[t] = Math.max(moved[t], Math.abs(logits[i] - others[i]));
    }
    return moved;
  }

  /** Return how far the logits at each of the T positions move when the tokens from `position` on are changed. (T,)

  The test of causality, from outside: before `position` nothing may move at all, from there on everything should. */
  function moved_by_the_future(model, ids, position) {
    require(position >= 0 && position < ids.length, `position=${position} must lie in the text: 0 to ${ids.length - 1}`);
    const V = model.config.vocab_size;
    const changed = ids.map((id, t) => (t >= position ? (id + 1) % V : id)); // another future, the same past
    return largest_change(model.forward(ids), model.forward(changed), ids.length);
  }

  // -------------------------------------------------------------------------------------------------------------------
  // 3. Training: nothing is trained in a browser, but a loss can be measured
  // -------------------------------------------------------------------------------------------------------------------

  /** Cut N ids into windows of block_size, side by side. Yield [x, y]: every token but the first is in a y. */
  function* side_by_side(model, ids) {
    const T = model.config.block_size, N = ids.length;
    require(N > 1, `a text of ${N} tokens has nothing to predict`);
    for (let i = 0; i < N - 1; i += T) {
      const end = Math.min(i + T, N - 1);
      yield [ids.slice(i, end), ids.slice(i + 1, end + 1)];
    }
  }

  /** Return the mean loss over the whole of ids (N,) in nats per token: windows side by side, no sampling. */
  function evaluate(model, ids) {
    let total = 0;
    for (const [x, y] of side_by_side(model, ids)) total += cross_entropy(model.forward(x), y) * y.length;
    return total / (ids.length - 1);
  }

  // -------------------------------------------------------------------------------------------------------------------
  // 4. Sampling: a ladder of small functions. Logits are a Float32Array (V,); none of them changes its input.
  // -------------------------------------------------------------------------------------------------------------------

  const softmax = (logits) => {
    const probs = Float32Array.from(logits);
    softmax_(probs, 0, probs.length);
    return probs;
  };

  /** Set all but the k highest logits to -Infinity; ties with the k-th are kept. (V,) -> (V,) */
  function keep_top_k(logits, k) {
    const kth = logits.slice().sort()[Math.max(0, logits.length - k)]; // sorted upwards
    return logits.map((logit) => (logit < kth ? -Infinity : logit));
  }

  /** Keep the fewest likeliest tokens whose probabilities add up to p; the rest becomes -Infinity. (V,) -> (V,) */
  function keep_top_p(logits, p) {
    const probs = softmax(logits), order = [...logits.keys()].sort((a, b) => logits[b] - logits[a]);
    const cut = Float32Array.from(logits);
    let before = 0; // the probability of those before this one
    for (const id of order) {
      if (before >= p && id !== order[0]) cut[id] = -Infinity; // they add up to p already; the likeliest always stays
      before += probs[id];
    }
    return cut;
  }

  /** Keep the tokens that are at least this `share` as likely as the likeliest; the rest becomes -Infinity. (V,) -> (V,) */
  function keep_min_p(logits, share) {
    const lowest = logits.reduce((a, b) => Math.max(a, b)) + Math.log(share);
    return logits.map((logit) => (logit < lowest ? -Infinity : logit));
  }

  /** Turn logits into probabilities: temperature, top-k, top-p, min-p, softmax, in this order. (V,) -> (V,) */
  function next_token_probs(logits, settings) {
    const max = logits.reduce((a, b) => Math.max(a, b));
    if (settings.temperature === 0) { // greedy: all on the likeliest, the first of equals
      const likeliest = logits.indexOf(max);
      return logits.map((_, id) => (id === likeliest ? 1 : 0));
    }
    logits = Float32Array.from(logits, (logit) => (logit - max) / settings.temperature); // at most 0: no overflow when tiny
    if (settings.top_k !== null) logits = keep_top_k(logits, settings.top_k);
    if (settings.top_p !== null && settings.top_p < 1) logits = keep_top_p(logits, settings.top_p);
    if (settings.min_p !== null && settings.min_p > 0) logits = keep_min_p(logits, settings.min_p);
    return softmax(logits);
  }

  /** Random numbers from 0 to 1 that a seed repeats (mulberry32, by Tommy Ettinger). They are not PyTorch's numbers. */
  function Generator(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let z = Math.imul(state ^ (state >>> 15), state | 1);
      z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
      return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /** Draw one id: lay the probabilities side by side and see on which piece a random number falls. (V,) -> id */
  function sample_token(probs, generator = Math.random) {
    let left = generator() * probs.reduce((sum, p) => sum + p, 0), last = 0;
    for (let id = 0; id < probs.length; id++) {
      if (probs[id] > 0) last = id;
      if ((left -= probs[id]) < 0) return id;
    }
    return last; // rounding has used up the line
  }

  /** Throw ValueError unless ids are not empty and inside the model's vocabulary. */
  function require_prompt(model, ids) {
    require(ids.length > 0, "the prompt is empty: the model needs at least one character to go on from");
    const V = model.config.vocab_size, outside = ids.find((id) => !(id >= 0 && id < V));
    require(outside === undefined, `id ${outside} is not between 0 and ${V - 1}`);
  }

  /** Continue ids (T,) by max_new_tokens. Yield for each { id, logits (V,), probs (V,) }.

  The model sees at most the last block_size tokens. Keys and values are kept while everything fits into the block. After that
  the window slides: every token gets another position, nothing in the cache is right any more, and each step computes its
  whole window again. A `cache` that holds the beginning of ids already spares reading it again. Throw ValueError for an empty
  prompt or an id outside the vocabulary. */
  function* generate(model, ids, settings, cache = model.config.causal ? new KVCache(model.config) : null) {
    require_prompt(model, ids);
    ids = Array.from(ids);
    const block = model.config.block_size, generator = settings.seed === null ? Math.random : Generator(settings.seed);
    for (let n = 0; n < settings.max_new_tokens; n++) {
      let logits; // (V,)
      if (cache !== null && ids.length <= block) { // read only what the cache does not hold, but the last in any case
        cache.length = Math.min(cache.length, ids.length - 1);
        logits = model.forward(ids.slice(cache.length), { last_only: true, cache });
      } else { // read the last block_size tokens
        logits = model.forward(ids.slice(-block), { last_only: true });
      }
      const probs = next_token_probs(logits, settings); // (V,)
      const id = sample_token(probs, generator);
      ids.push(id);
      yield { id, logits, probs };
    }
  }

  // -------------------------------------------------------------------------------------------------------------------
  // 5. Weights: a checkpoint as a script, written by tools/playground.py, and characters to ids
  // -------------------------------------------------------------------------------------------------------------------

  /** Characters to ids and back. The vocabulary is the string `chars`: an id is a place in it. */
  class CharTokenizer {
    constructor(chars) {
      this.chars = chars;
      this.vocab_size = chars.length;
    }

    /** Return the ids of the characters of `text`. ValueError names the first one that is not in the vocabulary. */
    encode(text) {
      return Array.from(text, (char, at) => {
        const id = this.chars.indexOf(char), code = char.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
        const told = `“${char}” (U+${code}) at position ${at} is not among the ${this.vocab_size} characters that the model knows`;
        require(id >= 0, told);
        return id;
      });
    }

    decode(ids) {
      return Array.from(ids, (id) => this.chars[id]).join("");
    }
  }

  /** Return the number that 16 bits stand for as a float16: a sign, 5 bits of exponent, 10 of fraction. */
  function from_float16(bits) {
    const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction) : sign * 2 ** -14 * fraction;
  }

  /** Return what load_shipped needs of the script weights/NAME.js: base64, inside it deflate, inside it the high bytes of all
  numbers and then the low ones (high bytes resemble one another, so they pack well). -> Float32Array */
  async function unpack(data) {
    const packed = Uint8Array.from(atob(data), (char) => char.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer()), n = bytes.length / 2;
    const number = Float32Array.from({ length: 2 ** 16 }, (_, bits) => from_float16(bits)); // all there are
    const numbers = new Float32Array(n);
    for (let i = 0; i < n; i++) numbers[i] = number[bytes[i] * 256 + bytes[n + i]];
    return numbers;
  }

  /** Open a model whose script has been loaded. Return { model, tokenizer, about }. ValueError if it has not. */
  async function load_shipped(name) {
    const saved = (globalThis.PICOGPT_WEIGHTS || {})[name];
    require(saved, `weights/${name}.js has not been loaded: python tools/playground.py weights writes it`);
    const numbers = await unpack(saved.data), weights = {};
    let at = 0;
    for (const [tensor, size] of saved.tensors) weights[tensor] = numbers.subarray(at, (at += size));
    require(at === numbers.length, `weights/${name}.js is damaged: ${numbers.length} numbers, wanted ${at}`);
    const model = new GPT(new ModelConfig(saved.config), weights);
    return { model, tokenizer: new CharTokenizer(saved.chars), about: saved.about };
  }

  return {
    ValueError, require, ModelConfig, SampleConfig, KVCache, CausalSelfAttention, MLP, Block, GPT, surprises, cross_entropy,
    attention_weights, largest_change, moved_by_the_future, side_by_side, evaluate, softmax, keep_top_k, keep_top_p, keep_min_p,
    next_token_probs, Generator, sample_token, generate, CharTokenizer, load_shipped, gelu,
  };
})();

if (typeof module !== "undefined") module.exports = PicoGPT;
