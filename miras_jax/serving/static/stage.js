// The picture with masks over it, and what the user points at.

import { blank, color, filled, isEmpty, maskCanvas, outline, picture, rle } from "./layers.js";

const LEAST = 800, MOST = 1600; // pixels of the longer side that are drawn
const FADE = 400; // milliseconds
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Stage {
  constructor(view) {
    this.view = view;
    this.compare = 0; // share of the width that shows the picture alone
    this.masks = [];
    this.cross = null;
    this.clear();
  }

  async open(url, width, height) {
    const longer = Math.max(width, height);
    const scale = Math.min(Math.max(longer, LEAST), MOST) / longer;
    this.width = width;
    this.height = height;
    this.scale = scale;
    this.view.width = Math.max(1, Math.round(width * scale));
    this.view.height = Math.max(1, Math.round(height * scale));
    this.line = Math.max(1, Math.round(Math.max(this.view.width, this.view.height) / 400));
    this.base = await picture(url);
    this.masks = [];
    this.clear();
  }

  // What is pointed at is forgotten.
  clear() {
    this.points = [];
    this.box = null;
    this.corner = null;
    this.brushed = null;
    this.refersTo = null;
    this.draw();
  }

  // Shows masks of an answer, fading in.
  async show(masks) {
    const { width, height } = this.view;
    this.masks = await Promise.all(
      masks.map(async (mask) => {
        const shape = await maskCanvas(mask.png, width, height);
        const tint = filled(shape, color(mask.number));
        return { number: mask.number, shape, tint, line: outline(shape, this.line) };
      })
    );
    this.shownAt = still.matches ? -FADE : performance.now();
    this.draw();
  }

  edit(number) {
    const mask = this.masks.find((mask) => mask.number === number);
    const { width, height } = this.view;
    this.brushed = blank(width, height, true);
    this.brushed.getContext("2d").drawImage(mask.shape, 0, 0);
    this.refersTo = null;
    this.draw();
  }

  // (x, y) in pixels of the picture -> a point, a corner or a dab.
  use(tool, x, y, size, from) {
    if (tool === "inside" || tool === "outside") {
      this.points.push([x, y, tool === "inside"]);
    } else if (tool === "box") {
      this.drag(x, y);
    } else if (tool === "brush" || tool === "eraser") {
      this.dab(tool === "eraser", x, y, size, from);
    }
    this.draw();
  }

  drag(x, y) {
    if (!this.corner) {
      this.corner = [x, y];
      return;
    }
    const [a, b] = this.corner;
    const box = [Math.min(a, x), Math.min(b, y), Math.max(a, x), Math.max(b, y)];
    if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) this.box = box;
  }

  dab(erases, x, y, size, from) {
    if (!this.brushed) this.brushed = blank(this.view.width, this.view.height, true);
    this.refersTo = null;
    const context = this.brushed.getContext("2d");
    context.globalCompositeOperation = erases ? "destination-out" : "source-over";
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = 2 * size * Math.max(this.width, this.height) * this.scale / 400;
    context.beginPath();
    context.moveTo(...(from || [x, y]).map((value) => value * this.scale));
    context.lineTo(x * this.scale, y * this.scale);
    context.stroke();
  }

  // What goes with the next message.
  meant() {
    const message = {};
    if (this.points.length) message.points = this.points;
    if (this.box) message.box = this.box;
    if (this.brushed && !isEmpty(this.brushed)) {
      message.mask = rle(this.brushed, this.width, this.height);
    } else if (this.refersTo !== null) message.refers_to = this.refersTo;
    return message;
  }

  draw() {
    if (!this.base) return;
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  paint() {
    const { width, height } = this.view;
    const context = this.view.getContext("2d");
    context.globalAlpha = 1;
    context.drawImage(this.base, 0, 0, width, height);
    const shown = Math.min(1, (performance.now() - (this.shownAt || 0)) / FADE);
    const from = Math.round(this.compare * width);
    context.save();
    context.beginPath();
    context.rect(from, 0, width - from, height);
    context.clip();
    for (const mask of this.brushed ? [] : this.masks) {
      context.globalAlpha = 0.45 * shown;
      context.drawImage(mask.tint, 0, 0);
      context.globalAlpha = shown;
      context.drawImage(mask.line, 0, 0);
    }
    context.restore();
    context.globalAlpha = 1;
    if (from) this.stroke(context, () => { context.moveTo(from, 0); context.lineTo(from, height); });
    this.paintMeant(context);
    this.view.dataset.masks = this.brushed ? 0 : this.masks.length;
    if (shown < 1) this.draw();
  }

  paintMeant(context) {
    if (this.brushed) {
      context.globalAlpha = 0.5;
      context.drawImage(filled(this.brushed, "rgb(0 200 255)"), 0, 0);
      context.globalAlpha = 1;
      context.drawImage(outline(this.brushed, this.line), 0, 0);
    }
    if (this.box) {
      const [a, b, c, d] = this.box.map((value) => value * this.scale);
      this.stroke(context, () => context.rect(a, b, c - a, d - b));
    }
    const reach = 5 * this.line;
    for (const [x, y, inside] of this.points) this.mark(context, x, y, reach, inside);
    if (this.cross) this.mark(context, ...this.cross, 2 * reach, true);
  }

  mark(context, x, y, reach, inside) {
    const [a, b] = [x * this.scale, y * this.scale];
    this.stroke(context, () => {
      context.moveTo(a - reach, b);
      context.lineTo(a + reach, b);
      if (!inside) return;
      context.moveTo(a, b - reach);
      context.lineTo(a, b + reach);
    });
  }

  stroke(context, path) {
    for (const [style, width] of [["white", 4], ["black", 1.5]]) {
      context.beginPath();
      path();
      context.strokeStyle = style;
      context.lineWidth = width * this.line;
      context.stroke();
    }
  }
}
