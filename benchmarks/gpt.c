/* PicoGPT in C, to write with: the bar that a compiled model is measured against. One token at a time, with a KV cache, on one
   thread, for the architecture of the preset "picogpt" (any sizes): Pre-LN with a final norm, learned positions, exact GELU, all
   biases but those of query, key and value. In the manner of Andrej Karpathy's llama2.c.

       gcc -O3 -march=native -ffast-math -o gpt gpt.c -lm        (-ffast-math: exp and erf in vectors, sums in any order)

       gpt MODEL logits ID...      read these ids; print the logits after each of them, a line each
       gpt MODEL greedy N ID...    continue these ids by the N likeliest; print the N
       gpt MODEL speed N           N tokens after id 0, drawn at temperature 0.8: print the tokens per second, best of 5

   MODEL is written by peers.py: the sizes, then all weights as float32, in the order in which they are read below. Matrices come
   in tiles of 64 outputs, (outputs / 64, inputs, 64), so that they are read from beginning to end. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TILE 64

typedef float Vector __attribute__((vector_size(64)));  /* a quarter of a tile */

static int n_layer, n_head, C, V, block_size, hs;

typedef struct {
    const float *weight, *bias;
} Norm;

typedef struct {
    int in, out;
    const float *weight, *bias;  /* bias: NULL for none */
} Linear;

typedef struct {
    Norm ln_1, ln_2;
    Linear c_attn, attn_proj, c_fc, mlp_proj;
    float *k, *v;  /* k (n_head, hs, block_size), so that scores are sums over rows; v (n_head, block_size, hs) */
} Layer;

static const float *wte, *wpe;
static Layer *layers;
static Norm ln_f;
static Linear lm_head;
static float *x, *y, *qkv, *wide, *scores, *logits;

static void fail(const char *message) {
    fprintf(stderr, "error: %s\n", message);
    exit(2);
}

static float *numbers(size_t n) {
    n = (n + TILE - 1) / TILE * TILE;  /* whole tiles, and aligned for vectors */
    float *p = aligned_alloc(64, n * sizeof(float));
    if (!p) fail("out of memory");
    memset(p, 0, n * sizeof(float));
    return p;
}

static const float *take(FILE *file, size_t n) {
    float *p = numbers(n);
    if (fread(p, sizeof(float), n, file) != n) fail("the file of the model is too short");
    return p;
}

static Norm take_norm(FILE *file) {
    Norm norm;
    norm.weight = take(file, C);
    norm.bias = take(file, C);
    return norm;
}

static Linear take_linear(FILE *file, int in, int out, int has_bias) {
    Linear linear = {in, (out + TILE - 1) / TILE * TILE, NULL, NULL};
    linear.weight = take(file, (size_t)in * linear.out);
    if (has_bias) linear.bias = take(file, linear.out);
    return linear;
}

static void load(const char *path) {
    int sizes[5];
    FILE *file = fopen(path, "rb");
    if (!file) fail("the file of the model cannot be opened");
    if (fread(sizes, sizeof(int), 5, file) != 5) fail("the file of the model is too short");
    n_layer = sizes[0], n_head = sizes[1], C = sizes[2], V = sizes[3], block_size = sizes[4], hs = C / n_head;
    wte = take(file, (size_t)V * C);
    wpe = take(file, (size_t)block_size * C);
    layers = malloc(n_layer * sizeof(Layer));
    for (int i = 0; i < n_layer; i++) {
        Layer *layer = &layers[i];
        layer->ln_1 = take_norm(file);
        layer->c_attn = take_linear(file, C, 3 * C, 0);
        layer->attn_proj = take_linear(file, C, C, 1);
        layer->ln_2 = take_norm(file);
        layer->c_fc = take_linear(file, C, 4 * C, 1);
        layer->mlp_proj = take_linear(file, 4 * C, C, 1);
        layer->k = numbers((size_t)block_size * C);
        layer->v = numbers((size_t)block_size * C);
    }
    ln_f = take_norm(file);
    lm_head = take_linear(file, C, V, 1);
    if (fgetc(file) != EOF) fail("the file of the model is too long");
    fclose(file);
    x = numbers(C), y = numbers(4 * C), qkv = numbers(3 * C), wide = numbers(4 * C);
    scores = numbers(block_size), logits = numbers(V);
}

/* y = W x + bias */
static void apply(const Linear *linear, const float *restrict in, float *restrict out) {
    const Vector *restrict w = (const Vector *)linear->weight;
    for (int o = 0; o < linear->out; o += TILE, out += TILE) {
        Vector a = {0}, b = {0}, c = {0}, d = {0};  /* four sums, so that none has to wait for itself */
        for (int i = 0; i < linear->in; i++, w += 4) {
            a += in[i] * w[0];
            b += in[i] * w[1];
            c += in[i] * w[2];
            d += in[i] * w[3];
        }
        if (linear->bias) {
            const Vector *bias = (const Vector *)(linear->bias + o);
            a += bias[0], b += bias[1], c += bias[2], d += bias[3];
        }
        Vector *result = (Vector *)out;
        result[0] = a, result[1] = b, result[2] = c, result[3] = d;
    }
}

