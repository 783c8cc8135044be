"use strict";
// A served page asks every few seconds whether it has changed, while somebody looks at it, and takes over the new one.
const EVERY_MS = 5000;
const said = document.getElementById("live");
let asking = false;

function state(element) {
  return element.id || element.querySelector("summary")?.textContent;
}

async function renew() {
  const answer = await fetch(location.href, { cache: "no-store" });
  if (!answer.ok) throw new Error(answer.statusText);
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  const open = new Set([...document.querySelectorAll("details[open]")].map(state));
  const filters = new Map([...document.querySelectorAll("input[data-filter]")].map((each) => [each.dataset.filter, each.value]));
  const focus = document.activeElement?.name || document.activeElement?.dataset?.filter;
  document.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.purge(plot));
  document.getElementById("main").replaceWith(fresh.getElementById("main"));
  document.getElementById("made").textContent = fresh.getElementById("made").textContent;
  document.querySelector("nav").replaceWith(fresh.querySelector("nav"));
  document.documentElement.dataset.version = fresh.documentElement.dataset.version;
  for (const each of document.querySelectorAll("details")) each.open = open.has(state(each));
  for (const each of document.querySelectorAll("input[data-filter]")) each.value = filters.get(each.dataset.filter) ?? "";
  prepare(document);
  if (focus) document.querySelector(`[name="${focus}"], [data-filter="${focus}"]`)?.focus();
}

async function look() {
  if (asking || document.visibilityState !== "visible") return;
  asking = true;
  try {
    const answer = await fetch("state", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.statusText);
    const { version } = await answer.json();
    if (version !== document.documentElement.dataset.version) await renew();
    said.textContent = "";
  } catch (error) {
    said.textContent = "The server does not answer: this page may be out of date.";
  }
  asking = false;
}

setInterval(look, EVERY_MS);
document.addEventListener("visibilitychange", look);
