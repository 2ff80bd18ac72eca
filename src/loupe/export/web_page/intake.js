// Photographs into the page: chosen, dropped, pasted, from the camera. The page has a function `add` that takes them.
"use strict";

for (const input of [byId("files"), byId("taken")]) {
  input.addEventListener("change", () => {
    add(input.files);
    input.value = "";
  });
}
byId("choose").addEventListener("click", () => byId("files").click());
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
async function frame(attempts = 10) { // a video that has begun may have no picture yet
  try {
    return await createImageBitmap(view);
  } catch (error) {
    if (attempts === 1) throw error;
    await new Promise(done => setTimeout(done, 100));
    return frame(attempts - 1);
  }
}

byId("take").addEventListener("click", async () => {
  let bitmap;
  try {
    bitmap = await frame();
  } catch (error) {
    return say(`No picture could be taken: ${reason(error)} Try again.`, "problem");
  } finally {
    camera.close();
  }
  add([{ name: `Camera, ${new Date().toLocaleTimeString()}`, bitmap }]);
});
byId("close-camera").addEventListener("click", () => camera.close());
camera.addEventListener("close", () => {
  view.srcObject?.getTracks().forEach(track => track.stop());
  view.srcObject = null;
});
