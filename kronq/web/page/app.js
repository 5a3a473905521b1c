/** The page: reads what `?model=` names, then asks every adapter that is ticked. */

import { fetchBytes, fetchJson, generate, openAdapter, openModel, run, runtime } from "./model.js";

const query = new URLSearchParams(location.search);
const folder = query.get("model") ?? "model/";
const by = (id) => document.getElementById(id);
const button = document.querySelector("#ask button");

/** One a card: {name, bytes, readMs, feeds, card}, the base first. */
const adapters = [];
let model = null;
let list = {};

const milliseconds = (ms) => (ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms).toLocaleString("en")} ms`);
const size = (bytes) => `${bytes.toLocaleString("en")} bytes`;

function say(text, error = false) {
  by("status").textContent = text;
  by("status").classList.toggle("error", error);
}

function addCard(name, bytes, readMs, feeds) {
  const card = by("card").content.firstElementChild.cloneNode(true);
  const adapter = { name, bytes, readMs, feeds, card };
  fill(card, { name, size: size(bytes), read: milliseconds(readMs) });
  by("cards").append(card);
  adapters.push(adapter);
}

function fill(card, texts) {
  for (const [place, text] of Object.entries(texts)) card.querySelector(`.${place}`).textContent = text;
}

/** From bytes to what a run takes; the time of it is what a swap costs. */
function addAdapter(name, bytes) {
  const started = performance.now();
  const feeds = openAdapter(model, bytes);
  addCard(name, bytes.length, performance.now() - started, feeds);
}

/** A card that says why a file cannot be used; the others are not held up. */
function addFailure(name, error) {
  const card = by("card").content.firstElementChild.cloneNode(true);
  card.querySelector("input").checked = false;
  card.querySelector("input").disabled = true;
  card.querySelector("dl").remove();
  card.querySelector(".answer").classList.add("error");
  fill(card, { name, answer: error.message });
  by("cards").append(card);
}

async function answer({ name, feeds, card }, prompt, maxTokens) {
  card.classList.add("active");
  fill(card, { answer: "", first: "", rate: "" });
  let state;
  for await (state of generate(model, feeds, prompt, maxTokens)) {
    fill(card, { answer: state.text.trim(), first: milliseconds(state.prefillMs) });
    await new Promise((painted) => setTimeout(painted));
  }
  const rate = (1000 * (state.tokens.length - 1)) / state.decodeMs;
  if (state.tokens.length > 1) fill(card, { rate: `${rate.toFixed(1)} tokens/s` });
  if (!state.text.trim()) fill(card, { answer: "(ends without a word)" });
  card.classList.remove("active");
  return { name, ...state };
}

/** Every ticked adapter's answer, one after the other; also what the console and tests call. */
async function askAll(question, maxTokens) {
  const prompt = (list.prompt ?? "{}").replace("{}", () => question);
  const answers = [];
  button.disabled = true;
  try {
    for (const adapter of adapters) {
      if (adapter.card.querySelector("input").checked) answers.push(await answer(adapter, prompt, maxTokens));
    }
  } finally {
    button.disabled = false;
  }
  return answers;
}

/** Shows what goes wrong instead of leaving it to the console. */
const guarded = (work) => async (event) => {
  event?.preventDefault();
  try {
    await work();
  } catch (error) {
    say(error.message, true);
    throw error;
  }
};

by("ask").addEventListener("submit", guarded(() => askAll(by("question").value, by("tokens").valueAsNumber)));

by("file").addEventListener("change", guarded(async () => {
  const [file] = by("file").files;
  if (file) addAdapter(file.name, new Uint8Array(await file.arrayBuffer()));
}));

async function start() {
  list = await fetchJson(folder + "adapters.json");
  by("question").value = list.question ?? "";
  model = await openModel(folder);
  // The first run also pays for WebAssembly being compiled: nobody's first token should.
  await run(model, model.none, [0]);
  addCard("no adapter", model.bytes, model.ms, model.none);
  for (const { name, file } of list.adapters) {
    try {
      addAdapter(name, await fetchBytes(folder + file));
    } catch (error) {
      addFailure(name, error);
    }
  }
  const threads = self.crossOriginIsolated ? "threads" : "one thread";
  say(`${list.name ?? folder} · ${size(model.bytes)}, loaded in ${milliseconds(model.ms)} · ${runtime}, WebAssembly, ${threads}`);
  button.disabled = false;
}

/** For the console: `await kronq.askAll("…", 24)`. */
window.kronq = { ready: guarded(start)(), adapters, askAll, logits: async (name, ids) => {
  const { feeds } = adapters.find((adapter) => adapter.name === name);
  return [...(await run(model, feeds, ids)).logits.data];
} };
