// The page of the server: the photographs, the models that answer, and what is shown of them.
"use strict";

const PARALLEL = 4; // requests at a time
const MOST_IMAGES = 300; // whose pictures take less than 600 MB of memory
const MOST_LEADING = 8, MOST_LISTED = 200; // names of classes
const PICTURE_PX = 640, THUMBNAIL_PX = 128; // longer sides
const items = [], jobs = [];
let models = [], sides = [], shown = null, chosen = null, showsAll = false, running = 0, leftOut = 0;
let stop = new AbortController();

// ---- Models

begin();

async function begin() {
  byId("again-row").hidden = true;
  say("Asking the server for its models.", "busy");
  try {
    models = await servedModels();
    introduce();
    say("Ready.");
    items.forEach(ask);
    update();
  } catch (error) {
    say(reason(error), "problem");
    byId("again-row").hidden = false;
  }
}

function introduce() {
  const [only] = models, isOne = models.length === 1;
  byId("title").replaceChildren(isOne ? named(only.name) : "Classify photographs");
  document.title = isOne ? `${only.name}: classify photographs` : "Loupe: classify photographs";
  byId("lead").replaceChildren(...(isOne ? classesOf(only, MOST_LEADING) : [`${counted(models.length, "model")}. Compare two of them on the same photographs.`]));
  byId("about-models").querySelector("dd").replaceChildren(...models.map(model => element("p", {},
    element("b", { className: "name" }, model.name), `, weights ${model.weights.slice(0, 12)}. `, ...classesOf(model, MOST_LISTED))));
  const choices = models.map(({ name }) => ({ name, value: name }));
  sides = [new Side(only, choices, "Model", changed)];
  if (!isOne) sides.push(new Side(models[1], [...choices, { name: "No second model", value: "" }], "Compared with", changed));
  byId("sides").replaceChildren(...sides.map(side => side.element));
}

/** Sentence on the classes of a model, with the names of at most so many. */
function classesOf({ classes }, most) {
  const count = classes.length === 1 ? "Knows one class" : `Tells ${classes.length.toLocaleString("en")} classes apart`;
  const names = classes.slice(0, most).flatMap((name, i) => [i ? ", " : "", element("b", { className: "name" }, name)]);
  return [count, ": ", ...names, classes.length > most ? ", …" : "."];
}

const compared = () => sides.filter(side => side.model);

/** What a person has changed at one of the sides. */
function changed(what, name) {
  if (what === "model") {
    for (const side of sides) {
      const model = models.find(one => one.name === side.choice.value) ?? null;
      if (model !== side.model) side.use(model);
    }
    items.forEach(ask);
  }
  if (what === "class") chosen = name;
  if (what === "all") showsAll = true;
  if (what === "threshold") return thresholdMoved();
  if (what === "class") return evidenceChosen(name);
  update();
}

function thresholdMoved() {
  compared().forEach(side => side.showVerdict());
  items.forEach(showRow);
  showAgreement();
  summarize();
}

/** Shows the evidence for a class on all sides, without a new list, whose buttons keep the focus. */
function evidenceChosen(name) {
  for (const side of compared()) {
    side.body.querySelectorAll(".odds button").forEach(button => button.setAttribute("aria-pressed", button.querySelector(".name").textContent === name));
    if (side.answer?.probabilities) side.showPicture(name);
  }
}

// ---- Photographs

async function add(files) {
  const taken = [...files].slice(0, Math.max(0, MOST_IMAGES - items.length));
  leftOut += files.length - taken.length;
  const added = taken.map(file => ({ file, name: file.name, answers: new Map(), picture: null }));
  items.push(...added);
  byId("list").append(...added.map(rowOf));
  if (added.length) select(added[0]);
  for (const item of added) {
    await look(item);
    if (!items.includes(item)) return; // all were removed
    ask(item);
  }
  summarize();
}

/** Pictures of an image for the page; none where the browser does not read it. */
async function look(item) {
  try {
    const bitmap = item.file.bitmap ?? (await createImageBitmap(item.file));
    Object.assign(item, { width: bitmap.width, height: bitmap.height });
    if (item.file.bitmap) item.file = await photographed(bitmap, item.name);
    const picture = reduced(bitmap, PICTURE_PX);
    item.thumbnail = reduced(bitmap, THUMBNAIL_PX);
    item.picture = words => describe(reduced(picture, PICTURE_PX), words);
    bitmap.close();
  } catch {
    item.thumbnail = element("span", { className: "blank" });
  }
  item.row.thumbnail.replaceWith((item.row.thumbnail = item.thumbnail));
  item.thumbnail.setAttribute("aria-hidden", "true");
}

/** File of a picture from the camera, without loss. */
async function photographed(bitmap, name) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return new File([await canvas.convertToBlob()], `${name}.png`, { type: "image/png" });
}

/** Asks each model that is shown for its answer to an image, unless it has been asked. */
function ask(item) {
  for (const { model } of compared()) {
    if (item.answers.has(model.name)) continue;
    item.answers.set(model.name, new Answer());
    jobs.push({ item, model });
  }
  work();
}

function work() {
  while (running < PARALLEL && jobs.length) answer(jobs.shift());
  summarize();
}

async function answer({ item, model }) {
  const { signal } = stop, given = item.answers.get(model.name);
  running++;
  try {
    given.probabilities = await probabilities(item.file, model, signal);
  } catch (error) {
    given.failure = error;
  }
  running--;
  if (signal.aborted) return work();
  showRow(item);
  if (item === shown) showItem();
  work();
}

