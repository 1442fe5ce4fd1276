"use strict";
const $ = id => document.getElementById(id);

// ── nodes: text only ever goes in as text ──
function el(tag, cls, ...kids) {
  const node = document.createElement(tag);
  if (cls) node.className = cls;
  for (const kid of kids) if (kid !== null && kid !== undefined) node.append(kid);
  return node;
}
const td = (cls, ...kids) => el("td", cls, ...kids);

// ── numbers and times ──
const missing = value => value === null || value === undefined || !Number.isFinite(Number(value));
function digits(value, places) {
  if (missing(value)) return "–";
  const text = Number(value).toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
  return /^-[0.,]*$/.test(text) ? text.slice(1) : text;
}
const percent = (value, places = 2) => missing(value) ? "–" : digits(value, places) + " %";
const signed = (value, places = 2) => missing(value) ? "–" : (Number(value) > 0 ? "+" : "") + digits(value, places) + " %";
const tone = value => missing(value) ? "dim" : Number(value) > 0 ? "ok" : Number(value) < 0 ? "bad" : "";
const priceDigits = value => { const size = Math.abs(value); return size >= 100 ? 2 : size >= 1 ? 4 : size >= 0.01 ? 6 : 8; };
const price = value => missing(value) ? "–" : digits(value, priceDigits(Number(value)));
function duration(seconds) {
  if (missing(seconds)) return "–";
  const s = Number(seconds);
  if (s < 120) return Math.round(s) + " s";
  if (s < 7200) return digits(s / 60, s < 600 ? 1 : 0) + " min";
  if (s < 172800) return digits(s / 3600, 1) + " h";
  return digits(s / 86400, s < 864000 ? 1 : 0) + " d";
}
const stamp = (seconds, step) => new Date(seconds * 1000).toISOString().slice(0, step >= 86400 ? 10 : step < 60 ? 19 : 16).replace("T", " ");
const day = text => text ? text.slice(0, 10) : "–";

