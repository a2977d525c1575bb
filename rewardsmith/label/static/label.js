// The page where films are compared. An answer never waits for the server: the next pair is here already.

import { Refused, after, call, uuid } from "./api.js";
import { Pair } from "./films.js";
import { Outbox } from "./outbox.js";

const AHEAD = 3;
const KEPT = 2;
const WORDS = { left: "A preferred", right: "B preferred", equal: "Equal", "cannot tell": "Cannot tell" };
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "equal", " ": "cannot tell" };

const $ = (id) => document.getElementById(id);
const views = ["loading", "sign-in", "idle", "compare"];

let me = null;
let outbox = null;
let pairs = []; // the first is on the screen
let past = []; // {pair, request}: answered here, the last one last
let answered = new Set();
let times = [];
let counts = { open: 0, answered: 0 };
let rate = 1;
let taking = false;
let askedAt = null; // when the last answer was given, until the next pair is on the screen
let chores = 0;
let view = "loading";
let failing = { outbox: false, take: false };

// ---- what is on the screen ----------------------------------------------------------------------

function show(name) {
  view = name;
  views.forEach((one) => ($(one).hidden = one !== name));
  $("account").hidden = !me;
  $("progress").hidden = !me;
  if (name === "sign-in") $("token").focus();
}

function say(text) {
  $("status").textContent = text;
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function connection(part, lost) {
  failing[part] = lost;
  const waiting = outbox?.length ?? 0;
  const kept = waiting ? ` ${waiting} ${waiting === 1 ? "answer is" : "answers are"} kept here and will be sent.` : "";
  notice(failing.outbox || failing.take ? `No connection to the server. Trying again.${kept}` : "");
}

function progress() {
  const all = counts.open + counts.answered;
  $("bar").max = Math.max(all, 1);
  $("bar").value = counts.answered;
  $("answered").textContent = `${counts.answered} of ${all} answered`;
  $("open").textContent = ` · ${counts.open} open`;
  const now = performance.now();
  const lately = times.filter((time) => now - time < 300000);
  const minutes = (lately.at(-1) - lately[0]) / 60000;
  const speed = lately.length > 2 && minutes > 0 ? ` · ${Math.round((lately.length - 1) / minutes)} a minute` : "";
  $("mine").textContent = times.length ? ` · you ${times.length}${speed}` : "";
}

async function present() {
  const pair = pairs[0];
  if (!pair) {
    show(me ? "idle" : "sign-in");
    return;
  }
  if (view !== "compare") show("compare");
  if (!pair.element.isConnected) $("stage").append(pair.element);
  if (pair.shown) return;
  await pair.load();
  if (pair !== pairs[0] || pair.shown) return;
  pair.show(rate);
  if (askedAt !== null) {
    const start = askedAt;
    askedAt = null;
    // What follows a frame's callbacks comes when that frame has been painted.
    requestAnimationFrame(() => setTimeout(() => performance.measure("next pair", { start })));
  }
}

// Films of the next pairs are fetched one pair after another: the one that is wanted first comes first.
async function prefetch() {
  for (const pair of [...pairs]) {
    if (!pair.element.isConnected) $("stage").append(pair.element);
    await pair.load();
  }
}

// ---- answers ------------------------------------------------------------------------------------

function answer(choice) {
  const pair = pairs[0];
  if (!pair?.shown) return;
  const now = performance.now();
  askedAt = now;
  pairs.shift();
  pair.hide();
  const request = uuid();
  const seconds = pair.startedAt === null ? null : Math.round(now - pair.startedAt) / 1000;
  outbox.add({ kind: "answer", body: { question: pair.question, answer: choice, response_seconds: seconds, request } });
  answered.add(pair.question);
  past.push({ pair, request });
  past = past.slice(-100);
  times.push(now);
  counts.answered += 1;
  counts.open = Math.max(0, counts.open - 1);
  flash(choice);
  $("last").textContent = `Last: ${WORDS[choice]}`;
  say(`${WORDS[choice]}. ${pairs.length ? "Next pair." : "Waiting for the next pair."}`);
  progress();
  present();
  if (!pairs.length) topUp();
  // The next pair comes on the screen first; then there is time to let go of films and to fetch others.
  clearTimeout(chores);
  chores = setTimeout(() => {
    topUp();
    past.slice(0, -KEPT).forEach((one) => one.pair.gone || one.pair.remove());
  }, 150);
}

function undo() {
  const last = past.pop();
  if (!last) {
    // Given before the page was opened: the server knows which pair that was.
    outbox.add({ kind: "undo", body: { request: uuid() } });
    return;
  }
  if (!outbox.withdraw(last.request)) outbox.add({ kind: "undo", of: last.request, body: { request: uuid() } });
  times.pop();
  counts.answered = Math.max(0, counts.answered - 1);
  counts.open += 1;
  bringBack(last.pair.gone ? new Pair(last.pair.data) : last.pair);
}

function bringBack(pair) {
  answered.delete(pair.question);
  pairs.filter((one) => one.question === pair.question && one !== pair).forEach((one) => one.remove());
  pairs = pairs.filter((one) => one.question !== pair.question);
  pairs[0]?.hide();
  pair.startedAt = null;
  pairs.unshift(pair);
  $("last").textContent = "Taken back: answer again";
  say("Taken back. The last pair is here again.");
  progress();
  present();
}

function sent(item, result) {
  connection("outbox", false);
  if (item.kind === "undo") {
    if (!result.pair) {
      say("There is no answer to take back.");
    } else if (pairs[0]?.question !== result.pair.question) {
      const mine = past.findIndex((one) => one.pair.question === result.pair.question);
      if (mine >= 0) past.splice(mine, 1);
      if (!item.of || !answered.has(result.pair.question)) bringBack(new Pair(result.pair));
    }
  }
  if (!outbox.length && !pairs.length) topUp();
}

async function refused(item, error) {
  if (item.kind === "answer" && error.status === 409 && !item.again) {
    // The pair may only have been given back, by another window that was closed: take it and try once more.
    const { pairs: held } = await call("POST", "/api/take", { count: 10 }).catch(() => ({ pairs: [] }));
    if (held.some((one) => one.question === item.body.question)) {
      outbox.add({ kind: "answer", again: true, body: { ...item.body, request: uuid() } });
      return;
    }
  }
  if (item.kind === "answer") past = past.filter((one) => one.request !== item.body.request);
  $("last").textContent = "One answer came too late: that pair is no longer yours";
  say($("last").textContent);
  topUp();
}

// ---- questions ----------------------------------------------------------------------------------

async function topUp({ renew = false } = {}) {
  if (taking || !me || (pairs.length >= AHEAD && !renew)) return;
  taking = true;
  let pause = 1;
  while (me) {
    const waiting = outbox.length;
    try {
      const count = Math.min(10, Math.max(AHEAD, pairs.length) + waiting);
      const taken = await call("POST", "/api/take", { count });
      connection("take", false);
      merge(taken, waiting === 0 && outbox.length === 0);
      break;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (!error.passing) {
        signedOut();
        break;
      }
      connection("take", true);
      await after(Math.max(pause, error.wait));
      pause = Math.min(2 * pause, 5);
    }
  }
  taking = false;
}

function merge(taken, settled) {
  if (settled) {
    counts = taken.counts;
    // What the server does not count among ours any more was lent to another, or is not asked any more.
    const held = new Set(taken.pairs.map((one) => one.question));
    pairs.filter((one) => !held.has(one.question)).forEach((one) => one.remove());
    pairs = pairs.filter((one) => held.has(one.question));
  }
  const here = new Set(pairs.map((one) => one.question));
  const fresh = taken.pairs.filter((one) => !here.has(one.question) && !answered.has(one.question));
  pairs.push(...fresh.map((one) => new Pair(one)));
  progress();
  present();
  prefetch();
}

// New pairs are picked up while none is here, and what is held is held on to while someone is looking.
async function watch() {
  for (let turn = 1; ; turn += 1) {
    await after(2);
    if (document.hidden || !me) continue;
    if (!pairs.length) topUp();
    else if (turn % 30 === 0) topUp({ renew: true });
  }
}

// ---- coming and going ---------------------------------------------------------------------------

function begin(person) {
  me = person;
  counts = person.counts;
  $("name").textContent = person.name;
  $("to-dashboard").hidden = person.role !== "owner";
  $("instruction").textContent = person.instruction || "Which film do you prefer?";
  outbox = new Outbox(person.outbox, { sent, refused, failing: (error) => connection("outbox", !!error), signedOut });
  // Answers kept from before are on their way: their pairs may still count as ours, and are not shown again.
  outbox.unsent().forEach((question) => answered.add(question));
  progress();
  topUp();
}

async function signedOut() {
  if (!me) return;
  const before = me.outbox;
  me = null;
  try {
    // The page may only have an old key to an open session: then nothing was lost.
    const person = await call("GET", "/api/me");
    if (person.outbox === before) {
      me = person;
      outbox.send();
      return;
    }
  } catch (error) {
    if (error.passing) {
      await after(2);
      me = { outbox: before };
      signedOut();
      return;
    }
  }
  pairs.forEach((pair) => pair.remove());
  pairs = [];
  past = [];
  $("sign-in-why").textContent = "Your session has ended. Sign in again: nothing you answered is lost.";
  notice("");
  show("sign-in");
}

const signIn = async (token) => begin(await call("POST", "/api/sign-in", { token }));

async function start() {
  const token = location.hash.slice(1);
  const linked = /^[A-Za-z0-9_-]{40,100}$/.test(token);
  // The token must not stay in the address bar, nor in the history.
  if (linked) history.replaceState(null, "", location.pathname);
  for (;;) {
    try {
      if (linked) await signIn(token).catch(async (error) => begin(await open(error)));
      else begin(await call("GET", "/api/me"));
      return;
    } catch (error) {
      if (!error.passing) {
        if (linked) $("sign-in-error").textContent = "That link is no longer good: the server has printed a new one.";
        show("sign-in");
        return;
      }
      notice("No connection to the server. Trying again.");
      await after(2);
      notice("");
    }
  }
}

// An old link may be opened by someone whose session is still open.
async function open(error) {
  if (error.passing) throw error;
  return call("GET", "/api/me");
}

$("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("sign-in-error").textContent = "";
  try {
    await signIn($("token").value.trim());
    $("token").value = "";
  } catch (error) {
    const unknown = error.status === 401 || error.status === 422;
    $("sign-in-error").textContent = unknown ? "That token is not known here." : error.message;
  }
});

