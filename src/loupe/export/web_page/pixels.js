// Pixels of image files, as `loupe predict` decodes them: upright, without colour profile, transparency over white.
"use strict";

const FACTS = JSON.parse(document.getElementById("facts").textContent);

const BAND_PIXELS = 1 << 22; // read at a time: no browser's canvas is too small for it
const TRUNCATED = "the file ends before the picture does";
const END_OF_IMAGE = 0xd9; // marker of a JPEG
const IEND = 0x49454e44; // last chunk of a PNG
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? 0xedb88320 ^ (byte >>> 1) : byte >>> 1;
  return byte;
});

/** Image that is not classified; the message is for the reader. */
class Refusal extends Error {}

/** Decoded image, upright, without its colour profile. Throws a Refusal. */
async function decoded(file) {
  if (!file.size) throw new Refusal("the file is empty.");
  const bytes = new Uint8Array(await file.arrayBuffer());
  const { width, height } = sizeInHeader(bytes) ?? (await sizeByBrowser(file));
  if (width * height > FACTS.mostPixels) {
    const most = FACTS.mostPixels.toLocaleString("en");
    throw new Refusal(`${width} × ${height} pixels. At most ${most} pixels are read: save it smaller.`);
  }
  const damage = damageOf(bytes);
  if (damage) throw new Refusal(`damaged: ${damage}.`);
  return createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" }).catch(error => {
    throw new Refusal(`damaged, or too large for this browser: ${reason(error)}`);
  });
}

/** Size that the header of a PNG or JPEG states, of which browsers refuse some without a reason. */
function sizeInHeader(bytes) {
  const data = new DataView(bytes.buffer);
  if (isPng(bytes) && bytes.length > 24) return { width: data.getUint32(16), height: data.getUint32(20) };
  if (!isJpeg(bytes)) return null;
  for (const { marker, start } of jpegSegments(bytes)) {
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame && start + 9 <= bytes.length) return { width: data.getUint16(start + 7), height: data.getUint16(start + 5) };
  }
  return null;
}

/** Size that the browser reads, before it decodes any pixel. */
async function sizeByBrowser(file) {
  const image = new Image(), address = URL.createObjectURL(file);
  try {
    await new Promise((done, failed) => {
      image.onload = done;
      image.onerror = () => failed(new Refusal("not an image that this browser reads, or damaged. JPEG, PNG, WebP, GIF, BMP and AVIF work."));
      image.src = address;
    });
    return { width: image.naturalWidth, height: image.naturalHeight };
  } finally {
    URL.revokeObjectURL(address);
  }
}

/** Damage that browsers overlook and `loupe predict` refuses: they fill up what is missing with grey. */
function damageOf(bytes) {
  const data = new DataView(bytes.buffer);
  if (isJpeg(bytes)) return [...jpegSegments(bytes)].at(-1)?.marker === END_OF_IMAGE ? null : TRUNCATED;
  if (isPng(bytes)) return pngDamage(bytes, data);
  if (starts(bytes, 0x52, 0x49, 0x46, 0x46) && bytes.length > 8) return bytes.length < 8 + data.getUint32(4, true) ? TRUNCATED : null;
  return null;
}

const starts = (bytes, ...codes) => codes.every((code, i) => bytes[i] === code);
const isJpeg = bytes => starts(bytes, 0xff, 0xd8);
const isPng = bytes => starts(bytes, 0x89, 0x50, 0x4e, 0x47);

/** Segments of a JPEG to the end of its image; compressed pixels between them are passed over. */
function* jpegSegments(bytes) {
  for (let start = 2; start + 1 < bytes.length; ) {
    const marker = bytes[start] === 0xff ? bytes[start + 1] : 0;
    if (marker === 0 || marker === 0xff) {
      start++;
    } else if (marker === 1 || (marker >= 0xd0 && marker <= 0xd8)) {
      start += 2;
    } else {
      yield { marker, start };
      if (marker === END_OF_IMAGE) return;
      start += 2 + ((bytes[start + 2] << 8) | bytes[start + 3]); // a thumbnail in it has an end of its own
    }
  }
}

/** Damage in the critical chunks of a PNG: header, palette, pixels, end. */
function pngDamage(bytes, data) {
  for (let start = 8; start + 12 <= bytes.length; ) {
    const end = start + 8 + data.getUint32(start);
    const isCritical = !(bytes[start + 4] & 0x20);
    if (isCritical && end + 4 > bytes.length) return TRUNCATED;
    if (isCritical && crc32(bytes, start + 4, end) !== data.getUint32(end)) return "a checksum is wrong";
    if (data.getUint32(start + 4) === IEND) return null;
    start = end + 4;
  }
  return TRUNCATED;
}

function crc32(bytes, start, end) {
  let crc = 0xffffffff;
  for (let i = start; i < end; i++) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ bytes[i]) & 0xff];
  return (crc ^ 0xffffffff) >>> 0;
}

/** RGB of a bitmap, in bands, transparent pixels over white. */
function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  const rgb = new Uint8Array(3 * width * height);
  const rows = Math.min(height, Math.max(1, Math.floor(BAND_PIXELS / width)));
  const context = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true, alpha: false });
  context.imageSmoothingEnabled = false;
  context.fillStyle = "#fff";
  for (let top = 0, to = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    const { data } = context.getImageData(0, 0, width, count);
    for (let from = 0; from < data.length; from += 4) {
      rgb[to++] = data[from];
      rgb[to++] = data[from + 1];
      rgb[to++] = data[from + 2];
    }
  }
  return { rgb, width, height };
}
