// Sorting and filtering of the missed images. The pictures are those that the page holds by cell; copies of them are
// shown, so that nothing of what names say is read as anything but what it is in the page already.
(() => {
  "use strict";
  const tools = document.getElementById("missed-tools");
  if (!tools) return;
  const STEP = 48;
  const shown = document.getElementById("missed-list");
  const more = document.getElementById("missed-more");
  const said = document.getElementById("missed-said");
  const number = (text) => (text === "" ? -Infinity : Number(text));
  const items = [];
  for (const list of document.querySelectorAll(".pile > ul")) {
    const { truth, guess } = list.dataset;
    if (truth === guess) continue;
    const title = list.parentElement.querySelector("summary .names");
    for (const node of list.children) {
      const path = node.querySelector(".path").textContent;
      const { loss, sure } = node.dataset;
      items.push({ node, title, path, truth, guess, pair: list.id, loss: number(loss), sure: number(sure) });
    }
  }

  const names = new Intl.Collator("en", { numeric: true });
  const hardest = (a, b) => b.loss - a.loss || b.sure - a.sure || names.compare(a.path, b.path);
  const orders = {
    loss: hardest,
    sure: (a, b) => b.sure - a.sure,
    unsure: (a, b) => a.sure - b.sure,
    path: (a, b) => names.compare(a.path, b.path),
    truth: (a, b) => a.truth - b.truth || hardest(a, b),
    guess: (a, b) => a.guess - b.guess || hardest(a, b),
  };

  function chosen() {
    const wanted = (field) => tools.elements[field].value;
    const text = wanted("path").toLowerCase();
    const found = items.filter(
      (item) =>
        (wanted("truth") === "" || item.truth === wanted("truth")) &&
        (wanted("guess") === "" || item.guess === wanted("guess")) &&
        item.path.toLowerCase().includes(text),
    );
    found.sort(orders[wanted("order")]);
    return tools.elements.grouped.checked ? byPair(found) : found;
  }

  // The largest group first; within one, the order stays.
  function byPair(found) {
    const groups = new Map();
    for (const item of found) {
      if (!groups.has(item.pair)) groups.set(item.pair, []);
      groups.get(item.pair).push(item);
    }
    return [...groups.values()].sort((a, b) => b.length - a.length).flat();
  }

  function grid(some) {
    const list = document.createElement("ul");
    list.className = "grid specimens";
    list.append(...some.map((item) => item.node.cloneNode(true)));
    return list;
  }

  function grouped(some) {
    const parts = [];
    for (const pair of new Set(some.map((item) => item.pair))) {
      const mine = some.filter((item) => item.pair === pair);
      const heading = document.createElement("h3");
      heading.append(mine[0].title.cloneNode(true));
      parts.push(heading, grid(mine));
    }
    return parts;
  }

  let most = STEP;
  function draw() {
    const found = chosen();
    const some = found.slice(0, most);
    shown.replaceChildren(...(tools.elements.grouped.checked ? grouped(some) : [grid(some)]));
    more.hidden = found.length <= most;
    more.textContent = `Show ${Math.min(STEP, found.length - most)} more`;
    const pictures = found.length === 1 ? "1 picture" : `${found.length.toLocaleString("en")} pictures`;
    said.textContent = found.length === items.length ? pictures : `${pictures} of ${items.length.toLocaleString("en")}`;
  }

  function afresh() {
    most = STEP;
    draw();
  }

  tools.hidden = false;
  tools.addEventListener("input", afresh);
  tools.addEventListener("submit", (event) => event.preventDefault());
  tools.addEventListener("reset", () => setTimeout(afresh));
  more.addEventListener("click", () => {
    const before = most;
    most += STEP;
    draw();
    const first = shown.querySelectorAll(".specimens > li")[before];
    first.tabIndex = -1;
    first.focus({ preventScroll: true });
  });
  said.textContent = items.length === 1 ? "1 picture" : `${items.length.toLocaleString("en")} pictures`;
  const standing = shown.querySelectorAll(".specimens > li").length;
  more.hidden = items.length <= standing;
  more.textContent = `Show ${Math.min(STEP, items.length - standing)} more`;
  most = standing;
})();
