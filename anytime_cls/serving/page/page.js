"use strict";
// A photograph is POSTed to /race; its server-sent events are read from the response and drawn.

const $ = (id) => document.getElementById(id);
const ROW = 28; // pixels from one class to the next
const LEADER_AT = 0.75; // of the track: where the leader's mean is
const SLOWEST = 120, SHOWN = 3000; // ms: of a frame; of a race that was faster than the eye, about
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

let photo = null; // the last file
let racing = null; // AbortController of the race that is on
let rows = new Map(); // class id -> its <li>

const ms = (seconds) => (seconds < 1 ? `${(seconds * 1000).toFixed(0)} ms` : `${seconds.toFixed(2)} s`);
const amount = (x) => x.toLocaleString("en", { maximumFractionDigits: x < 100 ? 1 : 0 });
const percent = (p) => (p > 0.9995 && p < 1 ? ">99.9 %" : `${(p * 100).toFixed(1)} %`);
const plural = (n, word) => `${amount(n)} ${word}${n === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;
const signed = (x, digits) => x.toFixed(digits).replace("-", "−");
const sleep = (time) => new Promise((done) => setTimeout(done, time));

async function* events(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done || signal.aborted) return;
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const [name, data] = text.slice(0, end).split("\n");
      yield { name: name.slice("event: ".length), data: JSON.parse(data.slice("data: ".length)) };
    }
  }
}

async function race(file) {
  racing?.abort();
  const { signal } = (racing = new AbortController());
  begin(file);
  const budget = $("budget").value;
  const address = budget ? `race?budget=${encodeURIComponent(budget)}` : "race";
  const waiting = [];
  let over = false;
  try {
    const response = await fetch(address, { method: "POST", body: file, signal });
    if (!response.ok) return fail((await response.json()).error, response.status);
    const reading = (async () => {
      for await (const event of events(response, signal)) waiting.push(event);
      over = true;
    })();
    await Promise.all([reading, show(waiting, () => over, signal)]);
  } catch (error) {
    over = true;
    if (!signal.aborted) fail(`The server does not answer (${error.message}).`);
  }
}

// Draws what arrives. A race that takes milliseconds is drawn slower than it was.
async function show(waiting, over, signal) {
  const began = performance.now();
  let last = null;
  while (!signal.aborted) {
    const event = waiting.shift();
    if (!event) {
      if (over()) break;
      await sleep(8);
    } else if (event.name === "update") {
      last = event.data;
      if (still && waiting.length) continue;
      draw(last);
      await sleep(still ? 0 : Math.min(SLOWEST, SHOWN / (waiting.length + 1)));
    } else if (event.name === "row") {
      return finish(event.data, last, performance.now() - began);
    } else {
      return fail(event.data.error);
    }
  }
  if (!signal.aborted) fail("The server ended before the race did.");
}

function begin(file) {
  rows = new Map();
  $("field").replaceChildren();
  $("field").style.height = "0";
  for (const id of ["error", "numbers", "legend", "json"]) $(id).hidden = true;
  URL.revokeObjectURL($("preview").src);
  $("preview").src = URL.createObjectURL(file);
  $("preview").alt = file.name || "the photograph";
  $("preview").hidden = false;
  $("leader").className = "racing";
  $("leader").textContent = "…";
  $("how").textContent = "waiting for its turn";
  $("pace").textContent = "";
  $("again").disabled = false;
}

function fail(line, status) {
  $("error").textContent = status ? `${line} (${status})` : line;
  $("error").hidden = false;
  $("leader").className = "";
  $("leader").textContent = "No answer";
  $("how").textContent = "";
}

function draw(update) {
  const { leader, probability, standings } = update;
  $("leader").textContent = leader ?? "…";
  $("how").textContent = probability === null ? "scoring every class once"
    : `leads with ${percent(probability)}`;
  $("numbers").hidden = $("legend").hidden = false;
  $("left").textContent = `${update.classes_left} of ${update.classes}`;
  $("orders").textContent = `${update.orders} of ${update.max_orders}`;
  $("passes").textContent = `${amount(update.passes)} of ${amount(update.full_passes)}`;
  $("time").textContent = ms(update.elapsed);
  bars(standings, update.index);
}

function bars(standings, leader) {
  const known = standings.filter((s) => s.mean !== null);
  const top = known.find((s) => s.index === leader)?.mean ?? 0;
  const span = range(known, top, leader);
  const at = (x) => 100 * Math.max(0, Math.min(1, LEADER_AT * (1 + (x - top) / span)));
  const order = [...standings].sort((a, b) =>
    b.alive - a.alive || (b.mean ?? -Infinity) - (a.mean ?? -Infinity));
  const seen = new Set();
  order.forEach((s, place) => {
    const row = rows.get(s.index) ?? add(s);
    seen.add(s.index);
    row.hidden = false;
    row.className = s.index === leader ? "leads" : s.alive ? "" : "out";
    row.style.transform = `translateY(${place * ROW}px)`;
    const [bar, bounds, tick] = row.children[1].children;
    tick.hidden = bar.hidden = s.mean === null;
    bounds.hidden = s.lower === null || s.upper === null || s.mean === null;
    if (s.mean !== null) bar.style.width = tick.style.left = `${at(s.mean)}%`;
    if (!bounds.hidden) {
      bounds.style.left = `${at(s.lower)}%`;
      bounds.style.width = `${at(s.upper) - at(s.lower)}%`;
    }
    row.children[2].textContent = says(s, top, leader);
  });
  for (const [index, row] of rows) if (!seen.has(index)) row.hidden = true;
  $("field").style.height = `${order.length * ROW}px`;
}

// Nats from the track's left end to the leader's mean. It shrinks as classes leave: what matters fills it.
function range(known, top, leader) {
  const rivals = known.filter((s) => s.alive && s.index !== leader);
  const gaps = known.filter((s) => s.index !== leader).map((s) => top - s.mean).sort((a, b) => a - b);
  if (!rivals.length) return Math.max(1e-6, 2 * (gaps[0] ?? 1));
  return Math.max(1e-6, 1.1 * (top - Math.min(...rivals.map((s) => s.lower ?? s.mean))));
}

function says(s, top, leader) {
  if (s.mean === null) return "";
  if (s.index === leader) return `${signed(s.mean, 1)} nats`;
  const gap = signed(s.mean - top, 2);
  return s.alive ? gap : `${gap}, out ${s.orders ? `at ${s.orders}` : "early"}`;
}

function add(standing) {
  const row = document.createElement("li");
  const [name, track, text] = ["name", "track", "says"].map((kind) => {
    const part = document.createElement("span");
    part.className = kind;
    return part;
  });
  name.textContent = name.title = standing.label;
  for (const kind of ["bar", "bounds", "tick"]) {
    const part = document.createElement("span");
    part.className = kind;
    track.append(part);
  }
  row.append(name, track, text);
  $("field").append(row);
  rows.set(standing.index, row);
  return row;
}

const STOPS = { decided: "decided", "max-orders": "all orders used", budget: "budget spent" };

function finish(row, last, shown) {
  if (last) draw({ ...last, leader: row.label, index: row.index, probability: row.probability,
    elapsed: row.seconds });
  $("leader").className = "done";
  const answer = `${row.label} ${percent(row.probability)}`;
  $("leader").textContent = row.unlike ? `none of these (likeliest: ${answer})` : answer;
  $("how").textContent = `${STOPS[row.stop] ?? row.stop} after ${plural(row.orders, "order")}: ` +
    `${amount(row.passes)} of ${plural(row.full_passes, "pass")}, ${ms(row.seconds)}`;
  const slowed = shown / 1000 / Math.max(row.seconds, 1e-4);
  if (slowed > 2) $("pace").textContent = `drawn ${amount(Math.round(slowed))} times slower than it was`;
  $("json").hidden = false;
  $("json").lastElementChild.textContent = JSON.stringify(row, null, 2);
  $("told").dataset.done = "true";
}

function take(file) {
  if (!file) return;
  photo = file;
  delete $("told").dataset.done;
  race(file);
}

addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  take(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => take(event.clipboardData.files[0]));
$("file").addEventListener("change", () => take($("file").files[0]));
$("again").addEventListener("click", () => take(photo));
$("preview").addEventListener("error", () => { $("preview").hidden = true; });
fetch("healthz").then((answer) => answer.json()).then((it) => {
  $("model").textContent = `${it.model}, ${it.classes} classes`;
  $("budget").options[0].textContent = it.budget ?? "none";
});
