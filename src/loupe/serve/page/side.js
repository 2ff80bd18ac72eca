// One model beside the photograph: its name, its threshold, and its answer to the image that is shown.
"use strict";

const UNCLASSIFIED = "unclassified";
const SHOWN_CLASSES = 5;

/** Answer of a model to an image: probabilities by class, the failure in their place, or neither while it waits. */
class Answer {
  constructor() {
    this.maps = new Map(); // explanations by class
  }

  get isWaiting() {
    return !this.probabilities && !this.failure;
  }

  get best() {
    return this.probabilities.keys().next().value;
  }

  /** Class, or unclassified below the threshold. */
  label(threshold) {
    return this.probabilities.get(this.best) >= threshold ? this.best : UNCLASSIFIED;
  }
}

/** Column of one model. `changed` is called with what a person has changed: model, threshold, class or all. */
class Side {
  constructor(model, choices, title, changed) {
    this.changed = changed;
    this.choice = element("select", {}, ...choices.map(({ name, value }) => element("option", { value }, name)));
    this.slider = element("input", { type: "range", min: 0, max: 1, step: 0.01 });
    this.shown = element("output", {});
    this.own = element("button", { type: "button", className: "own" }, "Reset");
    this.body = element("div", { className: "card" });
    this.slider.setAttribute("aria-label", "Threshold");
    this.controls = element("div", { className: "controls" },
      element("label", { className: "choice", hidden: choices.length < 2 }, element("span", {}, title), this.choice),
      element("label", { className: "threshold" }, element("span", {}, "Threshold"), this.slider, this.shown),
      this.own);
    this.element = element("section", { className: "side" }, this.controls, this.body);
    this.choice.addEventListener("change", () => changed("model"));
    this.slider.addEventListener("input", () => this.setThreshold(Number(this.slider.value)));
    this.own.addEventListener("click", () => {
      this.setThreshold(this.model.threshold);
      this.slider.focus();
    });
    this.use(model);
  }

  /** Shows another model, or none. */
  use(model) {
    this.model = model;
    this.element.classList.toggle("none", !model);
    this.choice.value = model?.name ?? "";
    this.element.setAttribute("aria-label", model ? `Model ${model.name}` : "No second model");
    for (const part of [this.slider.parentElement, this.own, this.body]) part.hidden = !model;
    if (!model) return this.body.replaceChildren();
    this.slider.disabled = model.classes.includes(UNCLASSIFIED); // the name is taken
    this.threshold = model.threshold;
    this.showThreshold();
  }

  setThreshold(threshold) {
    this.threshold = threshold;
    this.showThreshold();
    this.changed("threshold");
  }

  showThreshold() {
    const words = this.threshold > 0 ? percent(this.threshold) : "none";
    this.slider.value = this.threshold;
    this.slider.setAttribute("aria-valuetext", words);
    this.shown.textContent = words;
    this.own.hidden = this.threshold === this.model.threshold;
  }

  /** Shows the answer to an image, with its classes as `rows`, and evidence for the class `chosen` where there is one. */
  show(item, answer, { rows, rest, note, chosen, evidence, again }) {
    this.stop?.abort();
    this.item = item;
    this.answer = answer;
    if (answer.isWaiting) return this.body.replaceChildren(element("p", { className: "note busy" }, "Waiting for the answer."));
    if (answer.failure) return this.body.replaceChildren(...failed(answer.failure, again));
    this.picture = element("figure", {});
    this.verdict = element("h3", {});
    this.note = element("p", { className: "note" });
    const odds = bars(rows, evidence && item.picture ? name => this.changed("class", name) : null, chosen);
    const more = element("button", { type: "button", className: "more", hidden: rest === 0 }, rest === 1 ? "Show 1 more class" : `Show ${rest.toLocaleString("en")} more classes`);
    more.addEventListener("click", () => {
      this.changed("all");
      this.body.querySelectorAll(".odds button")[SHOWN_CLASSES]?.focus();
    });
    this.body.replaceChildren(this.picture, element("div", { className: "answer" }, this.verdict, this.note, odds, element("p", { className: "note" }, note), more));
    this.showVerdict();
    this.showPicture(evidence ? chosen : null);
  }

  showVerdict() {
    if (!this.answer?.probabilities) return;
    const label = this.answer.label(this.threshold), isUnclassified = label !== this.answer.best;
    this.body.classList.toggle("unclassified", isUnclassified);
    this.verdict.replaceChildren(named(label), element("small", {}, isUnclassified ? "" : percent(this.answer.probabilities.get(label))));
    this.note.textContent = isUnclassified ? `Its best class is below the threshold of ${percent(this.threshold)}.` : "";
  }

  /** Shows the photograph, with the evidence for a class over it if there is one. */
  async showPicture(name) {
    this.stop?.abort();
    const { item, answer, picture, model } = this;
    if (!item.picture) return picture.replaceChildren(element("p", { className: "unseen-picture note" }, "This browser does not show pictures of this format. The server reads it."));
    const caption = element("figcaption", { className: "note" });
    picture.replaceChildren(item.picture(`Photograph ${item.name}`), caption);
    if (name === null) return;
    if (!model.classes.includes(name)) return void (caption.textContent = "The class is none of this model.");
    const stop = (this.stop = new AbortController());
    if (answer.maps.has(name)) return this.overlay(answer.maps.get(name), name, caption);
    caption.append(element("span", { className: "busy" }, "Looking for the evidence."));
    try {
      answer.maps.set(name, await explanation(item.file, model, name, stop.signal));
      if (!stop.signal.aborted) this.overlay(answer.maps.get(name), name, caption);
    } catch (error) {
      if (!stop.signal.aborted) caption.replaceChildren(...failed(error, () => this.showPicture(name)));
    }
  }

  overlay({ map, why, preprocessing }, name, caption) {
    if (map === null) return void (caption.textContent = `No evidence can be shown: ${why}`);
    const evidence = new Evidence(this.item.picture(""), this.item, preprocessing);
    evidence.show(name, { data: map.flat(), rows: map.length, columns: map[0].length });
    this.picture.replaceChildren(evidence.canvas, evidence.caption);
  }
}

/** Words on a failure, and where it may help a button to try again. */
function failed(error, again) {
  const words = element("p", { className: "problem" }, reason(error));
  if (!error.again) return [words];
  const button = element("button", { type: "button" }, "Try again");
  button.addEventListener("click", again);
  return [words, button];
}
