// Wires the page: image in, messages out, masks over the picture.

import * as api from "./api.js";
import { Pointing } from "./pointing.js";
import { Stage } from "./stage.js";
import { Turns, points } from "./turns.js";

const get = (id) => document.getElementById(id);
const stage = new Stage(get("view"));
const pointing = new Pointing(stage, meant);
const turns = new Turns(get("turns"), (turn, mask) => show(turn, mask));
let id = null, shown = null, waiting = null;

function say(text, isError = false) {
  get("status").textContent = text;
  get("status").classList.toggle("error", isError);
}

// Runs something that may fail; the failure is a line on the page.
async function trying(what, work) {
  say(what);
  try {
    const result = await work();
    say("");
    return result;
  } catch (error) {
    say(error.name === "AbortError" ? "stopped" : error.message, error.name !== "AbortError");
  }
}

function busy(is) {
  get("message").disabled = get("send").disabled = is || id === null;
  get("send").hidden = is;
  get("stop").hidden = !is;
  for (const name of ["undo", "reset", "fork", "another"]) get(name).disabled = is;
}

async function open(talk) {
  id = talk.conversation;
  history.replaceState(null, "", `#${id}`);
  get("drop").hidden = true;
  get("stage").hidden = get("more").hidden = false;
  get("labelme").href = api.address(id, "labelme.json");
  get("conversation").href = api.address(id, "conversation.json");
  const { name, width, height } = talk.image;
  get("view").setAttribute("aria-label", `${name}, ${width} by ${height} pixels`);
  await stage.open(api.address(id, "image.jpg"), width, height);
  list(talk);
  busy(false);
  get("message").focus();
}

function list(talk) {
  turns.clear();
  stage.show([]);
  select(null);
  meant();
  for (const turn of talk.turns) turns.ask(turn.asked).turn(turn);
}

function show(turn, mask) {
  stage.brushed = null;
  const masks = mask ? [mask] : turn.masks;
  trying("", () => stage.show(masks));
  if (masks.length) stage.view.scrollIntoView({ block: "nearest" });
  select(mask || turn.masks[0] || null);
  meant();
}

// The mask that the buttons below the picture are about.
function select(mask) {
  shown = mask;
  get("mask").hidden = !mask;
  if (!mask) return;
  const share = (100 * mask.area) / (stage.width * stage.height);
  const words = mask.words ? `“${mask.words}”, ` : "";
  get("mask-text").textContent =
    `Mask ${mask.number + 1}: ${words}${share.toFixed(1)} % of the picture, ` +
    `predicted IoU ${mask.iou.toFixed(2)}`;
  get("png").href = mask.png;
  get("rle").href = mask.png.replace(/png$/, "json");
}

// Says what goes with the next message.
function meant() {
  const message = stage.meant();
  const parts = [];
  if (message.points) parts.push(points(message.points));
  if (message.box) parts.push("a box");
  if (message.mask) parts.push("the brushed mask");
  if ("refers_to" in message) parts.push(`mask ${message.refers_to + 1}`);
  get("meant").textContent = parts.length
    ? `Your next message points at ${parts.join(", ")}.` : "";
}

async function ask() {
  const text = get("message").value.trim();
  if (!text || waiting || id === null) return;
  const message = { text, ...stage.meant() };
  const row = turns.ask({ ...message, mask: "mask" in message });
  waiting = new AbortController();
  busy(true);
  const turn = await trying("answering", () => api.say(id, message, row.text, waiting.signal));
  waiting = null;
  busy(false);
  if (turn) {
    get("message").value = "";
    stage.clear();
    row.turn(turn);
    meant();
  } else row.remove();
  get("message").focus({ preventScroll: true });
}

async function load(file) {
  if (!file) return;
  const talk = await trying("reading the image", () => api.start(file));
  if (talk) await trying("", () => open(talk));
}

function chooseAnother() {
  id = null;
  history.replaceState(null, "", "/");
  get("drop").hidden = false;
  get("stage").hidden = get("more").hidden = true;
  get("file").value = "";
  turns.clear();
  busy(false);
  get("file").focus();
}

for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    get("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") load(event.dataTransfer.files[0]);
  });
}
get("file").addEventListener("change", () => load(get("file").files[0]));
get("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
get("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
get("stop").addEventListener("click", () => waiting?.abort());
get("clear").addEventListener("click", () => {
  stage.clear();
  meant();
});
get("compare").addEventListener("input", (event) => {
  stage.compare = event.target.value / 100;
  stage.draw();
});
get("mean").addEventListener("click", () => {
  stage.brushed = null;
  stage.refersTo = shown.number;
  stage.draw();
  meant();
});
get("edit").addEventListener("click", () => {
  stage.edit(shown.number);
  pointing.choose("brush");
  meant();
});
for (const how of ["undo", "reset"]) {
  get(how).addEventListener("click", async () => {
    const talk = await trying("", () => api.change(id, how));
    if (talk) list(talk);
  });
}
get("fork").addEventListener("click", async () => {
  const talk = await trying("", () => api.change(id, "fork"));
  if (talk) window.open(`/#${talk.conversation}`, "_blank", "noopener");
});
get("another").addEventListener("click", chooseAnother);

busy(false);
const kept = location.hash.slice(1);
if (kept) {
  const talk = await trying("", () => api.open(kept));
  if (talk) await trying("", () => open(talk));
}
