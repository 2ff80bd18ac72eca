"""A page of `export.web` with a runtime that needs no WebAssembly, so that tests of the page are fast."""

import json
from pathlib import Path

from loupe.config.recipe import Preprocessing
from loupe.export import web, web_runtime

# A stand-in for a network: the probability of the first three classes is the share of red, green and blue in the
# picture, and their maps are the mean of that channel in each quarter of it. The model is JSON: {"maps": true}.
RUNTIME = """
class Tensor { constructor(type, data, dims) { Object.assign(this, {type, data, dims}); } }
const quarters = ({data, dims: [, height, width]}, channel) => {
    const sums = [0, 0, 0, 0];
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++)
        sums[2 * Math.floor(2 * y / height) + Math.floor(2 * x / width)] += data[3 * (y * width + x) + channel];
    return sums;
};
const run = (settings, {images}) => {
    if (images.type != "uint8" || images.dims[0] != 1 || images.dims[3] != 3) throw new Error("wrong input");
    if (images.dims[2] == settings.too_wide) throw new Error("std::bad_alloc");
    const maps = [0, 1, 2].map(channel => quarters(images, channel));
    const shares = maps.map(map => map.reduce((a, b) => a + b)), all = shares.reduce((a, b) => a + b);
    const count = settings.classes, zeros = Array(4 * (count - 3)).fill(0);
    const probabilities = {data: new Float32Array(count).map((_, k) => k < 3 ? shares[k] / all : 0)};
    const data = Float32Array.from([...maps.flat(), ...zeros]);
    return settings.maps ? {probabilities, maps: {data, dims: [1, count, 2, 2]}} : {probabilities};
};
const create = async model => {
    const settings = JSON.parse(new TextDecoder().decode(model));
    const outputNames = settings.maps ? ["probabilities", "maps"] : ["probabilities"];
    return {outputNames, run: async inputs => run(settings, inputs)};
};
const a = {create}, e = {wasm: {}};
export{a as InferenceSession,Tensor,e as env,a as default};
//# sourceMappingURL=ort.wasm.bundle.min.mjs.map
"""
WASM = b"\0asm\1\0\0\0"
PREPROCESSING = Preprocessing(size_px=224, load_px=256)


def runtime_folder(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / web_runtime.SCRIPT).write_text(RUNTIME)
    (folder / web_runtime.WASM).write_bytes(WASM)
    return folder


def page(
    folder: Path,
    classes,
    *,
    title: str = "Colours",
    maps: bool = True,
    threshold: float | None = None,
    preprocessing: Preprocessing = PREPROCESSING,
) -> Path:
    """A page in a folder of its own, on whose pictures of 13 px in width the network fails."""
    runtime = web_runtime.of_folder(runtime_folder(folder / "runtime"))
    model = json.dumps({"classes": len(classes), "maps": maps, "too_wide": 13}).encode()
    web.write(
        folder,
        model,
        classes=classes,
        preprocessing=preprocessing,
        title=title,
        runtime=runtime,
        threshold=threshold,
    )
    return folder / web.PAGE
