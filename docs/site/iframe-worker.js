// Search on pages that are opened from the disk: browsers refuse them a Worker, so its
// script runs in a hidden frame. (The theme fetches such a file from the network unless
// mkdocs.yml names one of this name.)
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      frame.srcdoc =
        "<script>postMessage = (data) => frameElement.answer(data)</script>" +
        `<script src="${new URL(url, location.href)}"></script>`;
      this.window = new Promise((resolve) => {
        frame.onload = () => resolve(frame.contentWindow);
      });
      document.body.append(frame);
    }
    async postMessage(data) {
      const inside = await this.window;
      inside.dispatchEvent(new inside.MessageEvent("message", { data }));
    }
  };
}
