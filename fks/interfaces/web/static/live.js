// Keeps a page current: one websocket to the gateway says that something happened, and the page's region is loaded
// again, at most twice a second. What is shown is always the server's; ages are counted on here, second by second.
// Messages are numbered: after a reconnect the missed ones are sent again, or the page reads everything anew.
const body = document.body;
const region = document.getElementById("region");
const stateBox = document.getElementById("live-state");
const stateText = document.getElementById("live-text");
const channels = (body.dataset.live ?? "").split(",").filter(Boolean);
const everyMs = Number(body.dataset.every ?? 0) * 1000;
const answeredMs = performance.getEntriesByType("navigation")[0]?.responseStart || performance.now();
const aheadMs = performance.timeOrigin + answeredMs - Date.parse(body.dataset.now); // of the browser's clock
const LEAST_MS = 500, GATHER_MS = 100, SILENT_MS = 25000, WAIT_MAX_MS = 15000;

let socket = null, waitMs = 500, heardAt = 0, isLoading = false, loadedAt = Date.now(), lostAt = null;
let isWanted = false, isGathering = false; // an event came, and the page has not read since
let stream = "", seq = 0; // of the last message; another replica has other numbers
let fault = ""; // of the last read of the region

// ── ages ──────────────────────────────────────────────────────────────────────────────────────
function span(seconds) {
  const left = Math.max(0, Math.floor(seconds));
  if (left < 60) return `${left} s`;
  if (left < 3600) return `${Math.floor(left / 60)} min ${left % 60} s`;
  if (left < 86400) return `${Math.floor(left / 3600)} h ${Math.floor((left % 3600) / 60)} min`;
  return `${Math.floor(left / 86400)} d ${Math.floor((left % 86400) / 3600)} h`;
}

const now = () => Date.now() - aheadMs;

function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function countAges() {
  for (const element of document.querySelectorAll("[data-age], [data-age-s]")) {
    if (element.dataset.ageS !== undefined) element.dataset.shownAt ??= String(Date.now());
    const seconds = element.dataset.ageS === undefined
      ? (now() - Date.parse(element.dateTime)) / 1000
      : Number(element.dataset.ageS) + (Date.now() - Number(element.dataset.shownAt)) / 1000;
    const isStale = seconds > Number(element.dataset.limit);
    element.classList.toggle("stale", isStale);
    write(element, `${isStale ? "stale, " : ""}${span(seconds)} ago`);
  }
  for (const element of document.querySelectorAll("[data-until]")) {
    const left = (Date.parse(element.dataset.until) - now()) / 1000;
    write(element, left > 0 ? `${span(left)} left` : "expired");
    element.classList.toggle("urgent", left < 10);
  }
  for (const element of document.querySelectorAll("[data-countdown]")) {
    element.dataset.shownAt ??= String(Date.now());
    write(element, span(Number(element.dataset.countdown) - (Date.now() - Number(element.dataset.shownAt)) / 1000));
  }
}

// ── the region ────────────────────────────────────────────────────────────────────────────────
// A confirmation that is open, or a field that is being filled in, is not replaced under the reader's hands.
const isHeld = () =>
  region.querySelector("details[open]:not([data-free]), input:checked") !== null ||
  (region.contains(document.activeElement) && document.activeElement.matches("input, select, textarea"));

async function load() {
  if (isLoading || document.hidden || isHeld() || !window.htmx) return;
  isLoading = true;
  isWanted = false;
  await window.htmx.ajax("GET", location.pathname + location.search, { target: "#region", swap: "innerHTML" })
    .catch(() => undefined); // what failed is seen below: loadedAt stays
  setTimeout(() => {
    isLoading = false;
    if (isWanted) load();
  }, LEAST_MS);
}

function want() {
  isWanted = true;
  load();
}

// An event seldom comes alone (a signal, its order, its fill): they are read together.
function wantSoon() {
  isWanted = true;
  if (isGathering) return;
  isGathering = true;
  setTimeout(() => {
    isGathering = false;
    if (isWanted) load();
  }, GATHER_MS);
}