/** Asks anew for all answers that failed where another try may help. */
function askAgain() {
  if (!models.length) return begin();
  for (const item of items) {
    for (const [name, given] of item.answers) if (given.failure?.again) item.answers.delete(name);
    ask(item);
  }
  update();
  const focused = document.activeElement;
  if (focused === document.body || !focused.checkVisibility()) byId("shown").focus(); // the button that was pressed is gone
}

// ---- What is shown

function select(item) {
  shown = item;
  chosen = null;
  showsAll = false;
  update();
}

function update() {
  byId("work").hidden = items.length === 0;
  byId("images").hidden = items.length < 2;
  byId("clear").hidden = items.length === 0;
  byId("work").classList.toggle("several", items.length > 1);
  byId("sides").classList.toggle("two", compared().length > 1);
  byId("sides").classList.toggle("choice", sides.length > 1);
  items.forEach(showRow);
  if (shown) showItem();
  summarize();
}

function showItem() {
  byId("shown").textContent = shown.name;
  const current = compared(), answers = current.map(side => shown.answers.get(side.model.name) ?? new Answer());
  const rows = rowsOf(answers, showsAll ? Infinity : SHOWN_CLASSES);
  current.forEach((side, i) => side.show(shown, answers[i], {
    ...rows[i], chosen: chosen ?? (answers[i].probabilities ? answers[i].best : null), evidence: byId("evidence").checked, again: askAgain,
  }));
  showAgreement();
}

function showAgreement() {
  const words = shown && compared().length > 1 ? comparison(compared(), shown) : [];
  byId("agreement").replaceChildren(...words);
  byId("agreement").hidden = words.length === 0;
}

/** Row of the list of images: picture, name, and what the models say. */
function rowOf(item) {
  const said = element("span", { className: "said" }), thumbnail = element("span", { className: "blank" });
  const button = element("button", { type: "button" }, thumbnail,
    element("span", { className: "what" }, element("span", { className: "file name" }, item.name), said));
  button.addEventListener("click", () => select(item));
  item.row = { button, said, thumbnail };
  showRow(item);
  return element("li", {}, button);
}

function showRow(item) {
  if (!item.row) return;
  const { button, said } = item.row, isShown = item === shown, isSame = agree(compared(), item);
  if (isShown) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
  const words = compared().map(side => wordOf(side, item));
  const areAlike = words.every(word => word.isEqualNode(words[0]));
  said.replaceChildren(...(isSame || areAlike ? words.slice(0, 1) : words.flatMap((word, i) => (i ? [isSame === false ? " ≠ " : " · ", word] : [word]))));
  said.classList.toggle("other", isSame === false);
}

function wordOf(side, item) {
  const given = item.answers.get(side.model.name);
  if (given?.failure) return element("span", { className: "problem" }, given.failure.again ? "no answer" : "refused");
  if (!given?.probabilities) return element("span", { className: "busy" }, "waiting");
  const label = labelOf(side, item);
  return element("b", { className: label === given.best ? "name" : "name below" }, label);
}

/** Says how far the answers are, and what came last where there is only one. */
function summarize() {
  const all = items.flatMap(item => compared().map(side => item.answers.get(side.model.name)));
  const failures = all.filter(given => given?.failure), later = failures.filter(given => given.failure.again);
  byId("again-row").hidden = models.length > 0 && later.length === 0;
  if (!models.length || !items.length) return;
  const open = items.filter(item => compared().some(side => item.answers.get(side.model.name)?.isWaiting ?? true)).length;
  if (open) return say(items.length === 1 ? `Classifying ${short(items[0].name)}.` : `Classifying: ${items.length - open} of ${items.length} photographs done.`, "busy");
  if (later.length) return say(`${counted(later.length, "answer")} missing. ${reason(later[0].failure)}`, "problem");
  say(items.length === 1 ? result(items[0]) : `${[`${counted(items.length, "photograph")} answered`, ...remarks(failures)].join(", ")}.`);
}

function remarks(failures) {
  const refused = items.filter(item => compared().some(side => failures.includes(item.answers.get(side.model.name)))).length, differing = items.filter(item => agree(compared(), item) === false).length;
  return [
    ...(refused ? [`${refused} refused`] : []),
    ...(compared().length > 1 ? [`${differing} ${differing === 1 ? "differs" : "differ"}`] : []),
    ...(leftOut ? [`${leftOut} left out: the page keeps ${MOST_IMAGES}. Remove them, and go on`] : []),
  ];
}

function result(item) {
  const words = compared().map(side => {
    const given = item.answers.get(side.model.name), who = compared().length > 1 ? `${side.model.name}: ` : "";
    if (given.failure) return `${who}${reason(given.failure)}`;
    const label = labelOf(side, item), chance = percent(given.probabilities.get(given.best));
    return `${who}${label === given.best ? `${label}, ${chance}` : `${label} (${given.best}, ${chance})`}.`;
  });
  return `${short(item.name)}: ${words.join(" ")}`;
}

byId("list").addEventListener("keydown", event => {
  const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key], item = items[items.indexOf(shown) + step];
  if (!item) return;
  event.preventDefault();
  select(item);
  item.row.button.focus();
});
byId("again").addEventListener("click", askAgain);
byId("evidence").addEventListener("change", () => shown && showItem());
byId("clear").addEventListener("click", () => {
  stop.abort();
  stop = new AbortController();
  items.length = jobs.length = leftOut = 0;
  shown = null;
  byId("list").replaceChildren();
  update();
  say("Ready.");
  byId("choose").focus();
});
