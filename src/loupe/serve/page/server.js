// Requests to the server that the page comes from, with the token where there is one.
"use strict";

const PASSING = new Set([429, 502, 503, 504]); // statuses of which a later try may be free
const ENVELOPE_BYTES = 2048; // at most, around a file in a request
let token = null; // in memory only
let given = null; // promise of a token for which the person is asked

/** Request without an answer to show; `again` where a later try may have one. */
class Failure extends Error {
  constructor(message, again = false) {
    super(message);
    this.again = again;
  }
}

takeToken();
addEventListener("hashchange", takeToken);

/** Takes the token out of the address, so that it stays in no history. */
function takeToken() {
  const [, encoded] = /^#token=(.+)/.exec(location.hash) ?? [];
  if (!encoded) return;
  try {
    token = decodeURIComponent(encoded);
  } catch {
    token = encoded; // a percent sign of its own
  }
  history.replaceState(null, "", location.pathname + location.search);
}

/** JSON of an answer. Throws a Failure, or an AbortError. */
async function asked(path, options = {}) {
  for (;;) {
    const sent = token;
    const response = await fetched(path, options, sent);
    if (response.status === 401) {
      if (sent === token) await newToken(sent !== null);
      continue;
    }
    const answer = await response.json().catch(() => null);
    if (answer && (response.ok || Array.isArray(answer.images))) return answer;
    const why = answer?.error ? reason(answer.error) : `The server answers with status ${response.status}.`;
    throw new Failure(response.status === 429 ? `The server is busy: ${why}` : why, PASSING.has(response.status));
  }
}

async function fetched(path, options, sent) {
  const headers = sent === null ? {} : { Authorization: `Bearer ${sent}` };
  try {
    return await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. Is it still running?", true);
  }
}

/** Asks for a token, once for all requests that wait for it. */
function newToken(isRefused) {
  given ??= new Promise((done, failed) => {
    const dialog = byId("access");
    byId("access-why").textContent = `${isRefused ? "The server refuses this token. " : ""}It is in the address that the server prints when it starts, and in its token file.`;
    byId("token").value = "";
    byId("access-form").onsubmit = event => {
      event.preventDefault();
      token = byId("token").value.trim();
      done();
      dialog.close();
    };
    dialog.onclose = () => {
      given = null;
      byId("token").value = "";
      failed(new Failure("The server needs a token.", true));
    };
    dialog.showModal();
  });
  return given;
}

byId("access-cancel").addEventListener("click", () => byId("access").close());

// ---- What the page asks for

/** Models that are served, in the order of the server. */
async function servedModels() {
  const { models } = await asked("/v2/models");
  return models.map(({ name, parameters }) => ({ name, ...parameters }));
}

/** Calibrated probability of each class of a model, the largest first. */
async function probabilities(file, model, signal) {
  const query = new URLSearchParams({ model: model.name, top: model.classes.length, threshold: 0 });
  const { images: [image] } = await asked(`/predict?${query}`, { method: "POST", body: await bodyOf(file), signal });
  if (image.error) throw new Failure(reason(image.error));
  return new Map(image.top.map(one => [one.class, one.probability]));
}

/** Map of a class: {map, preprocessing}, or {map: null, why}. */
async function explanation(file, model, name, signal) {
  const query = new URLSearchParams({ model: model.name, class: name });
  return asked(`/explain?${query}`, { method: "POST", body: await bodyOf(file), signal });
}

async function bodyOf(file) {
  const most = Number(document.body.dataset.mostBytes);
  if (file.size + ENVELOPE_BYTES > most) throw new Failure(`The file has ${counted(file.size, "byte")}; the server takes requests of at most ${most.toLocaleString("en")}.`);
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch (error) {
    throw new Failure(`The file cannot be read: ${reason(error)}`); // a folder, or removed meanwhile
  }
  const body = new FormData();
  body.append("image", file, file.name);
  return body;
}