// ── data ──
async function unpack() {
  const bytes = Uint8Array.from(atob($("data").textContent.trim()), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}
function column(packed) {
  const found = new Float64Array(packed.deltas.length);
  let sum = 0;
  for (let i = 0; i < found.length; i++) { sum += packed.deltas[i]; found[i] = sum / packed.scale; }
  return found;
}
function firstAt(times, value) { // first index with times[index] >= value
  let low = 0, high = times.length;
  while (low < high) { const middle = (low + high) >> 1; if (times[middle] < value) low = middle + 1; else high = middle; }
  return low;
}

// ── colours ──
const token = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
function faded(color, share) {
  const n = parseInt(color.slice(1), 16);
  return `rgba(${n >> 16},${n >> 8 & 255},${n & 255},${share})`;
}
function stored(key, value) {
  try { if (value === undefined) return localStorage.getItem(key); localStorage.setItem(key, value); } catch { /* a notebook's frame has no storage */ }
  return null;
}
function themes(redraw) {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");
  const asked = new URLSearchParams(location.search).get("theme") || stored("fks.theme");
  if (asked === "light" || asked === "dark") root.dataset.theme = asked;
  dark.addEventListener("change", redraw);
  $("theme").onclick = () => {
    root.dataset.theme = (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark";
    stored("fks.theme", root.dataset.theme);
    redraw();
  };
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
function dates(plot, ticks, axis, space, step) { // UTC; the second line where a year or a day begins
  let before = null;
  return ticks.map(tick => {
    const at = new Date(tick * 1000), year = at.getUTCFullYear(), date = at.getUTCDate() + " " + MONTHS[at.getUTCMonth()];
    const upper = step >= 86400 * 360 ? String(year) : step >= 86400 * 28 ? MONTHS[at.getUTCMonth()] : step >= 86400 ? date : at.toISOString().slice(11, step >= 60 ? 16 : 19);
    const lower = step >= 86400 * 360 ? "" : step >= 86400 ? String(year) : date;
    const text = lower && lower !== before ? upper + "\n" + lower : upper;
    before = lower;
    return text;
  });
}

function logSplits(low, high) { // round values: even steps within a factor of 12, else 1, 2 and 5 of each power of ten, or the powers
  const found = [];
  if (high / low <= 12) {
    const raw = (high - low) / 6, ten = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].map(k => k * ten).find(k => k >= raw);
    for (let v = Math.ceil(low / step) * step; v <= high; v += step) found.push(v);
    return found;
  }
  for (let ten = 10 ** Math.floor(Math.log10(low)); ten <= high; ten *= 10) for (const k of high / low < 1000 ? [1, 2, 5] : [1]) if (k * ten >= low && k * ten <= high) found.push(k * ten);
  return found;
}

// ── time charts that share one view and one cursor ──
// A chart has columns over common times, or its own. Only as many points as pixels are drawn: each is the last value, the
// lowest or the highest of the rows that it stands for, so that no extreme is lost.
class Charts {
  constructor(times, step, changed) {
    this.times = times; this.step = step; this.all = []; this.changed = changed;
    this.full = [times[0], Math.max(times[times.length - 1], times[0] + 1)];
    this.view = this.full; this.inside = false;
    addEventListener("resize", () => { clearTimeout(this.waiting); this.waiting = setTimeout(() => this.build(), 80); });
  }
  add(spec) { this.all.push({ times: this.times, ...spec }); }
  build() { for (const chart of this.all) { if (chart.plot) chart.plot.destroy(); this.make(chart); } this.show(this.view); }
  make(chart) {
    const place = $(chart.id), grid = token("line"), ink = token("dim");
    place.replaceChildren();
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `chart over time: ${chart.label}`);
    if (chart.label) place.append(el("span", "label", chart.label));
    const font = "11px system-ui, sans-serif", self = this, isLog = Boolean(chart.log && chart.log());
    const axis = { stroke: ink, font, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1, size: 4 } };
    chart.plot = new uPlot({
      width: Math.max(200, place.clientWidth - 12), height: innerWidth < 620 ? Math.round(chart.height * 0.8) : chart.height,
      tzDate: s => uPlot.tzDate(new Date(s * 1000), "Etc/UTC"), padding: [8, 22, chart.axis === false ? 8 : 0, 0],
      legend: { show: false }, focus: { prox: -1 },
      cursor: { sync: { key: "time", scales: ["x", null], setSeries: false }, drag: { x: true, y: false, setScale: false, dist: 8 }, points: { size: 6 }, y: false },
      select: { show: true },
      scales: { x: { time: true, min: this.view[0], max: this.view[1] }, y: isLog ? { distr: 3, range: (u, low, high) => [low / 1.02, high * 1.02] } : { distr: 1, range: chart.range || undefined } },
      axes: [{ ...axis, space: innerWidth < 620 ? 70 : 60, show: chart.axis !== false, size: chart.axis === false ? 0 : 36, values: dates }, { ...axis, ...(isLog ? { splits: (u, i, low, high) => logSplits(low, high), filter: (u, splits) => splits } : {}), size: 66, values: (u, ticks) => ticks.map(chart.tick || (v => v === null ? "" : digits(v, isLog ? (v < 10 ? 2 : 0) : Math.abs(ticks[1] - ticks[0]) < 1 ? 2 : 0))), space: 34 }],
      series: [{}, ...chart.series().map(s => ({ points: { show: false }, width: 1.4, spanGaps: false, ...s }))],
      bands: chart.bands ? chart.bands() : [],
      hooks: {
        setSelect: [u => { if (u.select.width > 8) { self.show([u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")]); u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false); } }],
        setCursor: [u => { const at = u.cursor.idx; if (chart.read && at !== undefined) chart.read(at === null ? null : u.data, at); }],
        draw: chart.draw ? [u => chart.draw(u)] : [],
      },
    }, this.data(chart), place);
    chart.plot.over.addEventListener("dblclick", () => this.show(this.full));
    this.touch(chart.plot);
  }
  data(chart) {
    const [from, to] = this.span(chart), times = chart.times, first = Math.max(0, firstAt(times, from) - 1), end = Math.min(times.length, firstAt(times, to) + 2);
    const width = Math.max(200, $(chart.id).clientWidth - 100), size = Math.max(1, Math.floor((end - first) / width));
    const xs = [], columns = chart.columns.map(() => []);
    for (let at = first; at < end; at += size) {
      const stop = Math.min(end, at + size);
      xs.push(times[stop - 1]);
      chart.columns.forEach(({ values, keep }, i) => {
        let found = values[stop - 1];
        if (keep) for (let j = at; j < stop; j++) if (keep === "low" ? values[j] < found : values[j] > found) found = values[j];
        columns[i].push(found);
      });
    }
    return [xs, ...columns];
  }
  show([from, to]) {
    const least = this.step * 8, span = this.full[1] - this.full[0], middle = (from + to) / 2;
    const half = Math.min(span, Math.max(least, to - from)) / 2;
    from = Math.max(this.full[0], Math.min(middle - half, this.full[1] - 2 * half));
    this.view = [from, Math.min(this.full[1], from + 2 * half)];
    for (const chart of this.all) {
      chart.plot.setData(this.data(chart), false);
      const [min, max] = this.span(chart);
      chart.plot.setScale("x", { min, max });
    }
    if (this.changed) this.changed(this.view);
    for (const chart of this.all) if (chart.read) chart.read(null, null);
  }
  span(chart) { // a chart of days keeps some of them in view
    const more = Math.max(0, (chart.least || 0) - (this.view[1] - this.view[0])) / 2;
    return [this.view[0] - more, this.view[1] + more];
  }
  lastIn(times) { // the last row in view
    return Math.max(0, Math.min(times.length, firstAt(times, this.view[1] + 1)) - 1);
  }
  touch(plot) { // one finger moves the cursor, two fingers zoom; a vertical stroke scrolls the page
    const over = plot.over;
    over.style.touchAction = "pan-y";
    let pinch = null;
    const at = touch => touch.clientX - over.getBoundingClientRect().left;
    over.addEventListener("touchstart", event => {
      if (event.touches.length === 2) pinch = { view: this.view, a: plot.posToVal(at(event.touches[0]), "x"), b: plot.posToVal(at(event.touches[1]), "x") };
      else plot.setCursor({ left: at(event.touches[0]), top: 20 }, true, true);
    }, { passive: true });
    over.addEventListener("touchmove", event => {
      if (pinch && event.touches.length === 2) {
        event.preventDefault();
        const width = over.clientWidth, p = at(event.touches[0]), q = at(event.touches[1]);
        if (Math.abs(p - q) < 12) return;
        const scale = (pinch.b - pinch.a) / (q - p), from = pinch.a - p * scale;
        this.show([from, from + Math.abs(scale) * width]);
      } else if (event.touches.length === 1) plot.setCursor({ left: at(event.touches[0]), top: 20 }, true, true);
    }, { passive: false });
    over.addEventListener("touchend", event => { if (!event.touches.length) pinch = null; }, { passive: true });
  }
}
function readout(id, parts) {
  $(id).replaceChildren(...parts.map(([name, value, color, cls]) => {
    const key = color ? el("span", "key") : null;
    if (key) key.style.background = color;
    return el("span", "", key, name ? name + " " : null, el("b", cls || "", value));
  }));
}
function facts(title, rows) {
  return el("div", "", title ? el("h3", "", title) : null, ...rows.filter(row => row).map(([name, value, help, cls]) => {
    const label = el("span", "", name);
    if (help) label.title = help;
    return el("div", "fact", label, el("span", cls || "", value));
  }));
}
