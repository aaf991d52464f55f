"use strict";
// The status page: asks /api/status, keeps what it heard for a while, and draws it. Whatever comes from
// the server is put in as text, never as markup.

const EVERY = 2000; // ms between two questions
const PATIENCE = 10000; // ms until a question counts as not answered
const KEPT = 450; // samples: a quarter of an hour
const TOKEN = "mongosync-token";

const byId = (id) => document.getElementById(id);
const history = new Map(); // target -> samples {at, total, rate, lag}
let heardAt = null; // when the last answer came
let last = null; // what it said
let busy = false; // a command is under way
let asking = null; // the timer of the next question

/** An element with attributes and children; strings become text. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function drawn(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/**
 * Makes what is shown like what was made anew, in place: a button that is being pressed, a text that is
 * being marked and a place that is being read stay what they are.
 */
function settle(shown, fresh) {
  if (shown.nodeName !== fresh.nodeName) return shown.replaceWith(fresh);
  if (shown.nodeType === Node.TEXT_NODE) {
    if (shown.data !== fresh.data) shown.data = fresh.data;
    return undefined;
  }
  for (const { name } of [...shown.attributes]) if (!fresh.hasAttribute(name)) shown.removeAttribute(name);
  for (const { name, value } of fresh.attributes) {
    if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  }
  const children = [...fresh.childNodes];
  while (shown.childNodes.length > children.length) shown.lastChild.remove();
  children.forEach((child, index) => {
    if (index < shown.childNodes.length) settle(shown.childNodes[index], child);
    else shown.append(child);
  });
  return undefined;
}

const number = (value) => Math.round(value).toLocaleString("en-US");

