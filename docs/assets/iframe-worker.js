// Search on pages that are opened from the disk: browsers refuse workers there, so the script of the search runs in an iframe.
if (location.protocol === "file:") {
    window.Worker = class extends EventTarget {
        constructor(url) {
            super();
            this.frame = document.createElement("iframe");
            this.frame.hidden = true;
            document.body.append(this.frame);
            addEventListener("message", event => {
                if (event.source !== this.frame.contentWindow) return;
                const copy = new MessageEvent("message", {data: event.data});
                this.dispatchEvent(copy);
                if (this.onmessage) this.onmessage(copy);
            });
            const load = (...sources) => sources.reduce((before, source) => before.then(() => new Promise(resolve => {
                const script = Object.assign(document.createElement("script"), {src: source, onload: resolve});
                document.body.append(script);
            })), Promise.resolve());
            const inner = this.frame.contentDocument;
            inner.open();
            inner.write(`<body><script>postMessage = data => parent.postMessage(data, "*"); importScripts = ${load};</scr` +
                `ipt><script src="${url}"></scr` + `ipt>`);
            inner.close();
            this.ready = new Promise(resolve => this.frame.contentWindow.addEventListener("load", resolve));
        }
        postMessage(data) {
            this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", {data})));
        }
        terminate() {
            this.frame.remove();
        }
    };
}
