// The browser of attempts. Text of a model is inserted into the document as text only: all elements
// are made by `make`.

const PAGE_SIZE = 25;
const FACET_LABELS = {
  run: "Run",
  iteration: "Iteration",
  stage: "Stage",
  verdict: "Verdict",
  hint: "Hint",
  kept: "Kept",
  steps: "Steps",
  group: "Group",
  sample: "Sample",
  turn: "Turn",
};
const MARKS = { right: "✓", wrong: "✗", unparsed: "?", dropped: "–" };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const number = (n) => n.toLocaleString("en-US");
const plural = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;

class AttemptBrowser {
  constructor(store, root) {
    this.store = store;
    this.root = root;
    this.view = {};
    this.list = {}; // the last view of more than one question
    this.selects = {};
    this.rightAnswers = rightAnswers(store);
    this.results = make("div", { class: "results" });
    this.status = make("p", { class: "status", role: "status" });
    root.replaceChildren(this.filters(), this.status, this.results);
    addEventListener("hashchange", () => this.readHash());
    addEventListener("keydown", (event) => this.key(event));
    this.readHash(true);
  }

  // Filters

  filters() {
    const telling = FACETS.filter((name) => new Set(this.store.columns[name]).size > 1);
    const selects = telling.map((name) => {
      const select = make("select", {
        id: `filter-${name}`,
        onchange: () => this.go({ ...this.view, [name]: this.chosen(name), page: undefined }),
      });
      this.selects[name] = select;
      const label = make("label", { for: select.id }, FACET_LABELS[name]);
      return make("div", { class: "filter" }, label, select);
    });
    this.search = make("input", {
      id: "filter-q",
      type: "search",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "in question, rationale, answer",
      oninput: () => this.searched(),
    });
    const search = make(
      "div",
      { class: "filter search" },
      make("label", { for: "filter-q" }, "Search"),
      this.search,
    );
    this.clear = make("button", { type: "button", onclick: () => this.go({}) }, "Clear all");
    return make(
      "form",
      { class: "filters", role: "search", onsubmit: (event) => event.preventDefault() },
      search,
      ...selects,
      make("div", { class: "filter" }, this.clear),
      make("p", { class: "keys" }, ...keyHelp()),
    );
  }

  chosen(name) {
    const place = this.selects[name].value;
    return place === "" ? undefined : this.store.values[name][Number(place)];
  }

  searched() {
    clearTimeout(this.waiting);
    const replace = Boolean(this.view.q); // further typing adds no step to the history
    this.waiting = setTimeout(
      () => this.go({ ...this.view, q: this.search.value, page: undefined }, replace),
      150,
    );
  }

  // The count of each choice, given the other filters.
  showChoices(counts) {
    for (const [name, select] of Object.entries(this.selects)) {
      const values = this.store.values[name];
      const options = values
        .map((value, place) => [place, choiceLabel(value), counts[name][place], value])
        .filter(([, , count, value]) => count > 0 || value === this.view[name])
        .map(([place, label, count]) =>
          make("option", { value: place }, `${label} (${number(count)})`),
        );
      select.replaceChildren(make("option", { value: "" }, "all"), ...options);
      const place = values.indexOf(this.view[name]);
      select.value = place < 0 ? "" : String(place);
      select.classList.toggle("set", place >= 0);
    }
    if (document.activeElement !== this.search) this.search.value = this.view.q ?? "";
  }

  // The view and the address

  go(view, replace = false) {
    const hash = hashOf(view);
    if (hash === location.hash) return;
    if (replace) location.replace(hash);
    else location.hash = hash;
    this.readHash(); // now: the event is late, and the next key is meant for the new view
  }

  readHash(first = false) {
    if (!first && location.hash === this.hash) return;
    this.hash = location.hash;
    const isView = location.hash.startsWith(VIEW_PREFIX);
    const before = this.view;
    // At the address of another part of the page the list before the question is shown.
    this.view = isView ? viewOf(location.hash) : location.hash === "" ? {} : { ...this.list };
    for (const name of FACETS) {
      // A value that this report does not have, such as another report's run, does not filter.
      if (!this.store.values[name].includes(this.view[name])) delete this.view[name];
    }
    if (this.view.question === undefined) this.list = this.view;
    this.show();
    this.root.dataset.shown = this.hash;
    const moved = this.view.question !== before.question || this.view.page !== before.page;
    if (isView && (first || moved)) this.root.scrollIntoView({ block: "start" });
  }

  // Results