function span(seconds) {
  if (seconds === null || seconds === undefined) return "not known";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

const clock = (date) => date.toISOString().replace("T", " ").slice(0, 19) + " UTC";

/** A position, `seconds.increment`, as a time. */
function time(position) {
  if (position === null) return "none yet";
  return clock(new Date(Number(position.split(".")[0]) * 1000));
}

function rate(value) {
  if (value === null) return "…";
  return `${value < 10 ? value.toFixed(1) : number(value)}/s`;
}

function headers() {
  const token = sessionStorage.getItem(TOKEN);
  // A link has no header to send.
  byId("links").hidden = token !== null;
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function call(path, options = {}) {
  const response = await fetch(path, {
    cache: "no-store",
    redirect: "error",
    signal: AbortSignal.timeout(options.patience ?? PATIENCE),
    ...options,
    headers: { ...headers(), ...options.headers },
  });
  const kind = response.headers.get("content-type") ?? "";
  const body = kind.startsWith("application/json") ? await response.json() : {};
  return { status: response.status, body };
}

/** What the documents of a target have come to, whatever became of them. */
const total = (target) =>
  Object.values(target.rules).reduce(
    (sum, rule) => sum + rule.delivered + rule.removed + rule.superseded + rule.dead_letters, 0);

function keep(status, at) {
  for (const [name, target] of Object.entries(status.targets)) {
    const samples = history.get(name) ?? [];
    const now = { at, total: total(target), rate: null, lag: target.lag_seconds };
    const before = samples.at(-1);
    // A number that has shrunk is that of another process.
    if (before && now.total >= before.total && at > before.at) {
      now.rate = ((now.total - before.total) * 1000) / (at - before.at);
    }
    samples.push(now);
    history.set(name, samples.slice(-KEPT));
  }
}

/** A line over time, from 0 to a round number above the largest value. */
function chart(kind, title, samples, value, shown) {
  const known = samples.filter((sample) => value(sample) !== null);
  const most = Math.max(0, ...known.map(value));
  const top = roundUp(most);
  const now = known.length ? value(known.at(-1)) : null;
  const said = now === null ? "nothing known yet" : `${shown(now)} last, at most ${shown(most)}`;
  const svg = drawn("svg", {
    viewBox: "0 0 300 100", preserveAspectRatio: "none", role: "img", "aria-label": `${title}: ${said}`,
  });
  for (const y of [1, 50, 99]) svg.append(drawn("line", { class: "grid", x1: 0, x2: 300, y1: y, y2: y }));
  const end = samples.length ? samples.at(-1).at : Date.now();
  const begin = Math.min(samples.length ? samples[0].at : end, end - 60000);
  const x = (sample) => ((sample.at - begin) / (end - begin)) * 300;
  const y = (sample) => 99 - (value(sample) / top) * 98;
  // A gap stays a gap.
  let piece = [];
  const pieces = [piece];
  for (const sample of samples) {
    if (value(sample) === null) { if (piece.length) pieces.push((piece = [])); }
    else piece.push(sample);
  }
  for (const points of pieces.filter((points) => points.length > 1)) {
    const line = points.map((sample) => `${x(sample).toFixed(1)} ${y(sample).toFixed(1)}`).join("L");
    const area = `M${x(points[0]).toFixed(1)} 99L${line}L${x(points.at(-1)).toFixed(1)} 99Z`;
    svg.append(drawn("path", { class: "area", d: area }), drawn("path", { class: "curve", d: `M${line}` }));
  }
  return make("figure", { class: `chart ${kind}` },
    make("figcaption", {}, make("span", {}, title), make("span", {}, `top ${shown(top)}`)),
    svg,
    make("div", { class: "ends", "aria-hidden": "true" },
      make("span", {}, `${span((end - begin) / 1000)} ago`), make("span", {}, "last")));
}

function roundUp(value) {
  if (value <= 1) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

function card(name, target, can, window) {
  const samples = history.get(name) ?? [];
  const speed = samples.length ? samples.at(-1).rate : null;
  const left = target.oplog_left_seconds;
  // What the log warns of, too.
  const low = left !== null && window !== null && left < window / 4 && target.lag_seconds >= 1;
  const paused = target.state === "paused";
  const verb = paused ? "resume" : "pause";
  const fact = (head, value, kind) => make("div", {}, make("dt", {}, head), make("dd", { class: kind }, value));
  return make("section", { class: "card", "aria-label": `Target ${name}` },
    make("div", { class: "head" },
      make("div", { class: "title" },
        make("h2", {}, name), make("span", { class: `badge ${target.state}` }, target.state)),
      make("button", {
        type: "button", disabled: !can, "data-verb": verb, "data-name": name,
        "aria-label": `${paused ? "Resume" : "Pause"} ${name}`,
      }, paused ? "Resume" : "Pause")),
    target.last_error === null ? null : make("p", { class: "error" }, target.last_error),
    make("dl", { class: "numbers" },
      fact("Lag", target.lag_seconds === null ? "not known" : span(target.lag_seconds)),
      fact("Throughput", rate(speed)),
      fact("Oplog time left", span(left) + (low ? ", less than a quarter" : ""), low ? "low" : null),
      fact("All settled up to", time(target.position), "small")),
    make("div", { class: "charts" },
      chart("speed", "Documents a second", samples, (sample) => sample.rate, rate),
      chart("lag", "Lag", samples, (sample) => sample.lag, span)),
    make("div", { class: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {},
        make("th", { scope: "col" }, "Rule"), make("th", { scope: "col", class: "copy" }, "Copy"),
        ...["Delivered", "Removed", "Superseded", "Dead letters"].map((head) =>
          make("th", { scope: "col", class: "number" }, head)),
        make("th", { scope: "col", class: "last" }, "Ask for"))),
      make("tbody", {}, ...Object.entries(target.rules).map(([rule, of]) => row(rule, of, can))))));
}

function row(name, rule, can) {
  const { documents, expected, complete } = rule.copy;
  const words = complete ? "complete"
    : expected === null ? `${number(documents)} so far`
      : `${number(documents)} of ${number(expected)}`;
  const bar = complete || !expected ? null
    : make("progress", { max: Math.max(expected, documents), value: documents, "aria-label": `Copy of ${name}` });
  const count = (head, value, kind = "") =>
    make("td", { class: `number ${kind}`, "data-head": head }, number(value));
  return make("tr", {},
    make("th", { scope: "row" }, name,
      rule.stale_definition ? make("div", { class: "note" }, "changed since it was copied") : null),
    make("td", { class: "copy" }, words, bar),
    count("Delivered", rule.delivered), count("Removed", rule.removed),
    count("Superseded", rule.superseded),
    count("Dead letters", rule.dead_letters, rule.dead_letters > 0 ? "some" : ""),
    make("td", { class: "last" }, make("button", {
      type: "button", disabled: !can, "data-verb": "resync", "data-name": name,
      "aria-label": `Copy ${name} again`,
    }, "Copy again")));
}

/** Shows what was heard last. */
function draw() {
  const silent = heardAt !== null && Date.now() - heardAt > 2 * EVERY + 1000;
  const standing = byId("standing");
  const banner = byId("banner");
  banner.hidden = true;
  if (last === null) return;
  const can = !silent && !busy;
  document.title = `${last.name} · mongosync`;
  byId("name").textContent = last.name;
  standing.textContent = silent ? "no answer" : last.state;
  standing.className = `badge ${silent ? "silent" : last.state}`;
  const { holder } = last;
  const facts = [];
  if (holder && last.state === "active") facts.push(`process ${holder.pid} on ${holder.host}`);
  if (last.oplog_window_seconds !== null) facts.push(`the oplog reaches back ${span(last.oplog_window_seconds)}`);
  byId("facts").textContent = facts.join(" · ");
  const say = (kind, words) => {
    banner.className = `banner ${kind}`;
    if (banner.textContent !== words) banner.textContent = words;
    banner.hidden = false;
  };
  if (silent) {
    say("bad", `The process has not answered since ${clock(new Date(heardAt))}. What follows is what it said then.`);
  } else if (last.state === "standby") {
    const who = holder ? `Process ${holder.pid} on ${holder.host}` : "Another process";
    say("", `This process stands by. ${who} holds the name and does the work; its own page tells how far it is, and so does “mongosync status”. When it ends, this one takes over.`);
  }
  const targets = byId("targets");
  const cards = last.state === "standby" ? []
    : Object.entries(last.targets).map(([name, target]) => card(name, target, can, last.oplog_window_seconds));
  settle(targets, make("div", { id: "targets", class: silent ? "old" : null }, ...cards));
  byId("heard").textContent = silent ? ""
    : `As of ${clock(new Date(heardAt))}. Documents are counted since the process began.`;
}

function login(words) {
  byId("login").hidden = false;
  byId("targets").replaceChildren();
  byId("banner").hidden = true;
  byId("standing").textContent = "token needed";
  byId("standing").className = "badge waiting";
  byId("heard").textContent = "";
  byId("links").hidden = true;
  byId("wrong").hidden = words === null;
  byId("wrong").textContent = words ?? "";
  last = null;
  byId("token").focus();
}

async function ask() {
  clearTimeout(asking);
  try {
    const { status, body } = await call("api/status");
    if (status === 401) {
      const had = sessionStorage.getItem(TOKEN) !== null;
      sessionStorage.removeItem(TOKEN);
      // Nothing more is asked until there is one.
      return login(had ? "The server does not take this token." : null);
    }
    if (status !== 200) throw new Error(body.error ?? `the server answers with ${status}`);
    byId("login").hidden = true;
    heardAt = Date.now();
    last = body;
    keep(body, heardAt);
    draw();
  } catch (error) {
    if (last !== null) draw();
    else {
      byId("standing").textContent = "no answer";
      byId("standing").className = "badge silent";
      byId("banner").className = "banner bad";
      byId("banner").textContent = "The process does not answer. This page asks again every two seconds.";
      byId("banner").hidden = false;
    }
  }
  asking = setTimeout(ask, EVERY);
}

const QUESTIONS = {
  pause: (name) => [`Pause ${name}?`,
    "Nothing more is written to this target until it is resumed, not even after a restart. Its position stays where it is, so mind the oplog time that is left.", "Pause"],
  resume: (name) => [`Resume ${name}?`, "What has changed in the meantime is delivered.", "Resume"],
  resync: (name) => [`Copy ${name} again?`,
    "The rule is copied anew into every target that it writes to, beside the changes. What the targets hold from before and the source no longer has is removed then. Rules that share an index with it are copied too.", "Copy again"],
};

/** Asks the person, then the process. */
function confirm(verb, name) {
  const [title, words, yes] = QUESTIONS[verb](name);
  byId("ask-title").textContent = title;
  byId("ask-words").textContent = words;
  byId("ask-yes").textContent = yes;
  byId("ask-yes").onclick = () => { byId("ask").close(); command(verb, name); };
  byId("ask").showModal();
  byId("ask-no").focus();
}

async function command(verb, name) {
  busy = true;
  tell("", "Asked; waiting for the answer…");
  draw();
  try {
    const asked = verb === "resync" ? { rules: [name] } : { target: name };
    const { status, body } = await call(`api/${verb}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(asked),
      patience: 30000,
    });
    if (status === 401) return login("The server does not take this token.");
    const words = body.answer ?? body.error ?? `the server answers with ${status}`;
    tell(status === 200 ? "good" : status === 202 ? "" : "bad", words);
  } catch {
    tell("bad", "The process has not answered; whether it heard is not known.");
  } finally {
    busy = false;
    if (last !== null) ask();
  }
}

function tell(kind, words) {
  const answer = byId("answer");
  answer.className = `banner ${kind}`;
  answer.textContent = words;
  answer.hidden = false;
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = byId("token").value.trim();
  // A header takes nothing else.
  if (!/^[\x21-\x7e]+$/.test(token)) return login("A token has letters, digits and signs only, and no spaces.");
  sessionStorage.setItem(TOKEN, token);
  byId("token").value = "";
  ask();
});
byId("targets").addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (button) confirm(button.dataset.verb, button.dataset.name);
});
byId("ask-no").addEventListener("click", () => byId("ask").close());
ask();
