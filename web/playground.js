/* The playground: what one can do with the model of picogpt.js on a page.

A page says where a piece stands, and with which parts:

    <div data-playground="write heads"></div>    a prompt, sliders, the text coloured by surprise, bars; where the heads look
    <div data-playground="heads"></div>          a text of one's own and where the heads look, without sliders
    <div data-playground="mask"></div>           an honest small model and its twin without a mask

What stands inside such an element until its piece is ready is what a reader sees whose browser cannot run this file. With
data-wait the weights are fetched when the reader asks for them, and not before. With data-address the page's address carries
the settings. Nothing else is fetched, and nothing is sent anywhere. */

(() => {
  "use strict";

  const HERE = document.currentScript.src.replace(/[^/]*$/, ""); // the folder of this file: its weights lie below it
  const QUIET = matchMedia("(prefers-reduced-motion: reduce)"); // then a text appears when it is complete
  const SLICE = 40; // milliseconds of computing between two looks at what the reader does
  const DEFAULTS = { prompt: "ROMEO:\n", temperature: 0.8, top_k: 0, top_p: 1, min_p: 0, length: 200, seed: 1, greedy: false };
  const SLIDERS = {
    temperature: {
      low: 0,
      high: 2,
      step: 0.05,
      show: (x) => (x === 0 ? "0, greedy" : x.toFixed(2)),
      help: "Below 1 the likely gets likelier and the text safer; above 1 the unlikely gets its chance, and words fall apart.",
    },
    top_k: { low: 0, high: 65, step: 1, show: (x) => (x === 0 ? "off" : `${x}`), help: "Only the k likeliest may be drawn." },
    top_p: {
      low: 0.05,
      high: 1,
      step: 0.05,
      show: (x) => (x === 1 ? "off" : x.toFixed(2)),
      help: "Only the fewest likeliest that have this probability together.",
    },
    min_p: {
      low: 0,
      high: 0.5,
      step: 0.01,
      show: (x) => (x === 0 ? "off" : x.toFixed(2)),
      help: "Only those at least this fraction as likely as the likeliest.",
    },
    length: { low: 0, high: 250, step: 1, show: (x) => `${x}`, help: "Characters to write." },
    seed: {
      low: 0,
      high: 100,
      step: 1,
      show: (x) => `${x}`,
      help: "Where the random numbers start: the same seed and settings, the same text.",
    },
  };
  // of the validation text, which none of the models has learned from
  const PASSAGE =
    "GREMIO:\nGood morrow, neighbour Baptista.\n\nBAPTISTA:\nGood morrow, neighbour Gremio.\nGod save you, gentlemen!\n\n" +
    "PETRUCHIO:\nAnd you, good sir! Pray, have you not a daughter\nCall'd Katharina, fair and virtuous?\n\n" +
    "BAPTISTA:\nI have a daughter, sir, called Katharina.\n\nGREMIO:\nYou are too blunt: go to it orderly.\n";
  const LONGEST = 4000; // characters of a pasted text that are read

  // ----- small things

  let made = 0; // elements that needed an id so far

  /** Make an element: properties, or with a dash attributes, then children. */
  function make(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
      else element[name] = value;
    }
    element.append(...children);
    return element;
  }

  const newId = () => `playground-${++made}`;
  const shown = (char) => ({ "\n": "↵", " ": "␣" })[char] || char;
  const percent = (p) => (p >= 0.9995 ? "100 %" : p < 0.001 ? "< 0.1 %" : `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`);
  const sentence = (words) => words[0].toUpperCase() + words.slice(1);
  const plural = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
  const pause = () => new Promise((resolve) => setTimeout(resolve, 0));

  /** Load a script of weights once, and return a promise of its model. ValueError, in words, if it is not there. */
  const opened = {};
  function open(name) {
    opened[name] ||= new Promise((resolve, reject) => {
      const script = make("script", { src: `${HERE}weights/${name}.js` });
      script.onload = () => resolve(PicoGPT.load_shipped(name));
      const advice = "In a copy of the repository, this writes it: python tools/playground.py weights";
      script.onerror = () => {
        delete opened[name];
        reject(new PicoGPT.ValueError(`The model is not there: ${script.src} could not be loaded. ${advice}`));
      };
      document.head.append(script);
    });
    return opened[name];
  }

  /** The colour behind a character: none for what was certain, the warmer the more surprising (6 nats or more: p = 0.002). */
  const heat = (share) => `rgba(var(--warm-rgb), ${(0.8 * Math.min(1, Math.max(0, share))).toFixed(3)})`;

  /** Characters as spans in `box`; a line break is shown as ↵ and breaks the line. Return the spans. */
  function spell(box, chars, from = 0) {
    return chars.map((char, i) => {
      const letter = make("span", { textContent: char === "\n" ? "↵" : char, className: char === "\n" ? "end" : "" });
      letter.dataset.t = from + i;
      box.append(letter);
      if (char === "\n") box.append(make("br"));
      return letter;
    });
  }

  /** Let arrows and clicks move a mark through the characters of `box`. `move` gets the new place. */
  function marks(box, count, place, move) {
    box.tabIndex = 0;
    box.addEventListener("click", (event) => {
      const letter = event.target.closest("[data-t]");
      if (letter) move(+letter.dataset.t);
    });
    box.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
      if (steps === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      move(Math.min(count() - 1, Math.max(0, place() + steps)));
    });
  }

  /** The characters of `text` that the model does not know, each once. */
  const unknown = (text, tokenizer) => [...new Set(text)].filter((char) => !tokenizer.chars.includes(char));

  /** Say why a text cannot be read, with a button that takes out what the model does not know. */
  function complain(place, error, text, tokenizer, repair) {
    place.replaceChildren(make("p", { textContent: `${sentence(error.message)}.` }));
    const others = unknown(text, tokenizer);
    if (others.length === 0) return;
    place.append(make("p", { textContent: `It knows ${[...tokenizer.chars].map(shown).join(" ")}` }));
    const label = `Leave out, or replace, ${others.slice(0, 5).join(" ")}${others.length > 5 ? " …" : ""}`;
    place.append(make("button", { type: "button", textContent: label, onclick: () => repair(readable(text, tokenizer)) }));
  }

  /** A text without what the model does not know. Quotes and dashes that word processors make become plain ones. */
  function readable(text, tokenizer) {
    const plain = text.replace(/\r\n?/g, "\n").replace(/[‘’]/g, "'").replace(/[–—]/g, "--").replace(/\t/g, " ");
    return [...plain].filter((char) => tokenizer.chars.includes(char)).join("");
  }

  // ----- the first piece: a prompt, a text, bars, heads

  class Writer {
    constructor(root, parts, { model, tokenizer }) {
      Object.assign(this, { root, parts, model, tokenizer });
      this.sliders = parts.includes("write");
      this.cache = new PicoGPT.KVCache(model.config, true);
      this.ids = []; // of the text: the prompt, and what was written
      this.logits = []; // logits[t] (V,) led to the character at t; those at the end lead to the next one
      this.letters = [];
      this.cursor = 0; // the character that bars and heads are about
      this.chosen = null; // the head that colours the text
      this.byHead = !this.sliders; // or by surprise
      this.settings = {
        ...DEFAULTS,
        ...(this.sliders ? {} : { prompt: "The thing that feeds the king is the thing that thinks.", length: 0 }),
      };
      this.build();
      if (root.dataset.address !== undefined) {
        this.readAddress();
        addEventListener("hashchange", () => location.hash.slice(1) !== this.address() && (this.readAddress(), this.restart()));
      }
      this.restart();
    }

    // what stands on the page

    build() {
      const { root, sliders } = this,
        id = newId();
      this.prompt = make("textarea", { id, rows: 2, spellcheck: false, autocapitalize: "off" });
      this.prompt.addEventListener("input", () => this.change({ prompt: this.prompt.value }));
      this.problem = make("div", { className: "problem", role: "alert" });
      const controls = make("div", { className: "controls" });
      controls.append(
        make("label", { for: id, textContent: sliders ? "Prompt" : "A text of your own" }),
        this.prompt,
        this.problem,
      );
      if (sliders) controls.append(this.buildSliders(), this.buildButtons());
      root.append(controls);

      this.status = make("p", { className: "status" });
      this.box = make("div", {
        className: "text",
        role: "group",
        "aria-label": "The text. Arrow keys move from character to character.",
      });
      marks(
        this.box,
        () => this.ids.length,
        () => Math.min(this.cursor, this.ids.length - 1),
        (t) => this.look(t),
      );
      this.said = make("p", { className: "said", "aria-live": "polite" });
      this.legend = make("p", { className: "legend" });
      root.append(
        make(
          "div",
          { className: "written" },
          make("h3", { textContent: "The text" }),
          this.legend,
          this.box,
          this.said,
          this.status,
        ),
      );
      if (sliders) {
        this.bars = make("table", { className: "bars" });
        this.barsTitle = make("h3");
        const key = make(
          "p",
          { className: "legend" },
          make("i", { className: "own" }),
          " the model's own probability, ",
          make("i", { className: "set" }),
          " after the sliders",
        );
        root.append(make("div", { className: "chances" }, this.barsTitle, key, this.bars));
      }
      if (this.parts.includes("heads")) this.buildHeads();
    }

    buildSliders() {
      const box = make("div", { className: "sliders" });
      this.inputs = {};
      for (const [name, { low, high, step, show, help }] of Object.entries(SLIDERS)) {
        const id = newId(),
          input = make("input", { id, type: "range", min: low, max: high, step });
        const value = make("output", { for: id }),
          words = make("small", { id: newId(), textContent: help });
        input.setAttribute("aria-describedby", words.id);
        input.addEventListener("input", () => this.change({ [name]: +input.value }));
        this.inputs[name] = (setting) => {
          input.value = setting;
          value.textContent = show(setting);
          input.setAttribute("aria-valuetext", show(setting));
          input.disabled = this.settings.greedy && name !== "length";
        };
        box.append(
          make("div", { className: "slider" }, make("label", { for: id }, name.replace("_", "-"), value), input, words),
        );
      }
      return box;
    }

    buildButtons() {
      const button = (textContent, onclick) => make("button", { type: "button", textContent, onclick });
      this.greedy = make("input", {
        type: "checkbox",
        role: "switch",
        onchange: () => this.change({ greedy: this.greedy.checked }),
      });
      this.link = make("a", { textContent: "Link to these settings" });
      this.stop = button("Stop", () => this.finish());
      return make(
        "div",
        { className: "buttons" },
        make("label", { className: "switch" }, this.greedy, "greedy: always the likeliest"),
        button("Another text", () => this.change({ seed: (this.settings.seed + 1) % (SLIDERS.seed.high + 1) })),
        button("One character more", () => this.step()),
        button("Back to the prompt", () => this.restart(0)),
        this.stop,
        this.link,
      );
    }

    buildHeads() {
      const { n_layer: L, n_head: nh } = this.model.config;
      this.headsTitle = make("h3");
      this.headSaid = make("p", { className: "said", "aria-live": "polite" });
      this.jobs = make("p", { className: "jobs" });
      const all = make("div", { className: "tiles" });
      this.tiles = [];
      for (let layer = 0; layer < L; layer++) {
        for (let head = 0; head < nh; head++) {
          const job = make("span"),
            canvas = make("canvas");
          const tile = make(
            "button",
            { type: "button", "aria-pressed": "false" },
            make("b", { textContent: `${layer}.${head}` }),
            job,
            canvas,
          );
          tile.onclick = () => this.choose(layer * nh + head);
          this.tiles.push({ tile, job, canvas });
          all.append(tile);
        }
      }
      const surprise = make("button", {
        type: "button",
        textContent: "Colour the text by surprise again",
        onclick: () => this.choose(null),
      });
      this.surprise = this.sliders ? surprise : make("span");
      this.panel = make("div", { className: "look" }, this.headsTitle, this.headSaid, this.jobs, all, this.surprise);
      this.root.append(this.panel);
    }

    // settings, and the address that carries them

    address() {
      const changed = Object.entries(this.settings).filter(([name, value]) => value !== DEFAULTS[name]);
      return new URLSearchParams(changed.map(([name, value]) => [name, String(value)])).toString();
    }

    /** Take the settings of the page's address; what makes no sense is said and left out. */
    readAddress() {
      this.settings = { ...DEFAULTS };
      this.misread = [];
      for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
        const slider = SLIDERS[name],
          value = slider ? Number(text) : name === "greedy" ? text === "true" : text;
        const fits = !slider || (text.trim() !== "" && value >= slider.low && value <= slider.high && Number.isFinite(value));
        const whole = !slider || slider.step < 1 || Number.isInteger(value);
        if (!(name in DEFAULTS)) continue;
        if (fits && whole) this.settings[name] = value;
        else
          this.misread.push(
            `${name.replace("_", "-")} = “${text.slice(0, 20)}” is not a${whole ? "" : " whole"} number ` +
              `from ${slider.low} to ${slider.high}: ${DEFAULTS[name]} is used`,
          );
      }
    }

    /** Settings for the core's ladder: the end of a slider means that there is no limit. */
    sampling() {
      const { temperature, top_k, top_p, min_p, seed, greedy } = this.settings;
      const limits = { top_k: top_k || null, top_p: top_p < 1 ? top_p : null, min_p: min_p || null };
      return new PicoGPT.SampleConfig({ max_new_tokens: 2 ** 31, temperature: greedy ? 0 : temperature, seed, ...limits });
    }

    change(settings) {
      Object.assign(this.settings, settings);
      this.misread = [];
      this.restart();
    }

    // writing

    /** Read the prompt and begin to write, `length` characters or as many as the settings say. */
    restart(length = this.settings.length) {
      if (this.prompt.value !== this.settings.prompt) this.prompt.value = this.settings.prompt;
      for (const [name, update] of Object.entries(this.inputs || {})) update(this.settings[name]);
      if (this.sliders) {
        this.greedy.checked = this.settings.greedy;
        const page = this.root.dataset.address !== undefined ? "" : `${HERE}playground.html`;
        this.link.href = `${page}#${this.address()}`;
        if (this.root.dataset.address !== undefined) history.replaceState(null, "", `#${this.address()}`);
      }
      clearTimeout(this.timer);
      this.problem.replaceChildren(...(this.misread || []).map((words) => make("p", { textContent: words })));
      const block = this.model.config.block_size;
      let ids;
      try {
        ids = this.tokenizer.encode(this.settings.prompt);
        PicoGPT.require(ids.length > 0, "the prompt is empty: the model needs at least one character to go on from");
        const most = block - (this.sliders ? 1 : 0),
          over = ids.length - most;
        PicoGPT.require(
          over <= 0,
          `the prompt has ${ids.length} characters, and the model sees ${block} at once: ` +
            `make it ${plural(over, "character")} shorter`,
        );
      } catch (error) {
        if (!(error instanceof PicoGPT.ValueError)) throw error;
        complain(this.problem, error, this.settings.prompt, this.tokenizer, (prompt) => this.change({ prompt }));
        this.read([]);
        this.goal = this.start = this.cursor = 0;
        this.status.textContent = "";
        this.draw();
        return;
      }
      this.box.style.minHeight = `${this.box.offsetHeight}px`; // what stands below stays where it is meanwhile
      this.read(ids);
      this.goal = Math.min(ids.length + length, block);
      this.start = ids.length; // where the writing starts
      this.cursor = this.sliders ? ids.length : ids.length - 1;
      this.writing = PicoGPT.generate(this.model, ids, this.sampling(), this.cache);
      this.began = this.painted = performance.now();
      this.draw();
      if (this.goal > ids.length) this.timer = setTimeout(() => this.slice(), 0);
      else this.finish();
    }

    /** Make `ids` the text. What it shares with the text before need not be read again. */
    read(ids) {
      let same = 0;
      const most = Math.min(ids.length, this.ids.length, this.cache.length);
      while (same < most && ids[same] === this.ids[same]) same++;
      this.cache.length = same;
      this.ids = Array.from(ids);
      this.logits.length = Math.min(this.logits.length, same + 1);
      this.readOn();
      this.box.replaceChildren();
      this.letters = [];
      this.spellOn();
    }

    /** Read what the cache does not hold yet, and keep the logits of every position. */
    readOn() {
      const { cache, ids, model } = this,
        from = cache.length,
        V = model.config.vocab_size;
      if (from >= ids.length) return;
      const logits = model.forward(ids.slice(from), { cache });
      for (let t = from; t < ids.length; t++) this.logits[t + 1] = logits.subarray((t - from) * V, (t - from + 1) * V);
    }

    /** Put the characters into the text that do not stand there yet. */
    spellOn() {
      const from = this.letters.length;
      const chars = this.ids.slice(from).map((id) => this.tokenizer.chars[id]);
      this.letters.push(...spell(this.box, chars, from));
    }

    /** Write one character. */
    one() {
      const { id, logits } = this.writing.next().value;
      this.logits[this.ids.length] = logits;
      this.ids.push(id);
    }

    /** Write for a while, show it now and then, and go on when the reader has had a turn. */
    slice() {
      const began = performance.now(), from = this.ids.length;
      const enough = () => this.ids.length >= from + 4 && performance.now() - began > SLICE;
      do this.one();
      while (this.ids.length < this.goal && !enough());
      if (this.ids.length >= this.goal) return this.finish();
      if (!QUIET.matches && performance.now() - this.painted > 2 * SLICE) {
        const first = this.letters.length;
        this.spellOn();
        this.paint(first);
        this.tell();
        this.painted = performance.now();
      }
      this.timer = setTimeout(() => this.slice(), 0);
    }

    finish() {
      clearTimeout(this.timer);
      this.goal = this.ids.length;
      this.tell();
      this.spellOn();
      this.readOn(); // the last character: its bars and heads can be asked for
      this.draw();
      this.box.style.minHeight = "";
    }

    step() {
      if (this.ids.length === 0) return;
      clearTimeout(this.timer);
      if (this.ids.length >= this.model.config.block_size) {
        const words =
          `The window of ${this.model.config.block_size} characters is full. Beyond it every position would shift, ` +
          "and nothing in the cache would be right any more: lesson 11.";
        this.problem.replaceChildren(make("p", { textContent: words }));
        return;
      }
      this.one();
      this.cursor = this.ids.length - 1;
      this.began = null;
      this.finish();
    }

    /** Say how fast it was. */
    tell() {
      const written = this.ids.length - this.start,
        seconds = (performance.now() - this.began) / 1000;
      const speed = this.began && written > 9 ? `, ${Math.round(written / seconds)} characters a second` : "";
      this.status.textContent = this.sliders ? `${plural(written, "character")} written${speed}` : "";
    }

    // looking

    look(t) {
      this.cursor = t;
      this.draw();
    }

    choose(head) {
      this.byHead = head !== null;
      if (head !== null) this.chosen = head;
      this.draw();
    }

    char(t) {
      return this.tokenizer.chars[this.ids[t]];
    }

    /** The surprise at each character that was predicted, in nats, at temperature 1. */
    nats(t) {
      return t > 0 && this.logits[t] ? PicoGPT.surprises(this.logits[t], [this.ids[t]])[0] : 0;
    }

    /** Show everything anew. */
    draw() {
      this.stop && (this.stop.hidden = !(this.ids.length < this.goal));
      if (this.tiles && this.ids.length >= this.goal) this.drawHeads();
      this.paint(0);
      this.drawLegend(this.byHead && this.weights ? this.chosen : null);
      this.drawSaid();
      if (this.sliders) this.drawBars();
    }

    /** Colour the characters from `from` on. */
    paint(from) {
      const at = Math.min(this.cursor, this.ids.length - 1),
        by = this.byHead && this.weights ? this.chosen : null;
      for (let t = from; t < this.letters.length; t++) {
        const letter = this.letters[t],
          nats = this.nats(t);
        letter.style.backgroundColor = by === null ? heat(nats / 6) : t <= at ? heat(Math.sqrt(this.weights[by](at, t))) : "";
        const kinds = [this.char(t) === "\n" && "end", t < this.start && "given", t === this.cursor && "here"];
        if (by === null) kinds.push(nats > Math.log(10) && "odd");
        else kinds.push(t > at && "later");
        letter.className = kinds.filter(Boolean).join(" ");
      }
    }

    drawLegend(by) {
      if (by !== null) {
        this.legend.textContent = `Coloured: how much ${this.nameOf(by)} takes from each character at the mark.`;
        return;
      }
      const steps = [0.01, 1, 2, 4, 6].map((nats) => {
        const swatch = make("i", { className: "swatch", textContent: percent(Math.exp(-nats)) });
        swatch.style.backgroundColor = heat(nats / 6);
        return swatch;
      });
      this.legend.replaceChildren(
        "Coloured by surprise: how likely the model thought the character was. ",
        ...steps,
        " Bold: below 10 %.",
      );
    }

    drawSaid() {
      const t = this.cursor;
      if (this.ids.length === 0) return void (this.said.textContent = "");
      if (t >= this.ids.length) return void (this.said.textContent = "");
      const nats = this.nats(t),
        p = percent(Math.exp(-nats));
      const words =
        t === 0
          ? "the first character: nothing came before it, so nothing was predicted"
          : `the model gave it ${p}, a surprise of ${nats.toFixed(2)} nats`;
      this.said.textContent = `Marked: “${shown(this.char(t))}”, character ${t + 1}: ${words}.`;
    }

    /** What could have stood at the mark: the ten likeliest characters, before and after the settings. */
    drawBars() {
      const t = Math.min(this.cursor, this.ids.length),
        logits = this.logits[t],
        { chars } = this.tokenizer;
      this.bars.replaceChildren();
      if (!logits || t === 0) {
        this.barsTitle.textContent =
          t === 0 && this.ids.length ? "Nothing comes before the first character" : "The next character";
        return;
      }
      const before = this.ids
        .slice(Math.max(0, t - 8), t)
        .map((id) => shown(chars[id]))
        .join("");
      this.barsTitle.textContent =
        t < this.ids.length ? `What could have come after “${before}”` : `What comes after “${before}”`;
      const own = PicoGPT.softmax(logits),
        set = PicoGPT.next_token_probs(logits, this.sampling());
      const order = [...own.keys()].sort((a, b) => own[b] - own[a]),
        rows = order.slice(0, 10);
      const drawn = t < this.ids.length ? this.ids[t] : -1;
      if (drawn >= 0 && !rows.includes(drawn)) rows.push(drawn);
      const head = make(
        "tr",
        {},
        ...["", "", "sliders", "model"].map((textContent) => make("th", { scope: "col", textContent })),
      );
      this.bars.append(make("thead", {}, head));
      const body = make("tbody");
      for (const id of rows) {
        const bar = make("div", { className: "bar" }, make("i", { className: "own" }), make("i", { className: "set" }));
        bar.children[0].style.width = `${100 * own[id]}%`;
        bar.children[1].style.width = `${100 * set[id]}%`;
        const name = make("th", { scope: "row", textContent: shown(chars[id]) });
        const mine = make("td", { textContent: set[id] === 0 ? "cut" : percent(set[id]) });
        const row = make(
          "tr",
          { className: id === drawn ? "drawn" : "" },
          name,
          make("td", {}, bar),
          mine,
          make("td", { textContent: percent(own[id]) }),
        );
        if (id === drawn)
          name.append(make("span", { className: "unseen", textContent: t < this.start ? " stands there" : " was drawn" }));
        body.append(row);
      }
      const rest = [...own.keys()].filter((id) => !rows.includes(id)),
        sum = (probs) => rest.reduce((all, id) => all + probs[id], 0);
      const others = make("td", { textContent: `the ${rest.length} others` });
      body.append(
        make(
          "tr",
          { className: "rest" },
          make("th"),
          others,
          make("td", { textContent: percent(sum(set)) }),
          make("td", { textContent: percent(sum(own)) }),
        ),
      );
      this.bars.append(body);
    }

    /** Where the heads look from the mark, and what each does on the whole text. */
    drawHeads() {
      const { n_head: nh, n_layer: L, block_size: block } = this.model.config;
      const T = Math.min(this.ids.length, this.cache.length);
      this.weights = null;
      this.panel.hidden = T === 0;
      if (T === 0) return;
      const at = Math.min(this.cursor, T - 1);
      this.weights = Array.from({ length: L * nh }, (_, n) => {
        const layer = this.cache.weights[Math.floor(n / nh)]; // (nh, block_size, block_size)
        return (t, j) => layer[((n % nh) * block + t) * block + j];
      });
      const habits = this.weights.map((weight) => habit(weight, this.ids, T));
      const best = (what) => habits.reduce((most, one, n) => (one[what] > habits[most][what] ? n : most), 0);
      if (this.chosen === null) this.chosen = best("1 back");
      this.headsTitle.textContent = `Where the ${L * nh} heads look from “${shown(this.char(at))}”`;
      this.headSaid.textContent = `At the mark, ${this.nameOf(this.chosen)} takes ${this.sources(this.chosen, at)}.`;
      const fact = (what, words) => `${this.nameOf(best(what))} ${words} (${percent(habits[best(what)][what])})`;
      const facts = [fact("1 back", "looks most at the previous character"), fact("2 back", "at the one before that")];
      facts.push(fact("same", "at earlier copies of the character it stands on"));
      this.jobs.textContent = T < 8 ? "" : `On this text as a whole, ${facts.join("; ")}.`;
      const lines = this.lines(T);
      this.tiles.forEach(({ tile, job, canvas }, n) => {
        const [what, share] = Object.entries(habits[n]).reduce((a, b) => (b[1] > a[1] ? b : a));
        job.textContent = share >= 0.4 && T >= 8 ? `${what} ${percent(share)}` : "spread";
        tile.setAttribute("aria-pressed", String(this.byHead && n === this.chosen));
        tile.setAttribute("aria-label", `${this.nameOf(n)}: ${job.textContent}`);
        this.drawTile(canvas, lines, this.weights[n], at);
      });
      this.surprise.hidden = !this.byHead;
    }

    nameOf(n) {
      const nh = this.model.config.n_head;
      return `layer ${Math.floor(n / nh)}, head ${n % nh}`;
    }

    /** In words, the three characters that a head takes most from. */
    sources(n, at) {
      const share = (j) => this.weights[n](at, j);
      const most = [...Array(at + 1).keys()].sort((a, b) => share(b) - share(a)).slice(0, 3);
      const place = (j) => (j === at ? "itself" : `${at - j} before`);
      return most
        .filter((j) => share(j) >= 0.01)
        .map((j) => `${percent(share(j))} from “${shown(this.char(j))}”, ${place(j)}`)
        .join("; ");
    }

    /** The places 0 to T - 1, in the lines of the text, at most 48 in each. */
    lines(T) {
      const lines = [[]];
      for (let t = 0; t < T; t++) {
        if (lines.at(-1).length >= 48) lines.push([]);
        lines.at(-1).push(t);
        if (this.char(t) === "\n" && t < T - 1) lines.push([]);
      }
      return lines;
    }

    /** The text as a small picture: a cell for each character, the warmer the more the head takes from it at the mark. */
    drawTile(canvas, lines, weight, at) {
      const style = getComputedStyle(this.root);
      const [warm, here, past, later] = ["--warm", "--ink", "--pale", "--later"].map((name) => style.getPropertyValue(name));
      canvas.width = 4 * Math.max(24, ...lines.map((line) => line.length));
      canvas.height = 10 * Math.max(4, lines.length);
      const pen = canvas.getContext("2d");
      lines.forEach((line, y) =>
        line.forEach((t, x) => {
          pen.globalAlpha = 1;
          pen.fillStyle = t === at ? here : t > at ? later : past;
          pen.fillRect(4 * x, 10 * y, 3.4, 9);
          if (t > at) return;
          pen.globalAlpha = Math.sqrt(weight(at, t));
          pen.fillStyle = warm;
          pen.fillRect(4 * x, 10 * y + (t === at ? 5 : 0), 3.4, t === at ? 4 : 9); // itself: the lower half of its cell
        }),
      );
    }
  }

  /** What a head does on the T characters of a text: the mean share that goes to itself, 1, 2 and 3 back, and to earlier copies
  of the character that it stands on. */
  function habit(weight, ids, T) {
    const shares = { itself: 0, "1 back": 0, "2 back": 0, "3 back": 0, same: 0 };
    let copies = 0;
    for (let t = 3; t < T; t++) {
      ["itself", "1 back", "2 back", "3 back"].forEach((what, back) => (shares[what] += weight(t, t - back) / (T - 3)));
      let share = 0,
        any = false;
      for (let j = 0; j < t; j++) if (ids[j] === ids[t]) [share, any] = [share + weight(t, j), true];
      if (any) [shares.same, copies] = [shares.same + share, copies + 1];
    }
    shares.same /= copies || 1;
    return shares;
  }

  // ----- the second piece: the mask, in and out

  const MASKS = { honest: "with the mask", unmasked: "without the mask" };

  class Pair {
    constructor(root, honest, unmasked) {
      Object.assign(this, { root, models: { honest: honest.model, unmasked: unmasked.model }, tokenizer: honest.tokenizer });
      this.about = { honest: honest.about, unmasked: unmasked.about };
      this.which = "honest";
      this.text = PASSAGE;
      this.cursor = honest.model.config.block_size; // the first character of the second window
      this.changed = 24; // the character that the probe changes
      this.seed = 1;
      this.runs = 0; // a newer run of the same work ends an older one
      this.build();
      this.read();
    }

    build() {
      const { root } = this,
        id = newId();
      this.input = make("textarea", { id, rows: 4, spellcheck: false, value: this.text });
      this.input.addEventListener("input", () => {
        this.text = this.input.value;
        this.read();
      });
      this.problem = make("div", { className: "problem", role: "alert" });
      root.append(
        make(
          "div",
          { className: "controls" },
          make("label", { for: id, textContent: "A text for both models to read: paste your own" }),
          this.input,
          this.problem,
        ),
      );

      const choice = make("fieldset", { className: "choice" }, make("legend", { textContent: "Who reads it?" }));
      const group = newId();
      for (const [name, label] of Object.entries(MASKS)) {
        const radio = make("input", { type: "radio", name: group, checked: name === this.which });
        radio.addEventListener("change", () => {
          this.which = name;
          this.draw();
        });
        choice.append(make("label", {}, radio, sight(name === "honest"), `the model ${label}`));
      }
      choice.append(make("small", { textContent: "Each row is a position. The coloured cells are what it may look at." }));
      this.verdict = make("p", { className: "verdict", "aria-live": "polite" });
      this.legend = make("p", {
        className: "legend",
        textContent: "Coloured by surprise: no colour where the model saw the character coming.",
      });
      this.box = make("div", {
        className: "text",
        role: "group",
        "aria-label": "The text. Arrow keys move from character to character.",
      });
      marks(
        this.box,
        () => this.letters.length,
        () => this.cursor,
        (t) => {
          this.cursor = t;
          this.draw();
        },
      );
      this.said = make("p", { className: "said", "aria-live": "polite" });
      this.table = make("table", { className: "compared" });
      root.append(choice, make("div", { className: "written" }, this.verdict, this.legend, this.box, this.said), this.table);

      this.texts = {};
      const both = make("div", { className: "both" });
      for (const [name, label] of Object.entries(MASKS)) {
        this.texts[name] = make("div", {
          className: "text plain",
          role: "group",
          "aria-label": `What the model ${label} writes`,
        });
        both.append(make("div", {}, make("h4", { textContent: label }), this.texts[name]));
      }
      const again = make("button", {
        type: "button",
        textContent: "Let both write again",
        onclick: () => (this.seed++, this.write()),
      });
      root.append(
        make(
          "div",
          {},
          make("h3", { textContent: "What each writes" }),
          (this.how = make("p", { className: "legend" })),
          both,
          again,
        ),
      );

      this.strips = {};
      const probe = make("div", { className: "probe" });
      for (const [name, label] of Object.entries(MASKS)) {
        const strip = make("div", {
          className: "text",
          role: "group",
          "aria-label": `The model ${label}. Arrow keys choose the character to change.`,
        });
        marks(
          strip,
          () => this.start.length,
          () => this.changed,
          (t) => this.probe(t),
        );
        this.strips[name] = strip;
        probe.append(make("div", {}, make("h4", { textContent: label }), strip));
      }
      this.found = make("p", { className: "said", "aria-live": "polite" });
      const how = make(
        "p",
        { className: "legend" },
        "Choose a character below. It is exchanged for another. The predictions at underlined positions move. ",
      );
      root.append(make("div", {}, make("h3", { textContent: "Change one character" }), how, probe, this.found));
    }

    /** Take the text, or say in words why not. */
    read() {
      this.runs++;
      this.problem.replaceChildren();
      let ids;
      try {
        ids = this.tokenizer.encode(this.text.slice(0, LONGEST));
        PicoGPT.require(
          ids.length > 1,
          `a text of ${plural(ids.length, "character")} has nothing to predict: paste at least two`,
        );
      } catch (error) {
        if (!(error instanceof PicoGPT.ValueError)) throw error;
        complain(this.problem, error, this.text, this.tokenizer, (text) => {
          this.input.value = this.text = text;
          this.read();
        });
        return;
      }
      if (this.text.length > LONGEST) {
        const words = `Of ${this.text.length} characters the first ${LONGEST} are read.`;
        this.problem.append(make("p", { textContent: words }));
      }
      this.ids = ids;
      this.start = ids.slice(0, Math.min(64, this.models.honest.config.block_size));
      this.nats = { honest: [], unmasked: [] };
      this.earlier = {}; // positions before the changed character that moved, in words
      this.cursor = Math.min(this.cursor, ids.length - 1);
      this.box.replaceChildren();
      this.letters = spell(
        this.box,
        ids.map((id) => this.tokenizer.chars[id]),
      );
      this.draw();
      this.work(this.runs);
    }

    /** Measure, probe, write: one after the other, with pauses, until the text changes. */
    async work(run) {
      for (const name of Object.keys(MASKS)) {
        for (const [x, y] of PicoGPT.side_by_side(this.models[name], this.ids)) {
          await pause();
          if (run !== this.runs) return;
          this.nats[name].push(...PicoGPT.surprises(this.models[name].forward(x), y));
        }
        this.draw();
      }
      this.probe(Math.min(this.changed, this.start.length - 1));
      await this.write();
    }

    loss(name) {
      return this.nats[name].reduce((sum, nats) => sum + nats, 0) / (this.ids.length - 1);
    }

    done(name) {
      return this.nats[name].length === this.ids.length - 1;
    }

    draw() {
      const { which } = this,
        nats = this.nats[which],
        block = this.models[which].config.block_size;
      this.letters.forEach((letter, t) => {
        const surprise = t ? nats[t - 1] || 0 : 0;
        letter.style.backgroundColor = heat(surprise / 6);
        letter.classList.toggle("here", t === this.cursor);
        letter.classList.toggle("odd", surprise > Math.log(10));
      });
      const loss = this.done(which) ? this.loss(which).toFixed(3) : "…";
      this.verdict.replaceChildren(
        `The model ${MASKS[which]} has a loss of `,
        make("b", { textContent: loss }),
        " nats per character on this text.",
      );
      const t = this.cursor,
        surprise = nats[t - 1],
        last = t % block === 0 && which === "unmasked";
      const why = last
        ? " It begins a new window: the position that had to predict it is the last of its own, and has nothing to its right."
        : "";
      const words =
        surprise === undefined
          ? "nothing was predicted yet"
          : `the model gave it ${percent(Math.exp(-surprise))}, a surprise of ${surprise.toFixed(2)} nats`;
      this.said.textContent =
        t === 0 ? "" : `Marked: “${shown(this.tokenizer.chars[this.ids[t]])}”, character ${t + 1}: ${words}.${why}`;
      const row = (what, ...cells) =>
        make(
          "tr",
          {},
          make("th", { scope: "row", textContent: what }),
          ...cells.map((textContent) => make("td", { textContent })),
        );
      const names = Object.keys(MASKS),
        told = (number) => (number === undefined ? "…" : number);
      const head = make("tr", {}, make("td"), ...names.map((name) => make("th", { scope: "col", textContent: MASKS[name] })));
      this.table.replaceChildren(
        make("thead", {}, head),
        make(
          "tbody",
          {},
          row("loss on this text", ...names.map((name) => told(this.done(name) ? this.loss(name).toFixed(3) : undefined))),
          row("loss on the whole validation text", ...names.map((name) => this.about[name].val_loss.toFixed(3))),
          row(
            "earlier positions that a changed character moves",
            ...names.map((name) => told(this.earlier[name])),
          ),
        ),
      );
    }

    /** Let both models go on from the beginning of the text. */
    async write() {
      const run = this.runs,
        seed = this.seed,
        going = () => run === this.runs && seed === this.seed;
      const prompt = this.ids.slice(0, 40),
        settings = new PicoGPT.SampleConfig({ max_new_tokens: 160, temperature: 0.8, seed });
      this.how.textContent = `Both go on from the first ${plural(prompt.length, "character")} of the text, at temperature 0.8.`;
      for (const name of Object.keys(MASKS)) {
        const box = this.texts[name],
          spelled = (ids) => ids.map((id) => this.tokenizer.chars[id]);
        box.replaceChildren();
        for (const letter of spell(box, spelled(prompt))) letter.classList.add("given");
      }
      for (const name of Object.keys(MASKS)) {
        let since = performance.now(),
          ids = [];
        const show = () => (
          spell(
            this.texts[name],
            ids.map((id) => this.tokenizer.chars[id]),
          ),
          (ids = [])
        );
        for (const { id } of PicoGPT.generate(this.models[name], prompt, settings)) {
          ids.push(id);
          if (performance.now() - since < SLICE) continue;
          if (!QUIET.matches) show();
          await pause();
          if (!going()) return;
          since = performance.now();
        }
        show();
      }
    }

    /** Exchange the character at `place`, and see which predictions move, in both models. */
    probe(place) {
      this.changed = place;
      const V = this.tokenizer.vocab_size,
        other = this.start.map((id, t) => (t === place ? (id + 1) % V : id));
      const [was, is] = [this.start[place], other[place]].map((id) => shown(this.tokenizer.chars[id]));
      this.earlier = {};
      const counts = Object.entries(this.models).map(([name, model]) => {
        const moved = PicoGPT.largest_change(model.forward(this.start), model.forward(other), this.start.length);
        this.strips[name].replaceChildren();
        spell(
          this.strips[name],
          other.map((id) => this.tokenizer.chars[id]),
        ).forEach((letter, t) => {
          if (t === place) letter.classList.add("here");
          if (moved[t] > 1e-5) letter.classList.add(t < place ? "leak" : "moved"); // less is rounding
        });
        const early = moved.subarray(0, place).filter((size) => size > 1e-5).length;
        const late = moved.subarray(place).filter((size) => size > 1e-5).length;
        this.earlier[name] = place ? `${early} of ${place}` : "none there";
        const from = this.start.length - place;
        return `${sentence(MASKS[name])} ${early} of ${place} earlier positions move, and ${late} of ${from} from there on.`;
      });
      this.found.textContent = `“${was}” at character ${place + 1} has become “${is}”. ${counts.join(" ")}`;
      this.draw();
    }
  }

  /** A small picture of what each position may look at: a triangle, or everything. */
  function sight(causal) {
    const n = 6,
      picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    picture.setAttribute("viewBox", `0 0 ${n} ${n}`);
    picture.setAttribute("aria-hidden", "true");
    for (let t = 0; t < n; t++) {
      for (let j = 0; j < n; j++) {
        const cell = document.createElementNS("http://www.w3.org/2000/svg", "rect");
        for (const [name, value] of Object.entries({ x: j + 0.06, y: t + 0.06, width: 0.88, height: 0.88 }))
          cell.setAttribute(name, value);
        cell.setAttribute("class", j <= t ? "past" : causal ? "hidden" : "future");
        picture.append(cell);
      }
    }
    return picture;
  }

  // ----- each piece in its place

  async function begin(root) {
    const parts = root.dataset.playground.split(" "),
      names = parts.includes("mask") ? ["honest", "unmasked"] : ["picogpt"];
    try {
      const models = await Promise.all(names.map(open));
      root.replaceChildren();
      root.classList.add("ready", ...parts);
      if (parts.includes("mask")) new Pair(root, ...models);
      else new Writer(root, parts, models[0]);
    } catch (error) {
      root.replaceChildren(make("p", { className: "problem", role: "alert", textContent: error.message }));
      if (!(error instanceof PicoGPT.ValueError)) throw error;
    }
  }

  for (const root of document.querySelectorAll("[data-playground]")) {
    root.classList.add("picogpt");
    const missing = ["DecompressionStream", "URLSearchParams", "Blob"].filter((name) => !(name in window));
    if (missing.length > 0) {
      const words =
        `This browser is too old for the playground: it lacks ${missing.join(", ")}. ` +
        "Chrome, Edge, Firefox and Safari have had it since 2023 at the latest.";
      root.replaceChildren(make("p", { className: "problem", role: "alert", textContent: words }));
    } else if (root.dataset.wait !== undefined) {
      const button = make("button", {
        type: "button",
        className: "start",
        textContent: `Start it here (${root.dataset.wait})`,
      });
      button.onclick = () => {
        button.disabled = true;
        button.textContent = "Loading the model …";
        begin(root);
      };
      root.querySelectorAll("[data-fallback]").forEach((element) => element.remove());
      root.append(button);
    } else {
      const near = new IntersectionObserver(
        (seen) => {
          // a piece further down costs nothing until the reader comes near
          if (!seen.some(({ isIntersecting }) => isIntersecting)) return;
          near.disconnect();
          begin(root);
        },
        { rootMargin: "200px" },
      );
      near.observe(root);
    }
  }
})();
