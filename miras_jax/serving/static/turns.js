// The list of what was said. Texts become text nodes: nothing in them is markup.

function part(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function pointedAt(asked) {
  const parts = [];
  if (asked.points?.length) parts.push(points(asked.points));
  if (asked.box) parts.push("a box");
  if (asked.mask) parts.push("an edited mask");
  if (asked.refers_to != null) parts.push(`mask ${asked.refers_to + 1}`);
  return parts.length ? `pointing at ${parts.join(", ")}` : "";
}

export function points(list) {
  return list.length === 1 ? "a point" : `${list.length} points`;
}

export class Turns {
  // chosen(turn, mask): a turn was clicked, or one of its masks.
  constructor(list, chosen) {
    this.list = list;
    this.chosen = chosen;
  }

  clear() {
    this.list.replaceChildren();
  }

  // A question whose answer grows; returns what to call with its texts and its turn.
  ask(asked) {
    const item = part("li", "turn");
    item.append(part("p", "user", asked.text));
    const note = pointedAt(asked);
    if (note) item.append(part("p", "note", note));
    const answer = part("p", "model", "...");
    item.append(answer);
    this.list.append(item);
    this.list.setAttribute("aria-busy", "true");
    item.scrollIntoView({ block: "nearest" });
    return {
      text: (text) => (answer.textContent = text.replaceAll(/\[(OBJ|SEG)\]/g, "")),
      turn: (turn) => this.complete(item, answer, turn),
      remove: () => {
        item.remove();
        this.list.removeAttribute("aria-busy");
      },
    };
  }

  complete(item, answer, turn) {
    answer.replaceChildren(...this.pieces(turn));
    if (turn.dropped_rounds) {
      const note = turn.dropped_rounds === 1 ? "the oldest round no longer fits"
        : `the oldest ${turn.dropped_rounds} rounds no longer fit`;
      item.append(part("p", "note", note));
    }
    if (turn.num_seg > turn.masks.length) {
      item.append(part("p", "note", `${turn.num_seg} masks meant, ${turn.masks.length} made`));
    }
    item.addEventListener("click", () => this.mark(item, turn));
    this.list.removeAttribute("aria-busy");
    item.scrollIntoView({ block: "nearest" });
    if (turn.masks.length) this.mark(item, turn);
  }

  // Text nodes, and a button where the words of a mask stand.
  *pieces(turn) {
    let at = 0;
    for (const mask of turn.masks) {
      const characters = [...turn.text]; // spans count characters, not UTF-16 units
      yield document.createTextNode(characters.slice(at, mask.span[0]).join(""));
      const button = part("button", `mask mask-${mask.number % 5}`);
      button.type = "button";
      button.textContent = mask.words || `mask ${mask.number + 1}`;
      button.title = `mask ${mask.number + 1}, predicted IoU ${mask.iou.toFixed(2)}`;
      button.addEventListener("click", (event) => {
        event.stopPropagation();
        this.mark(button.closest("li"), turn, mask);
      });
      yield button;
      at = mask.span[1];
    }
    yield document.createTextNode([...turn.text].slice(at).join(""));
  }

  mark(item, turn, mask) {
    for (const other of this.list.children) other.classList.toggle("shown", other === item);
    this.chosen(turn, mask);
  }
}
