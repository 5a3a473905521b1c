/**
 * A language model from an onnxruntime-genai model folder, with adapters that swap at every run.
 */

import * as ort from "onnxruntime-web";
import { Tokenizer } from "@huggingface/tokenizers";
import { readPacked } from "kronq-packed";
import { isAdapter, readAdapter } from "./adapter.js";
import { fillSlots } from "./fill.js";
import { openSlots } from "./slots.js";

export const runtime = `onnxruntime-web ${ort.env.versions.web}`;

/** Without the rules for integer arithmetic, ONNX Runtime turns constant codes into floats once, as it loads them. */
const SESSION = { executionProviders: ["wasm"], extra: { session: { disable_quant_qdq: "1" } } };

/** Adapters' slots warn that they are not constant, one line each; that is what they are for. */
ort.env.logLevel = "error";

export async function fetchBytes(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

export async function fetchJson(url) {
  return JSON.parse(new TextDecoder().decode(await fetchBytes(url)));
}

/** Reads a folder: {config, tokenizer, session, defaults, spec, bytes, ms, none}. */
export async function openModel(folder) {
  const started = performance.now();
  const config = (await fetchJson(folder + "genai_config.json")).model;
  if (config.decoder.session_options?.custom_ops_library) {
    throw new Error("this model needs a compiled library, which no browser runs: export it with --no-kernel");
  }
  const tokenizer = new Tokenizer(
    await fetchJson(folder + "tokenizer.json"),
    await fetchJson(folder + "tokenizer_config.json"),
  );
  const { model, defaults, files } = openSlots(await fetchBytes(folder + config.decoder.filename));
  const externalData = [];
  for (const path of files) externalData.push({ path, data: await fetchBytes(folder + path) });
  const session = await ort.InferenceSession.create(model, { ...SESSION, externalData });
  const bytes = externalData.reduce((sum, { data }) => sum + data.length, model.length);
  // Only for packed files: an .onnx_adapter names the slots itself.
  const spec = await fetchJson(folder + "kronq_slots.json").catch(() => null);
  const opened = { config, tokenizer, session, defaults, spec, bytes, ms: performance.now() - started };
  return { ...opened, none: feedsOf(opened, new Map()) };
}

/** The feeds that put an .onnx_adapter, or a packed .safetensors, into the model's slots. */
export function openAdapter(model, bytes) {
  const tensors = isAdapter(bytes) ? readAdapter(bytes) : unpack(model.spec, bytes);
  for (const name of tensors.keys()) {
    if (!model.defaults.has(name)) throw new Error(`this model has no slot ${name}: made for another base?`);
  }
  return feedsOf(model, tensors);
}

function unpack(spec, bytes) {
  const { layers, carried } = readPacked(bytes);
  const beside = [...carried.keys()];
  for (const [name, { kernel, magnitude, core }] of layers) if (kernel || magnitude || core) beside.push(name);
  if (beside.length) throw new Error(`convolutions, DoRA, LoRA-XS's R alone and tensors that are no ΔW do not run here: ${beside[0]}`);
  if (!spec) throw new Error("packed files need the kronq_slots.json of the model's folder");
  return fillSlots(spec, layers);
}

function feedsOf({ defaults }, tensors) {
  const feeds = {};
  for (const [name, value] of defaults) {
    const { type, data, dims } = tensors.get(name) ?? value;
    feeds[name] = new ort.Tensor(type, data, dims);
  }
  return feeds;
}

const int64 = (numbers) => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [1, numbers.length]);

/** Logits of `ids` behind `past` (of a run before, or null); returns {logits, past}. */
export async function run(model, adapter, ids, past = null) {
  const { decoder } = model.config;
  const before = past?.tokens ?? 0;
  const feeds = {
    ...adapter,
    [decoder.inputs.input_ids]: int64(ids),
    [decoder.inputs.attention_mask]: int64(Array(before + ids.length).fill(1)),
  };
  const empty = [1, decoder.num_key_value_heads, 0, decoder.head_size];
  for (const [input, output] of cacheNames(decoder)) {
    feeds[input] = past?.outputs[output] ?? new ort.Tensor("float32", new Float32Array(0), empty);
  }
  const outputs = await model.session.run(feeds);
  return { logits: outputs[decoder.outputs.logits], past: { tokens: before + ids.length, outputs } };
}

/** The names of the key-value cache, those that go in and those that come out, layer by layer. */
function* cacheNames({ inputs, outputs, num_hidden_layers: layers }) {
  for (let layer = 0; layer < layers; layer++) {
    for (const [input, output] of [
      [inputs.past_key_names, outputs.present_key_names],
      [inputs.past_value_names, outputs.present_value_names],
    ]) {
      yield [input.replace("%d", layer), output.replace("%d", layer)];
    }
  }
}

/**
 * The likeliest next token, again and again: yields after every one
 * {tokens, text, stopped, prefillMs, decodeMs}, the times without what the caller does in between.
 */
export async function* generate(model, adapter, prompt, maxTokens) {
  const ends = [model.config.eos_token_id].flat();
  const state = { tokens: [], text: "", stopped: false, prefillMs: 0, decodeMs: 0 };
  let next = model.tokenizer.encode(prompt).ids;
  let past = null;
  while (!state.stopped) {
    const started = performance.now();
    const step = await run(model, adapter, next, past);
    past = step.past;
    next = [likeliest(step.logits)];
    state[state.tokens.length ? "decodeMs" : "prefillMs"] += performance.now() - started;
    state.tokens.push(next[0]);
    state.text = model.tokenizer.decode(state.tokens, { skip_special_tokens: true });
    state.stopped = ends.includes(next[0]) || state.tokens.length >= maxTokens;
    yield state;
  }
}

/** The token with the greatest logit in the last row. */
function likeliest({ data, dims }) {
  const last = data.subarray(data.length - dims.at(-1));
  return last.reduce((best, logit, token) => (logit > last[best] ? token : best), 0);
}
