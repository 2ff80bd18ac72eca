// A button beside each command that copies it.
(() => {
  "use strict";
  if (!navigator.clipboard) return;
  for (const command of document.querySelectorAll("pre.command")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command.querySelector("code").textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not allowed";
      }
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    const frame = document.createElement("div");
    frame.className = "copied";
    command.replaceWith(frame);
    frame.append(command, button);
  }
})();
