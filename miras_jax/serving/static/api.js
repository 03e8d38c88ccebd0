// The server's JSON API. What goes wrong is an Error with the server's own line.

async function checked(response) {
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Error(said.error || `the server answered ${response.status}`);
}

export async function start(file) {
  const form = new FormData();
  form.append("image", file, file.name || "image");
  const response = await fetch("/v1/conversations", { method: "POST", body: form });
  return (await checked(response)).json();
}

export async function open(id) {
  return (await checked(await fetch(address(id)))).json();
}

export async function change(id, how) {
  return (await checked(await fetch(address(id, how), { method: "POST" }))).json();
}

export function address(id, tail = "") {
  return `/v1/conversations/${encodeURIComponent(id)}${tail ? "/" + tail : ""}`;
}

// Asks; `onText` gets the answer so far. Resolves to the turn.
export async function say(id, message, onText, signal) {
  const response = await fetch(address(id, "say"), {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...message, stream: true }),
    signal,
  });
  await checked(response);
  for await (const { kind, data } of events(response.body)) {
    if (kind === "text") onText(data.text);
    if (kind === "turn") return data;
    if (kind === "error") throw new Error(data.error);
  }
  throw new Error("the answer broke off");
}

// Server-sent events of a stream of bytes.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const blocks = held.split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const kind = lines.find((line) => line.startsWith("event: "));
      const data = lines.find((line) => line.startsWith("data: "));
      if (kind && data) yield { kind: kind.slice(7), data: JSON.parse(data.slice(6)) };
    }
  }
}