  show() {
    const { rows, counts } = findAttempts(this.store, this.view);
    this.showChoices(counts);
    this.clear.disabled = hashOf(this.view) === VIEW_PREFIX;
    this.pages = Math.max(1, Math.ceil(rows.length / PAGE_SIZE));
    this.page = Math.min(this.view.page ?? 1, this.pages);
    const start = (this.page - 1) * PAGE_SIZE;
    const here = rows.slice(start, start + PAGE_SIZE);
    this.status.textContent = this.statusOf(rows.length, start, here.length);
    this.results.replaceChildren(
      ...[
        this.view.question === undefined ? null : this.questionHead(rows),
        ...here.map((row) => this.card(row)),
        this.pages > 1 ? this.pager() : null,
      ].filter((part) => part !== null),
    );
  }

  statusOf(n, start, here) {
    const [shown, total] = sampleOf(this.store, this.view);
    const where = ["run", "iteration", "stage"].some((name) => this.view[name] !== undefined)
      ? "chosen runs, iterations and stages"
      : "runs";
    const sample = `${number(shown)} of ${number(total)} attempts of the ${where} shown`;
    if (total === 0) return "There are no attempts in these runs.";
    if (n === 0) return `No attempt matches. ${sample}.`;
    const range = n > here ? `, ${number(start + 1)} to ${number(start + here)} below` : "";
    return `${plural(n, "attempt")} found${range}. ${sample}.`;
  }

  card(row) {
    const { store } = this;
    const says = (name) => facetOf(store, name, row);
    const verdict = says("verdict");
    const rationale = textOf(store, "rationale", row);
    const facts = [
      says("hint") === "with hint" ? make("span", { class: "tag hint" }, "with hint") : null,
      says("kept") === "kept" ? make("span", { class: "tag kept" }, "kept") : null,
      says("kept") === "not kept" && verdict === "right"
        ? make("span", { class: "tag" }, "not kept")
        : null,
      says("steps") === "not checked" ? null : make("span", { class: "tag" }, says("steps")),
      store.columns.ended[row] || verdict === "dropped"
        ? null
        : make("span", { class: "tag" }, "truncated"),
    ];
    return make(
      "article",
      { class: "attempt", "data-verdict": verdict, "data-row": row, tabindex: "-1" },
      make(
        "header",
        {},
        verdictBadge(verdict),
        make("span", { class: "where" }, this.where(row)),
        ...facts,
        make("span", { class: "tokens" }, plural(store.columns.tokens[row], "token")),
      ),
      make(
        "div",
        { class: "texts" },
        this.question(row),
        make(
          "div",
          { class: "rationale" },
          make("h3", {}, "Rationale"),
          rationale
            ? make("pre", {}, rationale)
            : make("p", { class: "nothing" }, "The model wrote nothing."),
          this.answer(row),
        ),
      ),
    );
  }

  where(row) {
    const says = (name) => facetOf(this.store, name, row);
    const iteration = says("iteration");
    const parts = [iteration === "base" ? iteration : `iteration ${iteration}`, says("stage")];
    if (this.store.values.run.length > 1) parts.unshift(says("run"));
    if (says("group")) parts.push(`group ${says("group")}`);
    for (const name of ["sample", "turn"]) {
      if (this.store.values[name].length > 1) parts.push(`${name} ${says(name)}`);
    }
    return parts.join(" · ");
  }

  question(row) {
    const id = textOf(this.store, "id", row);
    const text = make("pre", {}, textOf(this.store, "question", row));
    const followed = this.view.question === id;
    return make(
      "div",
      { class: "question" },
      make("h3", {}, "Question ", make("span", { class: "id" }, id)),
      followed
        ? text
        : make(
            "a",
            {
              href: hashOf({ question: id }),
              title: "All attempts at this question, over the iterations",
            },
            text,
          ),
    );
  }

  answer(row) {
    const answer = textOf(this.store, "answer", row);
    const expected = textOf(this.store, "expected", row); // older runs have not recorded it
    const rightOne = expected ?? this.rightAnswers.get(rightKey(this.store, row)) ?? null;
    const others = rightOne !== null && facetOf(this.store, "verdict", row) !== "right";
    if (answer === null && !others) return null;
    return make(
      "p",
      { class: "answer" },
      ...(answer === null ? [] : [make("span", {}, "Answer"), make("output", {}, answer)]),
      ...(others
        ? [
            make("span", {}, expected === null ? "Correct in another attempt" : "Expected"),
            make("output", { "data-verdict": "right" }, rightOne),
          ]
        : []),
    );
  }

  pager() {
    const to = (page) => () => this.go({ ...this.view, page: page > 1 ? page : undefined });
    const button = (label, page, disabled) =>
      make("button", { type: "button", disabled, onclick: to(page) }, label);
    return make(
      "nav",
      { class: "pager", "aria-label": "Pages of attempts" },
      button("First", 1, this.page === 1),
      button("Previous", this.page - 1, this.page === 1),
      make("span", {}, `Page ${number(this.page)} of ${number(this.pages)}`),
      button("Next", this.page + 1, this.page === this.pages),
      button("Last", this.pages, this.page === this.pages),
    );
  }