static void normalise(const Norm *norm, const float *restrict in, float *restrict out) {
    float mean = 0, variance = 0;
    for (int i = 0; i < C; i++) mean += in[i];
    mean /= C;
    for (int i = 0; i < C; i++) variance += (in[i] - mean) * (in[i] - mean);
    float scale = 1 / sqrtf(variance / C + 1e-5f);
    for (int i = 0; i < C; i++) out[i] = (in[i] - mean) * scale * norm->weight[i] + norm->bias[i];
}

/* scores to numbers proportional to their softmax; return their sum */
static float exponentials(float *restrict s, int n, float scale) {
    float most = s[0], sum = 0;
    for (int j = 1; j < n; j++) most = s[j] > most ? s[j] : most;
    for (int j = 0; j < n; j++) s[j] = expf((s[j] - most) * scale);
    for (int j = 0; j < n; j++) sum += s[j];
    return sum;
}

/* qkv of one position, whose keys and values join the cache -> out (C) */
static void attend(Layer *layer, int position, float *restrict out) {
    int n = position + 1;
    for (int h = 0; h < n_head; h++) {
        const float *q = qkv + h * hs;
        float *k = layer->k + (size_t)h * hs * block_size, *v = layer->v + (size_t)h * hs * block_size;
        for (int d = 0; d < hs; d++) k[d * block_size + position] = q[C + d];
        memcpy(v + position * hs, q + 2 * C, hs * sizeof(float));
        memset(scores, 0, n * sizeof(float));
        for (int d = 0; d < hs; d++)
            for (int j = 0; j < n; j++) scores[j] += q[d] * k[d * block_size + j];
        float sum = exponentials(scores, n, 1 / sqrtf(hs));
        float *y = out + h * hs;
        memset(y, 0, hs * sizeof(float));
        for (int j = 0; j < n; j++)
            for (int d = 0; d < hs; d++) y[d] += scores[j] * v[j * hs + d];
        for (int d = 0; d < hs; d++) y[d] /= sum;
    }
}

/* read one token at one position; the logits of the next are in `logits` */
static void step(int id, int position) {
    if (position >= block_size) fail("more tokens than block_size");
    for (int i = 0; i < C; i++) x[i] = wte[(size_t)id * C + i] + wpe[(size_t)position * C + i];
    for (int l = 0; l < n_layer; l++) {
        Layer *layer = &layers[l];
        normalise(&layer->ln_1, x, y);
        apply(&layer->c_attn, y, qkv);
        attend(layer, position, wide);
        apply(&layer->attn_proj, wide, y);
        for (int i = 0; i < C; i++) x[i] += y[i];
        normalise(&layer->ln_2, x, y);
        apply(&layer->c_fc, y, wide);
        for (int i = 0; i < 4 * C; i++) wide[i] *= 0.5f + 0.5f * erff(wide[i] * 0.70710678f);  /* GELU */
        apply(&layer->mlp_proj, wide, y);
        for (int i = 0; i < C; i++) x[i] += y[i];
    }
    normalise(&ln_f, x, y);
    apply(&lm_head, y, logits);
}

static int likeliest(void) {
    int best = 0;
    for (int i = 1; i < V; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static int draw(float temperature, unsigned long long *state) {
    float rest = exponentials(logits, V, 1 / temperature);
    *state ^= *state >> 12, *state ^= *state << 25, *state ^= *state >> 27;  /* xorshift */
    rest *= (float)((*state * 0x2545F4914F6CDD1Dull) >> 40) / 16777216.0f;
    for (int i = 0; i < V; i++)
        if ((rest -= logits[i]) < 0) return i;
    return V - 1;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

static int id_of(const char *word) {
    int id = atoi(word);
    if (id < 0 || id >= V) fail("an id outside the vocabulary");
    return id;
}

int main(int count, char **words) {
    if (count < 4) fail("gpt MODEL logits ID... | greedy N ID... | speed N");
    load(words[1]);
    if (!strcmp(words[2], "logits")) {
        for (int t = 0; t < count - 3; t++) {
            step(id_of(words[3 + t]), t);
            for (int i = 0; i < V; i++) printf("%.9g%c", logits[i], i < V - 1 ? ' ' : '\n');
        }
    } else if (!strcmp(words[2], "greedy")) {
        int t = 0;
        for (; t < count - 4; t++) step(id_of(words[4 + t]), t);
        for (int n = atoi(words[3]); n > 0; n--) {
            int id = likeliest();
            printf("%d%c", id, n > 1 ? ' ' : '\n');
            if (n > 1) step(id, t++);
        }
    } else if (!strcmp(words[2], "speed")) {
        int n = atoi(words[3]);
        double best = INFINITY;
        unsigned long long state = 1;
        for (int round = 0; round < 6; round++) {  /* the first warms up */
            double began = seconds();
            for (int t = 0, id = 0; t < n; t++) {
                step(id, t);
                id = draw(0.8f, &state);
            }
            double took = seconds() - began;
            if (round > 0 && took < best) best = took;
        }
        printf("%.1f\n", n / best);
    } else
        fail("gpt MODEL logits ID... | greedy N ID... | speed N");
    return 0;
}
