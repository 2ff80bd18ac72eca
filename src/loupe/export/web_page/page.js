// Classification of photographs in the page itself: the network in WebAssembly, the queue of files, the answers.
"use strict";

const SHOWN_CLASSES = 5;
const SHOWN_PX = 480; // longer side of a picture in the page
const MOST_ANSWERS = 300; // whose pictures take less than 1 GB of memory
const SMALL_PX = 96; // up to here a picture is enlarged without smoothing
const byId = id => document.getElementById(id);
const said = byId("said"), list = byId("answers");
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
  const photograph = reduced(bitmap);
  const evidence = maps && new Evidence(photograph, bitmap, maps);
  const verdict = isUnclassified ? FACTS.unclassified : FACTS.classes[best];
  const card = element("li", { className: isUnclassified ? "unclassified" : "" },
    element("div", { className: evidence ? "pictures" : "pictures one" },
      element("figure", {}, photograph, element("figcaption", { className: "file name" }, name)),
      ...(evidence ? [evidence.figure] : [])),
    element("h2", {}, element("span", { className: "name" }, verdict), element("small", {}, isUnclassified ? "" : percent(probabilities[best]))),
    ...(isUnclassified ? [element("p", { className: "note" }, `Its best class is below the threshold of ${percent(FACTS.threshold)}.`)] : []),
    odds(order, probabilities, evidence));
  photograph.setAttribute("role", "img");
  photograph.setAttribute("aria-label", `Photograph ${name}`);
  evidence?.show(best);
  card.answer = { name, probabilities: [...probabilities] };
  return card;
}

/** The most probable classes as bars; each is a button that shows its evidence. */
function odds(order, probabilities, evidence) {
  const buttons = [];
  const bars = order.map(index => {
    const words = [element("span", { className: "name" }, FACTS.classes[index]), element("span", {}, percent(probabilities[index]))];
    const fill = element("span", {});
    fill.style.width = `${100 * probabilities[index]}%`;
    const row = evidence ? element("button", { type: "button", title: "Show its evidence" }, ...words) : element("div", { className: "row" }, ...words);
    if (evidence) {
      row.setAttribute("aria-pressed", buttons.length === 0);
      row.addEventListener("click", () => {
        buttons.forEach(button => button.setAttribute("aria-pressed", button === row));
        evidence.show(index);
      });
      buttons.push(row);
    }
    return element("li", {}, row, element("div", { className: "track" }, fill));
  });
  return element("ol", { className: "odds" }, ...bars);
}

/** Canvas with the picture, reduced to what the page shows. */
function reduced(bitmap) {
  const factor = Math.min(1, SHOWN_PX / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * factor)), height = Math.max(1, Math.round(bitmap.height * factor));
  const canvas = element("canvas", { width, height, className: Math.max(width, height) <= SMALL_PX ? "small" : "" });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas;
}

// ---- Words and elements

function say(text, kind = "") {
  said.textContent = text;
  said.className = kind;
}

/** Percentage with one decimal; never 0 or 100 where it is only nearly so. */
function percent(fraction) {
  if (fraction > 0.9995 && fraction < 1) return ">\u00a099.9\u00a0%";
  if (fraction < 0.0005 && fraction > 0) return "<\u00a00.1\u00a0%";
  return `${(100 * fraction).toFixed(1)}\u00a0%`;
}

const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const short = name => (name.length > 60 ? `${name.slice(0, 40)}…${name.slice(-16)}` : name);

function reason(error) {
  const text = String(error?.message ?? error).split("\n")[0].slice(0, 200);
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/** Element with properties and children; text is only ever text. */
function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** Resolves when what was said is on the screen; soon also where nothing is painted, as in a hidden tab. */
function painted() {
  return new Promise(done => {
    requestAnimationFrame(() => setTimeout(done));
    setTimeout(done, 250);
  });
}

// ---- Buttons, dropping, pasting, the camera

for (const input of [byId("files"), byId("taken")]) {
  input.addEventListener("change", () => {
    add(input.files);
    input.value = "";
  });
}
byId("choose").addEventListener("click", () => byId("files").click());
byId("clear").addEventListener("click", () => {
  queue.length = answered = refused = leftOut = 0;
  list.replaceChildren();
  byId("clear").hidden = true;
  byId("choose").focus();
  if (!working) say("Ready.");
});
addEventListener("paste", event => add(event.clipboardData.files));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, event => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") add(event.dataTransfer.files);
  });
}

const camera = byId("camera"), view = byId("view");
byId("use-camera").addEventListener("click", async () => {
  if (!navigator.mediaDevices?.getUserMedia) return byId("taken").click();
  try {
    view.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
    byId("take").disabled = true;
    camera.showModal();
  } catch (error) {
    say(`The camera cannot be used: ${reason(error)} Choose photographs instead.`, "problem");
  }
});
view.addEventListener("loadeddata", () => {
  byId("take").disabled = false;
  byId("take").focus();
});
byId("take").addEventListener("click", async () => {
  const bitmap = await createImageBitmap(view);
  camera.close();
  add([{ name: `Camera, ${new Date().toLocaleTimeString()}`, bitmap }]);
});
byId("close-camera").addEventListener("click", () => camera.close());
camera.addEventListener("close", () => {
  view.srcObject?.getTracks().forEach(track => track.stop());
  view.srcObject = null;
});