$("sign-out").addEventListener("click", async () => {
  if (outbox.length) {
    notice("Some answers are still on their way: try again in a moment.");
    return;
  }
  await call("POST", "/api/sign-out", {}).catch(() => {});
  location.replace("/");
});

addEventListener("pagehide", () => {
  // What waits to be sent needs its questions lent: they come back when the lease ends.
  if (me && pairs.length && !outbox.length) call("POST", "/api/release", {}, { keepalive: true }).catch(() => {});
});

addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

document.addEventListener("visibilitychange", () => {
  const pair = pairs[0];
  if (!pair?.shown) return;
  if (document.hidden) pair.rest();
  else pair.show(rate);
});

// ---- keys and buttons ---------------------------------------------------------------------------

function flash(choice) {
  const button = document.querySelector(`[data-answer="${choice}"]`);
  button.classList.remove("pressed");
  requestAnimationFrame(() => button.classList.add("pressed"));
}

const replay = () => pairs[0]?.shown && pairs[0].play();

function slow() {
  rate = rate === 1 ? 0.5 : 1;
  $("slow").setAttribute("aria-pressed", String(rate !== 1));
  pairs[0]?.setRate(rate);
  say(rate === 1 ? "Full speed" : "Half speed");
}

const TOOLS = { z: undo, r: replay, s: slow };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !me || !$("keys").checked) return;
  const native = event.target.closest?.("input, textarea, button, a, summary, label");
  if (native && (event.key === " " || event.target.matches("input:not([type=checkbox]), textarea"))) return;
  const choice = KEYS[event.key];
  const tool = TOOLS[event.key.toLowerCase()];
  if (choice && view === "compare") answer(choice);
  else if (tool && (view === "compare" || (view === "idle" && tool === undo))) tool();
  else return;
  event.preventDefault();
});

function onPress(button, action) {
  button.addEventListener("click", (event) => {
    action();
    // After a click the space bar is an answer again, not this button.
    if (event.detail > 0) $("choices").focus({ preventScroll: true });
  });
}

document.querySelectorAll("[data-answer]").forEach((button) => onPress(button, () => answer(button.dataset.answer)));
onPress($("undo"), undo);
onPress($("replay"), replay);
onPress($("slow"), slow);
onPress(document.querySelector(".undo-idle"), undo);

$("keys").checked = localStorage.getItem("rewardsmith-keys") !== "off";
$("keys").addEventListener("change", () => {
  localStorage.setItem("rewardsmith-keys", $("keys").checked ? "on" : "off");
});

start();
watch();
