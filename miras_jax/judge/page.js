"use strict";
// Keeps what is rated in this browser, and hands it out as CSV.
const form = document.getElementById("form");
const rater = document.getElementById("rater");
const state = document.getElementById("state");
const place = "miras-rating-" + form.dataset.page;
const questions = new Set([...form.elements].filter((e) => e.name).map((e) => e.name));

function ratings() {
  return [...new FormData(form).entries()];
}

function show() {
  const done = ratings().length;
  state.textContent = `${done} of ${questions.size} answered`;
}

function remember() {
  try {
    localStorage.setItem(place, JSON.stringify({ rater: rater.value, all: ratings() }));
  } catch {
    // Without storage the page still works; only a reload loses what was rated.
  }
  show();
}

function recall() {
  let kept = null;
  try {
    kept = JSON.parse(localStorage.getItem(place));
  } catch {
    return;
  }
  if (!kept) return;
  rater.value = kept.rater;
  for (const [name, value] of kept.all) {
    if (questions.has(name)) form.elements[name].value = value;
  }
}

function quoted(text) {
  return `"${text.replaceAll('"', '""')}"`;
}

function csv() {
  const rows = ratings().map(([name, value]) => {
    const [item, question] = name.split("/");
    return [quoted(rater.value.trim()), item, question, value].join(",");
  });
  return ["rater,item,question,value", ...rows].join("\n") + "\n";
}

function save() {
  if (!rater.value.trim()) {
    state.textContent = "Write your name first.";
    rater.focus();
    return;
  }
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "ratings.csv";
  link.click();
}

form.addEventListener("change", remember);
form.addEventListener("submit", (event) => event.preventDefault());
rater.addEventListener("input", remember);
document.getElementById("save").addEventListener("click", save);
recall();
show();
