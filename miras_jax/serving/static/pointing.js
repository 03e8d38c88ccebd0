// Pointer and keys on the picture -> the chosen tool.

const STEP = 0.02, FAST = 0.1; // of the longer side

export class Pointing {
  constructor(stage, changed) {
    this.stage = stage;
    this.changed = changed;
    const view = (this.view = stage.view);
    view.addEventListener("pointerdown", (event) => this.down(event));
    view.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      view.addEventListener(name, (event) => this.up(event));
    }
    view.addEventListener("keydown", (event) => this.key(event));
    view.addEventListener("blur", () => this.setCross(null));
    for (const input of document.getElementsByName("tool")) {
      input.addEventListener("change", () => this.chosen());
    }
  }

  get tool() {
    return document.querySelector("input[name=tool]:checked").value;
  }

  get size() {
    return Number(document.getElementById("size").value);
  }

  choose(tool) {
    document.querySelector(`input[name=tool][value=${tool}]`).checked = true;
    this.chosen();
  }

  chosen() {
    this.stage.corner = null;
    this.view.classList.toggle("tool", this.tool !== "look");
  }

  at(event) {
    const seen = this.view.getBoundingClientRect();
    const { width, height } = this.stage;
    const x = ((event.clientX - seen.left) / seen.width) * width;
    const y = ((event.clientY - seen.top) / seen.height) * height;
    return [Math.min(Math.max(x, 0), width), Math.min(Math.max(y, 0), height)];
  }

  down(event) {
    if (this.tool === "look" || event.button) return;
    this.view.setPointerCapture(event.pointerId);
    this.last = this.at(event);
    this.stage.corner = null;
    this.stage.use(this.tool, ...this.last, this.size);
  }

  move(event) {
    if (!this.last || this.tool === "inside" || this.tool === "outside") return;
    const to = this.at(event);
    this.stage.use(this.tool, ...to, this.size, this.last);
    this.last = to;
  }

  up() {
    if (!this.last) return;
    this.last = null;
    this.stage.corner = null;
    this.changed();
  }

  key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const { width, height, cross } = this.stage;
    if (this.tool === "look") return;
    if (event.key in moves) {
      const [x, y] = cross || [width / 2, height / 2];
      const step = (event.shiftKey ? FAST : STEP) * Math.max(width, height);
      const [dx, dy] = moves[event.key];
      const clip = (value, most) => Math.min(Math.max(value, 0), most);
      this.setCross([clip(x + dx * step, width), clip(y + dy * step, height)]);
    } else if (event.key === "Enter" || event.key === " ") {
      const [x, y] = cross || [width / 2, height / 2];
      const complete = this.tool === "box" && this.stage.corner;
      this.stage.use(this.tool, x, y, this.size);
      if (complete) this.stage.corner = null;
      this.changed();
    } else return;
    event.preventDefault();
  }

  setCross(cross) {
    this.stage.cross = cross;
    this.stage.draw();
  }
}