  // One question over the iterations: a line for every run and stage, a mark for every attempt.
  questionHead(rows) {
    const { store } = this;
    const iterations = [...new Set(rows.map((row) => store.columns.iteration[row]))].sort(
      (a, b) => a - b,
    );
    const lines = new Map();
    for (const row of rows) {
      const label = [facetOf(store, "stage", row)];
      if (store.values.run.length > 1) label.unshift(facetOf(store, "run", row));
      const key = label.join(" · ");
      if (!lines.has(key)) lines.set(key, new Map());
      const cells = lines.get(key);
      const iteration = store.columns.iteration[row];
      cells.set(iteration, [...(cells.get(iteration) ?? []), row]);
    }
    const head = iterations.map((place) =>
      make("th", { scope: "col" }, store.values.iteration[place]),
    );
    const body = [...lines].map(([label, cells]) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, label),
        ...iterations.map((place) => make("td", {}, ...this.marks(cells.get(place) ?? [], rows))),
      ),
    );
    const table = make(
      "table",
      { class: "timeline" },
      make("caption", {}, "Verdicts by iteration; a click on a mark shows its attempt."),
      make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "iteration"), ...head)),
      make("tbody", {}, ...body),
    );
    return make(
      "div",
      { class: "followed" },
      make(
        "div",
        { class: "followed-head" },
        make("h3", {}, "One question over the iterations: ", make("span", {}, this.view.question)),
        make("button", { type: "button", onclick: () => this.go(this.list) }, "Back"),
      ),
      rows.length ? make("div", { class: "scroll" }, table) : null,
    );
  }

  marks(rows, all) {
    return rows.map((row) => {
      const verdict = facetOf(this.store, "verdict", row);
      const label = `${verdict}: ${this.where(row)}`;
      return make(
        "button",
        {
          type: "button",
          class: "mark",
          "data-verdict": verdict,
          "aria-label": label,
          title: label,
          onclick: () => this.jump(row, all),
        },
        MARKS[verdict],
      );
    });
  }

  jump(row, all) {
    const page = Math.floor(all.indexOf(row) / PAGE_SIZE) + 1;
    if (page !== this.page) {
      this.go({ ...this.view, page: page > 1 ? page : undefined });
    }
    this.focus(this.results.querySelector(`[data-row="${row}"]`));
  }

  // The keyboard

  cards() {
    return [...this.results.querySelectorAll("article")];
  }

  focus(card) {
    if (!card) return;
    card.focus({ preventScroll: true });
    card.scrollIntoView({ block: "nearest" });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const typing = event.target.closest?.("input, select, textarea");
    if (typing) {
      if (event.key === "Escape" && event.target === this.search) this.search.blur();
      return;
    }
    const cards = this.cards();
    const place = cards.indexOf(document.activeElement?.closest?.("article"));
    const keys = {
      "/": () => this.search.focus(),
      j: () => this.focus(cards[Math.min(cards.length - 1, place + 1)]),
      k: () => this.focus(cards[Math.max(0, place - 1)]),
      n: () => this.turn(this.page + 1),
      p: () => this.turn(this.page - 1),
      o: () => cards[place]?.querySelector(".question a")?.click(),
    };
    if (!Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  }

  turn(page) {
    if (page < 1 || page > this.pages) return;
    this.go({ ...this.view, page: page > 1 ? page : undefined });
  }
}

function choiceLabel(value) {
  return value === "" ? "none" : value;
}

function keyHelp() {
  const keys = [
    ["/", "search"],
    ["j", "next attempt"],
    ["k", "previous attempt"],
    ["o", "open its question"],
    ["n", "next page"],
    ["p", "previous page"],
  ];
  return keys.flatMap(([key, what]) => [make("kbd", {}, key), ` ${what}  `]);
}

function verdictBadge(verdict) {
  const mark = make("span", { "aria-hidden": "true" }, MARKS[verdict]);
  return make("span", { class: "verdict", "data-verdict": verdict }, mark, ` ${verdict}`);
}

async function start() {
  sortableTables();
  scrollableTables();
  const root = document.getElementById("browser");
  const data = document.getElementById("attempts-data");
  if (typeof DecompressionStream === "undefined") {
    root.append(
      make(
        "p",
        { class: "message" },
        "This browser is too old to unpack the attempts: use Chrome or Edge 80, Firefox 113, " +
          "Safari 16.4, or a later one.",
      ),
    );
    return;
  }
  root.append(make("p", { class: "message", role: "status" }, "Unpacking the attempts …"));
  const store = await unpackAttempts(data.textContent);
  data.remove(); // frees megabytes
  if (store.columns.id.length === 0) {
    const none = "There are no attempts in these runs: no stage is finished.";
    root.replaceChildren(make("p", { class: "message" }, none));
    return;
  }
  new AttemptBrowser(store, root);
  root.dataset.ready = "yes";
}

start();
