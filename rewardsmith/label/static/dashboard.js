// The owners' page: how labelling goes, and what the reward model makes of it.

import { after, call } from "./api.js";
import { bars, element, empty, line, percent, short, table } from "./charts.js";

const $ = (id) => document.getElementById(id);
let drawn = "";

function tiles(data) {
  const { counts, between } = data;
  const shown = [
    ["answers", counts.answers],
    ["questions answered", counts.answered],
    ["open", counts.open],
    ["lent just now", counts.taken],
    ["taken back", data.undone],
    ["labellers agree", percent(between.agreement)],
  ];
  const cells = shown.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, String(value))));
  $("tiles").replaceChildren(...cells);
}

function overTime({ over_time: { width, buckets } }) {
  const title = "Answers over time";
  const unit = width < 3600 ? `${width / 60} min` : width < 86400 ? `${width / 3600} h` : `${width / 86400} days`;
  if (!buckets.length) return empty(title, "Answers that stand", "No answers yet.");
  const day = width >= 86400;
  const options = day ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit" };
  const format = (seconds) => new Date(1000 * seconds).toLocaleString([], options);
  const points = buckets.map((bucket) => ({ x: bucket.start, y: bucket.answers }));
  return bars(title, `Answers that stand, in each ${unit}`, points, width, { format }, { format: short }, ["from", "answers"]);
}

function shares(title, about, points, why) {
  if (!points.length) return empty(title, about, why);
  const drawn = points.map((one) => ({ x: one.step, y: one.agreement, about: String(one.answers) }));
  return line(title, about, drawn, { low: 0, high: 1, format: percent }, ["step", "share", "answers"]);
}

const withModel = ({ model }) =>
  shares(
    "Agreement with the reward model",
    "Share of preferences that the model foretold before it was trained on them",
    model.trained_on,
    "The model has foretold nothing that people answered yet.",
  );

const heldOut = ({ model }) =>
  shares(
    "Preference accuracy on held-out answers",
    "Share foretold of preferences that no reward is ever trained on",
    model.held_out,
    "No held-out question has been answered and foretold yet.",
  );

function returns({ returns: rows }) {
  const title = "Return";
  const about = "Mean return of the evaluations of the run, with its standard deviation";
  if (!rows.length) return empty(title, about, "No run stands behind this store, or it has not been evaluated yet.");
  const points = rows.map((row) => ({ x: row.step, y: row.mean, spread: row.std ?? 0, about: short(row.std) }));
  return line(title, about, points, { format: short }, ["step", "mean", "std"]);
}

function people({ labellers }) {
  const rows = labellers.map((one) => [
    one.name + (one.active ? "" : " (revoked)"),
    one.role,
    String(one.answers),
    short(one.per_minute),
    one.median_seconds === null ? "–" : `${short(one.median_seconds)} s`,
    percent(one.agreement),
    percent(one.equal),
    percent(one.cannot_tell),
  ]);
  const heads = ["name", "role", "answers", "a minute", "median time", "agrees with others", "equal", "cannot tell"];
  $("people").replaceChildren(...table(heads, rows).children);
}

function between({ between: both }) {
  if (!both.pairs) return "";
  const kappa = both.kappa === null ? "" : `; beyond chance (Scott's π) ${short(both.kappa)}`;
  return `On ${both.questions} questions that several answered, ${percent(both.agreement)} of pairs of answers agree${kappa}.`;
}

function draw(data) {
  // Charts are drawn anew only where numbers changed: an open table stays open.
  const text = JSON.stringify(data);
  if (text === drawn) return;
  drawn = text;
  const open = new Set([...document.querySelectorAll("details[open]")].map((one) => one.parentNode.firstChild.textContent));
  tiles(data);
  $("charts").replaceChildren(overTime(data), withModel(data), heldOut(data), returns(data));
  document.querySelectorAll(".chart").forEach((one) => {
    const details = one.querySelector("details");
    if (details) details.open = open.has(one.firstChild.textContent);
  });
  people(data);
  $("between").textContent = between(data);
}

$("instruction-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    $("text").value = (await call("PUT", "/api/instruction", { text: $("text").value })).text;
    $("saved").textContent = "Saved.";
  } catch (error) {
    $("saved").textContent = `Not saved. ${error.message}`;
  }
});
$("text").addEventListener("input", () => ($("saved").textContent = ""));

async function start() {
  let filled = false;
  for (;;) {
    try {
      if (!document.hidden || !drawn) {
        const me = filled ? null : await call("GET", "/api/me");
        draw(await call("GET", "/api/statistics"));
        if (me) $("text").value = me.instruction;
        filled = true;
        $("board").hidden = false;
      }
      $("notice").hidden = true;
    } catch (error) {
      if (!error.passing) {
        $("away").hidden = false;
        $("board").hidden = true;
        return;
      }
      $("notice").textContent = "No connection to the server. Trying again.";
      $("notice").hidden = false;
    }
    await after(10);
  }
}

start();
