// The pictures of a cell: a link to them opens them in the sheet at the foot of the window, and arrow keys walk the
// matrix. Without this script the links lead to the same pictures further down in the page.
(() => {
  "use strict";
  const sheet = document.getElementById("sheet");
  if (!sheet) return;
  const part = (name) => document.getElementById(`sheet-${name}`);
  const links = [...document.querySelectorAll('a[href^="#cell-"]')];
  const order = [...document.querySelectorAll(".pile > ul")].map((list) => list.id);
  let opener = null;
  let current = null;

  const copies = (nodes) => [...nodes].map((node) => node.cloneNode(true));

  function fill(id) {
    const list = document.getElementById(id);
    const summary = list.parentElement.querySelector("summary");
    const pictures = list.cloneNode(true);
    pictures.removeAttribute("id");
    part("title").replaceChildren(...copies(summary.childNodes));
    part("pictures").replaceChildren(pictures);
    part("said").textContent = `${summary.textContent.replace(/\s+/g, " ").trim()}. ${list.children.length} pictures, highest loss first.`;
    for (const link of links) link.setAttribute("aria-expanded", String(link.hash === `#${id}`));
    current = id;
    sheet.scrollTop = 0;
  }

  function open(link) {
    opener = link;
    sheet.hidden = false;
    document.documentElement.classList.add("sheet-open");
    fill(link.hash.slice(1));
    part("title").focus({ preventScroll: true });
    const hidden = link.getBoundingClientRect().bottom + 12 - sheet.getBoundingClientRect().top;
    if (hidden > 0) window.scrollBy(0, hidden);
  }

  function close() {
    sheet.hidden = true;
    document.documentElement.classList.remove("sheet-open");
    part("pictures").replaceChildren();
    part("said").textContent = "";
    for (const link of links) link.setAttribute("aria-expanded", "false");
    opener.focus();
  }

  function turn(by) {
    fill(order[(order.indexOf(current) + by + order.length) % order.length]);
    opener = links.find((link) => link.hash === `#${current}`) ?? opener;
  }

  for (const link of links) {
    link.setAttribute("aria-expanded", "false");
    link.setAttribute("aria-controls", "sheet");
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      if (link.getAttribute("aria-expanded") === "true") close();
      else open(link);
    });
  }
  part("close").addEventListener("click", close);
  part("previous").addEventListener("click", () => turn(-1));
  part("next").addEventListener("click", () => turn(1));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !sheet.hidden) close();
  });

  const table = document.querySelector(".matrix");
  const cells = table ? [...table.querySelectorAll("td a")] : [];
  if (!cells.length) return;
  const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };

  function rove(link) {
    for (const other of cells) other.tabIndex = other === link ? 0 : -1;
  }

  // The next cell in that direction that has pictures; null at the edge.
  function neighbour(cell, [down, right]) {
    let row = cell.parentElement.rowIndex;
    let column = cell.cellIndex;
    for (;;) {
      row += down;
      column += right;
      const next = column < 0 ? undefined : table.rows[row]?.cells[column];
      if (!next) return null;
      if (next.querySelector("a")) return next.querySelector("a");
    }
  }

  table.setAttribute("role", "grid");
  rove(cells[0]);
  table.addEventListener("focusin", (event) => {
    if (cells.includes(event.target)) rove(event.target);
  });
  table.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    const cell = event.target.closest("td");
    if (!step || !cell) return;
    event.preventDefault();
    neighbour(cell, step)?.focus();
  });
})();
