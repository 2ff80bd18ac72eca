// Words, elements and pictures of pages that classify photographs.
"use strict";

const SMALL_PX = 96; // up to here a picture is enlarged without smoothing
const byId = id => document.getElementById(id);

/** Shows what happens, and has it read aloud; `kind` is busy, problem or nothing. */
function say(text, kind = "") {
  if (byId("said").textContent !== text) byId("said").textContent = text; // what stays is not read again
  byId("said").className = kind;
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

const named = name => element("span", { className: "name" }, name);

/** Resolves when what was said is on the screen; soon also where nothing is painted, as in a hidden tab. */
function painted() {
  return new Promise(done => {
    requestAnimationFrame(() => setTimeout(done));
    setTimeout(done, 250);
  });
}

/** Canvas with the picture, reduced to what the page shows: `most` pixels on its longer side. */
function reduced(bitmap, most) {
  const factor = Math.min(1, most / Math.max(bitmap.width, bitmap.height));
  const width = Math.max(1, Math.round(bitmap.width * factor)), height = Math.max(1, Math.round(bitmap.height * factor));
  const canvas = element("canvas", { width, height, className: Math.max(width, height) <= SMALL_PX ? "small" : "" });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0, width, height);
  return canvas;
}

/** Makes a canvas one picture for those who do not see it. */
function describe(canvas, text) {
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", text);
  return canvas;
}

/**
 * Classes as bars, each with its probability, of which the largest stands out.
 * `rows` are {name, probability, words}: `words` stand before the probability, which is null for a class that a model
 * lacks. Where `choose` is given, each is a button that calls it with its name; that of the name `chosen` is pressed.
 */
function bars(rows, choose, chosen) {
  const best = Math.max(...rows.map(row => row.probability ?? 0));
  const buttons = [];
  const items = rows.map(({ name, probability, words = [] }) => {
    const texts = [named(name), ...words, element("span", {}, probability === null ? "–" : percent(probability))];
    const fill = element("span", {});
    fill.style.width = `${100 * (probability ?? 0)}%`;
    const row = choose ? element("button", { type: "button", title: "Show its evidence" }, ...texts) : element("div", { className: "row" }, ...texts);
    if (choose) {
      row.setAttribute("aria-pressed", name === chosen);
      row.addEventListener("click", () => {
        buttons.forEach(button => button.setAttribute("aria-pressed", button === row));
        choose(name);
      });
      buttons.push(row);
    }
    return element("li", { className: probability === best ? "best" : "" }, row, element("div", { className: "track" }, fill));
  });
  return element("ol", { className: "odds" }, ...items);
}
