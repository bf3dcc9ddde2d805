// The attempts of the page and which of them match a view. Nothing here uses the document.
//
// A view is {facet: value, ..., q: text, question: id, page: number}; a missing one does not filter.
// It is written in the address after "#attempts?".

const FACETS = [
  "run", "iteration", "stage", "verdict", "hint", "kept", "steps", "group", "sample", "turn",
];
const VIEW_PREFIX = "#attempts?";

async function unpackAttempts(base64) {
  const text = atob(base64.trim());
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const inflated = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(inflated).json();
}

function facetOf(store, name, row) {
  return store.values[name][store.columns[name][row]];
}

function textOf(store, name, row) {
  const place = store.columns[name][row];
  return place < 0 ? null : store.texts[place];
}

function viewOf(hash) {
  const view = {};
  for (const [name, value] of new URLSearchParams(hash.slice(VIEW_PREFIX.length))) {
    if (FACETS.includes(name) || name === "q" || name === "question") view[name] = value;
    if (name === "page" && Number(value) > 1) view.page = Math.floor(Number(value));
  }
  return view;
}

function hashOf(view) {
  const names = [...FACETS, "q", "question", "page"];
  const said = names.filter((name) => view[name] !== undefined && view[name] !== "");
  return VIEW_PREFIX + new URLSearchParams(said.map((name) => [name, view[name]]));
}

// The rows of a view, and how many there would be for each value of each facet (the view's other
// filters as they are).
function findAttempts(store, view) {
  const columns = FACETS.map((name) => store.columns[name]);
  const wanted = FACETS.map((name) =>
    view[name] === undefined ? -1 : store.values[name].indexOf(view[name]),
  );
  const anything = FACETS.map((name, f) => view[name] === undefined);
  const counts = FACETS.map((name) => new Uint32Array(store.values[name].length));
  const said = view.q ? textsWith(store, view.q) : null;
  const question = view.question === undefined ? -1 : store.texts.indexOf(view.question);
  const { id, question: text, rationale, answer, expected } = store.columns;
  const searched = [id, text, rationale, answer, expected];
  const rows = [];
  for (let row = 0; row < id.length; row++) {
    if (view.question !== undefined && id[row] !== question) continue;
    if (said && !searched.some((column) => said[column[row]])) continue;
    let misses = 0;
    let missed = -1;
    for (let f = 0; f < columns.length && misses < 2; f++) {
      if (!anything[f] && columns[f][row] !== wanted[f]) {
        misses++;
        missed = f;
      }
    }
    if (misses === 0) {
      rows.push(row);
      for (let f = 0; f < columns.length; f++) counts[f][columns[f][row]]++;
    } else if (misses === 1) {
      counts[missed][columns[missed][row]]++;
    }
  }
  return { rows, counts: Object.fromEntries(FACETS.map((name, f) => [name, counts[f]])) };
}

// For every text whether it contains the words of a search, ignoring case and spacing.
function textsWith(store, words) {
  const literal = words.trim().replace(/[.*+?^${}()|[\]\\]/g, "\\$&").replace(/\s+/g, "\\s+");
  const pattern = new RegExp(literal, "i");
  return store.texts.map((text) => pattern.test(text));
}

// [attempts in the page, attempts on disk] of the runs, iterations and stages of a view.
function sampleOf(store, view) {
  const names = ["run", "iteration", "stage"];
  let [here, total] = [0, 0];
  for (const sample of store.samples) {
    const fits = (name, i) =>
      view[name] === undefined || store.values[name][sample[i]] === view[name];
    if (!names.every(fits)) continue;
    here += sample[3];
    total += sample[4];
  }
  return [here, total];
}

// A correct answer by run and question; none where no attempt is correct.
function rightAnswers(store) {
  const right = store.values.verdict.indexOf("right");
  const answers = new Map();
  store.columns.verdict.forEach((verdict, row) => {
    if (verdict === right) answers.set(rightKey(store, row), textOf(store, "answer", row));
  });
  return answers;
}

function rightKey(store, row) {
  return `${store.columns.run[row]} ${store.columns.id[row]}`;
}
