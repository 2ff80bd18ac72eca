// Class activation maps over pictures.
"use strict";

// Evidence over grey, as in `loupe explain`: plasma is monotonic in lightness, also for colour-blind readers.
const PLASMA = [[13, 8, 135], [76, 2, 161], [126, 3, 168], [170, 35, 149], [204, 71, 120], [230, 108, 92], [248, 149, 64], [253, 197, 39], [240, 249, 33]];
const STRENGTH = 0.8, DIMMED = 0.75, UNSEEN = 0.35;

/** Class activation maps over a picture: a canvas of it, and the size of the image and its preprocessing. */
class Evidence {
  constructor(photograph, { width, height }, preprocessing) {
    this.photograph = photograph;
    this.seen = seenPart(width, height, preprocessing);
    this.canvas = element("canvas", {});
    this.caption = element("figcaption", {});
    this.figure = element("figure", {}, this.canvas, this.caption);
  }

  /** Shows the map of a class, row by row. */
  show(name, { data, rows, columns }) {
    const map = data.map(value => Math.max(value, 0));
    const peak = map.reduce((most, value) => Math.max(most, value), 0);
    this.draw({ map, rows, columns }, peak);
    const where = peak ? `strongest ${placeOf(map.indexOf(peak), rows, columns)}` : "no positive evidence";
    this.caption.replaceChildren("Evidence for ", element("b", { className: "name" }, name), `: ${where}`);
    describe(this.canvas, `Evidence for ${name}: ${where}`);
  }

  draw({ map, rows, columns }, peak) {
    const { photograph, canvas, seen } = this;
    const factor = Math.max(1, Math.floor(256 / Math.max(photograph.width, photograph.height)));
    const width = (canvas.width = photograph.width * factor), height = (canvas.height = photograph.height * factor);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = false;
    context.drawImage(photograph, 0, 0, width, height);
    const picture = context.getImageData(0, 0, width, height), { data } = picture;
    for (let y = 0, i = 0; y < height; y++) {
      const v = ((y + 0.5) / height - seen.top) / seen.height;
      for (let x = 0; x < width; x++, i += 4) {
        const u = ((x + 0.5) / width - seen.left) / seen.width;
        const grey = 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2];
        const isSeen = u >= 0 && u < 1 && v >= 0 && v < 1;
        const strength = isSeen && peak ? interpolated(map, rows, columns, v, u) / peak : 0;
        paint(data, i, grey * (isSeen ? DIMMED : UNSEEN), strength);
      }
    }
    context.putImageData(picture, 0, 0);
  }
}

function paint(data, i, grey, strength) {
  const cover = STRENGTH * strength ** 0.7;
  const place = strength * (PLASMA.length - 1), below = Math.min(Math.floor(place), PLASMA.length - 2), part = place - below;
  for (let c = 0; c < 3; c++) {
    const color = PLASMA[below][c] * (1 - part) + PLASMA[below + 1][c] * part;
    data[i + c] = grey * (1 - cover) + color * cover;
  }
}

/** Linear interpolation between the centres of a map's cells, at a place from 0 to 1. */
function interpolated(map, rows, columns, v, u) {
  const y = Math.min(Math.max(v * rows - 0.5, 0), rows - 1), x = Math.min(Math.max(u * columns - 0.5, 0), columns - 1);
  const top = Math.floor(y), left = Math.floor(x), below = Math.min(top + 1, rows - 1), right = Math.min(left + 1, columns - 1);
  const dy = y - top, dx = x - left;
  return (1 - dy) * ((1 - dx) * map[top * columns + left] + dx * map[top * columns + right])
    + dy * ((1 - dx) * map[below * columns + left] + dx * map[below * columns + right]);
}

/** Part of a picture that the network sees, as fractions of its sides; beyond 0 to 1 where borders are added. */
function seenPart(width, height, { resize, load, size }) {
  let boxWidth = width, boxHeight = height;
  if (resize === "crop") {
    boxWidth = Math.min(width, (height * load.width) / load.height);
    boxHeight = Math.min(height, (width * load.height) / load.width);
  } else if (resize === "pad") {
    const factor = Math.min(load.width / width, load.height / height);
    boxWidth = load.width / factor;
    boxHeight = load.height / factor;
  }
  const seenWidth = (boxWidth * size.width) / load.width / width, seenHeight = (boxHeight * size.height) / load.height / height;
  return { left: (1 - seenWidth) / 2, top: (1 - seenHeight) / 2, width: seenWidth, height: seenHeight };
}

function placeOf(index, rows, columns) {
  const third = (place, count) => Math.min(2, Math.floor((3 * (place + 0.5)) / count));
  const vertical = ["top", "", "bottom"][third(Math.floor(index / columns), rows)];
  const horizontal = ["left", "", "right"][third(index % columns, columns)];
  const corner = `${vertical} ${horizontal}`.trim();
  return corner ? `at the ${corner}` : "in the centre";
}