// The tabs of one session read at the same moment, so that the server makes their region once. An event may have made
// this one read meanwhile: then it waits for its next turn.
function readInTurn() {
  const phase = Number(body.dataset.phase ?? 0) % everyMs;
  setTimeout(() => {
    if (Date.now() - loadedAt > everyMs / 2) want();
    readInTurn();
  }, everyMs - ((Date.now() - phase) % everyMs));
}

body.addEventListener("htmx:afterRequest", (event) => {
  if (event.detail.target?.id !== "region") return;
  fault = event.detail.successful ? "" : `The last read failed (${event.detail.xhr?.status || "no answer"}).`;
  if (event.detail.successful) loadedAt = Date.now();
});
// A failed read never takes the place of the numbers: they stay, with their age. Tables that are open stay open.
let opened = [];
body.addEventListener("htmx:beforeSwap", (event) => {
  if (event.detail.target?.id !== "region") return;
  if (event.detail.xhr.status >= 400) event.detail.shouldSwap = false;
  opened = [...region.querySelectorAll("details[data-free]")].map((details) => details.open);
});
body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target?.id === "region") {
    const found = [...region.querySelectorAll("details[data-free]")];
    if (found.length === opened.length) found.forEach((details, place) => { if (opened[place]) details.open = true; });
  }
  countAges();
});
body.addEventListener("fks:refresh", want);
document.addEventListener("visibilitychange", () => { if (!document.hidden) want(); });

// ── the socket ────────────────────────────────────────────────────────────────────────────────
function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/ws?channels=-`);
  socket.addEventListener("message", (event) => {
    heardAt = Date.now();
    const message = JSON.parse(event.data);
    if (message.type === "hello") {
      const after = lostAt !== null && stream === message.stream ? { after: { stream, seq } } : {};
      ({ stream, seq } = after.after ?? message);
      socket.send(JSON.stringify({ type: "subscribe", id: 1, channels, ...after }));
    } else if (message.type === "check") {
      socket.send(JSON.stringify({ type: "checked", n: message.n }));
    } else if (message.type === "subscribed") {
      waitMs = 500;
      if (lostAt !== null && !message.resumed) want(); // what was missed is not known here, but in the journal
      lostAt = null;
    } else if (message.type !== "heartbeat" && message.type !== "snapshot") {
      seq = message.seq ?? seq;
      if (message.type !== "bar") wantSoon(); // a chart draws bars itself
      document.dispatchEvent(new CustomEvent("fks:message", { detail: message }));
    }
    show();
  });
  socket.addEventListener("close", () => {
    socket = null;
    lostAt ??= Date.now();
    setTimeout(connect, waitMs * (0.5 + Math.random()));
    waitMs = Math.min(waitMs * 2, WAIT_MAX_MS);
    show();
  });
}

function show() {
  const isOpen = socket !== null && socket.readyState === WebSocket.OPEN && lostAt === null;
  const oldMs = Date.now() - loadedAt;
  const isOld = everyMs > 0 && oldMs > Math.max(3 * everyMs, 15000);
  const isPaused = isHeld();
  const state = isOld && !isPaused ? "stale" : isPaused ? "held" : isOpen ? "on" : "off";
  const texts = {
    stale: "Stale: the numbers are old, and are asked for again",
    held: "Waits: nothing is updated while you confirm or type",
    on: "Live",
    off: everyMs > 0 ? "Not live: numbers are read every few seconds" : "Not live: reload for newer numbers",
  };
  stateBox.dataset.state = state;
  write(stateText, texts[state]);
  region?.classList.toggle("stale", state === "stale");
  const note = document.getElementById("stale-note");
  if (note) {
    note.hidden = state !== "stale";
    if (state === "stale") write(note, `These numbers are ${span(oldMs / 1000)} old. ${fault}`.trim());
  }
}

if (region) {
  if (channels.length > 0) connect();
  else lostAt = Date.now();
  if (everyMs > 0) readInTurn();
}
setInterval(() => {
  if (socket !== null && heardAt && Date.now() - heardAt > SILENT_MS) socket.close(); // a silent line is dead
  countAges();
  if (region) show();
}, 1000);
countAges();
