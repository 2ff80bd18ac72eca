// Classification of photographs in the page itself: the network in WebAssembly, the queue of files, the answers.
"use strict";

const SHOWN_CLASSES = 5;
const SHOWN_PX = 480; // longer side of a picture in the page
const MOST_ANSWERS = 300; // whose pictures take less than 1 GB of memory
const list = byId("answers");
const queue = [];
let isLoaded = false, working = false, answered = 0, refused = 0, leftOut = 0;

// ---- The network

const network = opened();
network.then(
  () => {
    isLoaded = true;
    if (!working) say("Ready.");
  },
  error => say(`The classifier cannot be loaded in this browser: ${reason(error)}`, "problem"),
);

/** Session of the network, when the page is complete. */
async function opened() {
  if (!window.WebAssembly || !window.DecompressionStream || !window.OffscreenCanvas) {
    throw new Error("it is too old. Use a version of 2023 or later.");
  }
  if (document.readyState === "loading") {
    await new Promise(done => document.addEventListener("DOMContentLoaded", done, { once: true }));
  }
  await painted();
  const { env, InferenceSession, Tensor } = globalThis.runtime;
  env.logLevel = "error";
  env.wasm.numThreads = 1;
  env.wasm.proxy = false;
  env.wasm.wasmBinary = await unpacked("wasm");
  // Optimising the graph of EfficientNet-Lite0 takes a third of the time to the first answer, and speeds none up.
  const options = { executionProviders: ["wasm"], graphOptimizationLevel: "disabled" };
  const session = await InferenceSession.create(await unpacked("model"), options);
  const maps = session.outputNames.includes("maps");
  if (!maps) {
    byId("about-maps").querySelector("dd").textContent =
      "This page cannot show where the evidence lies: the network's head is not one linear layer after average pooling.";
  }
  return { session, Tensor, maps };
}

/** Bytes of an embedded file: base64 of gzip, in parts, each of which is dropped when it is read. */
async function unpacked(name) {
  const parts = [...document.querySelectorAll(`script[data-part="${name}"]`)];
  const packed = new ReadableStream({
    pull(to) {
      const part = parts.shift();
      if (!part) return to.close();
      to.enqueue(fromBase64(part.textContent));
      part.remove();
    },
  });
  return new Uint8Array(await new Response(packed.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const characters = atob(text), bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

/** Calibrated probability of each class, and the maps of evidence, of pixels {rgb, width, height}. */
async function predicted({ rgb, width, height }) {
  const { session, Tensor, maps: hasMaps } = await network;
  const images = new Tensor("uint8", rgb, [1, height, width, 3]);
  const { probabilities, maps } = await session.run({ images }, hasMaps ? ["probabilities", "maps"] : ["probabilities"]);
  const [, , rows, columns] = maps ? maps.dims : [];
  return { probabilities: probabilities.data, maps: maps && { data: maps.data, rows, columns } };
}

// ---- Files, one after the other

function add(files) {
  if (!files.length) return;
  const room = Math.max(0, MOST_ANSWERS - list.children.length - queue.length);
  const pictures = [...files].slice(0, room);
  leftOut += files.length - pictures.length;
  const batch = { count: pictures.length, done: 0 };
  queue.push(...pictures.map(file => ({ file, batch })));
  work();
}

async function work() {
  if (working) return;
  working = true;
  try {
    while (queue.length) await answer(queue.shift());
    say(summary());
  } catch (error) {
    queue.length = 0;
    say(`The classifier has stopped: ${reason(error)} Open the page again.`, "problem");
  } finally {
    working = false;
  }
}

function summary() {
  const words = [`${counted(answered, "photograph")} classified`];
  if (refused) words.push(`${refused} refused`);
  if (leftOut) words.push(`${leftOut} left out: the page keeps ${MOST_ANSWERS} answers. Remove them, and go on`);
  return `${words.join(", ")}.`;
}

/** Answer to one image, or in its place the reason why there is none. */
async function answer({ file, batch }) {
  if (batch.done++ === 0) batch.before = list.firstElementChild; // the newest answers come first, in the order of their files
  const what = batch.count > 1 ? `${short(file.name)} (${batch.done} of ${batch.count})` : short(file.name);
  if (!isLoaded) say("Loading the classifier.", "busy");
  await network;
  let card;
  try {
    card = await classified(file, what);
    answered++;
  } catch (error) {
    if (error instanceof WebAssembly.RuntimeError) throw error; // the network's memory can no longer be relied on
    card = refusalOf(file.name, error instanceof Refusal ? error.message : `it is too large for this browser, perhaps: ${reason(error)}`);
    refused++;
  }
  list.insertBefore(card, batch.before?.isConnected ? batch.before : null);
  byId("clear").hidden = false;
}

async function classified(file, what) {
  say(`Reading ${what}.`, "busy");
  await painted();
  const bitmap = file.bitmap ?? (await decoded(file));
  try {
    say(`Classifying ${what}, ${bitmap.width} × ${bitmap.height} pixels.`, "busy");
    await painted();
    return cardOf(file.name, bitmap, await predicted(pixelsOf(bitmap)));
  } finally {
    bitmap.close();
  }
}

// ---- Answers

function refusalOf(name, why) {
  const card = element("li", { className: "refused" },
    element("p", { className: "file name" }, name),
    element("p", { className: "problem" }, `Not classified: ${why}`));
  card.answer = { name, refused: why };
  return card;
}

function cardOf(name, bitmap, { probabilities, maps }) {
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]).slice(0, SHOWN_CLASSES);
  const [best] = order;
  const isUnclassified = FACTS.threshold !== null && probabilities[best] < FACTS.threshold;
  const photograph = describe(reduced(bitmap, SHOWN_PX), `Photograph ${name}`);
  const evidence = maps && new Evidence(photograph, bitmap, FACTS);
  const show = evidence && (of => evidence.show(of, mapOf(maps, FACTS.classes.indexOf(of))));
  const verdict = isUnclassified ? FACTS.unclassified : FACTS.classes[best];
  const card = element("li", { className: isUnclassified ? "unclassified" : "" },
    element("div", { className: evidence ? "pictures" : "pictures one" },
      element("figure", {}, photograph, element("figcaption", { className: "file name" }, name)),
      ...(evidence ? [evidence.figure] : [])),
    element("h2", {}, named(verdict), element("small", {}, isUnclassified ? "" : percent(probabilities[best]))),
    ...(isUnclassified ? [element("p", { className: "note" }, `Its best class is below the threshold of ${percent(FACTS.threshold)}.`)] : []),
    bars(order.map(index => ({ name: FACTS.classes[index], probability: probabilities[index] })), show, FACTS.classes[best]));
  show?.(FACTS.classes[best]);
  card.answer = { name, probabilities: [...probabilities] };
  return card;
}

/** Map of one class, of those of all. */
function mapOf({ data, rows, columns }, index) {
  return { data: data.subarray(index * rows * columns, (index + 1) * rows * columns), rows, columns };
}

byId("clear").addEventListener("click", () => {
  queue.length = answered = refused = leftOut = 0;
  list.replaceChildren();
  byId("clear").hidden = true;
  byId("choose").focus();
  if (!working) say("Ready.");
});
