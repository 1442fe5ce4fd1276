// Draws the bars, their averages and the marks of the page's own tables, again after each update of the region.
const source = document.body.dataset.charts;
const box = document.getElementById("bars-chart");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const digits = Number(box?.dataset.digits ?? 2); // of the tick: labels of prices
const priceFormat = { type: "price", precision: digits, minMove: 10 ** -digits };
const seconds = (text) => Math.floor(Date.parse(text) / 1000);
const MARK_PX = 20, TEXT_PX = 60; // between two marks, and between two with words, that do not overlap
let chart = null, candles = null, averages = [], forecasts = [], lines = [], marks = null, library = null, isFitted = false, newest = 0;
let events = [], here = [], shownSpacing = 0;

function options() {
  return {
    autoSize: true,
    layout: { background: { color: "transparent" }, textColor: colour("--muted"), attributionLogo: false },
    grid: { vertLines: { color: colour("--line") }, horzLines: { color: colour("--line") } },
    rightPriceScale: { borderColor: colour("--line") },
    timeScale: { borderColor: colour("--line"), timeVisible: true, secondsVisible: false },
  };
}

function colours() {
  const [up, down] = [colour("--good"), colour("--bad")];
  return { priceFormat, upColor: up, wickUpColor: up, borderUpColor: up, downColor: "transparent", wickDownColor: down, borderDownColor: down };
}

function mark(row, times) {
  const isBuy = row.dataset.side === "buy", kind = row.dataset.mark, time = seconds(row.dataset.bar);
  return {
    kind,
    bar: times.findLastIndex((one) => one <= time),
    time,
    position: isBuy ? "belowBar" : "aboveBar",
    shape: kind === "fill" ? (isBuy ? "arrowUp" : "arrowDown") : kind === "signal" ? "circle" : "square",
    color: colour(kind === "fill" ? (isBuy ? "--good" : "--bad") : kind === "signal" ? "--accent" : "--warn"),
    text: kind === "fill" ? row.dataset.text : "",
  };
}

// Joins marks that would overlap with `spacing` pixels from bar to bar: those above and those below the bars apart. Marks
// of one bar stand over each other, so that there only those of one kind are joined.
export function joined(found, spacing) {
  const shown = [];
  for (const side of ["aboveBar", "belowBar"]) {
    const groups = [];
    for (const one of found) {
      if (one.position !== side) continue;
      const last = groups.at(-1);
      if (last && (one.bar - last[0].bar) * spacing < MARK_PX) last.push(one);
      else groups.push([one]);
    }
    groups.forEach((group, place) => {
      const kinds = [...new Set(group.map((one) => one.kind))];
      const isOneBar = group[0].bar === group.at(-1).bar;
      const isNear = (other) => other !== undefined && Math.abs(other[0].bar - group[0].bar) * spacing < TEXT_PX;
      const hasRoom = !isNear(groups[place - 1]) && !isNear(groups[place + 1]);
      for (const part of isOneBar ? kinds.map((kind) => group.filter((one) => one.kind === kind)) : [group]) {
        const { kind, bar, ...first } = part[0];
        const text = part.length > 1 ? String(part.length) : hasRoom ? first.text : "";
        const mixed = !isOneBar && kinds.length > 1 ? { shape: "circle", color: colour("--text") } : {};
        shown.push({ ...first, ...mixed, text });
      }
    });
  }
  return shown;
}

function showMarks() {
  shownSpacing = chart.timeScale().options().barSpacing;
  const shown = joined(events, shownSpacing);
  marks.setMarkers([...shown, ...here].sort((one, other) => one.time - other.time));
  box.dataset.marks = shown.length;
}

async function draw() {
  if (!box || !source) return;
  library ??= await import(source);
  if (chart === null) {
    chart = library.createChart(box, options());
    candles = chart.addSeries(library.CandlestickSeries, colours());
    const line = { priceFormat, lineWidth: 1, priceLineVisible: false, lastValueVisible: false, crosshairMarkerVisible: false };
    averages = ["--accent", "--warn"].map((name) => chart.addSeries(library.LineSeries, { ...line, color: colour(name) }));
    const dashed = { ...line, lineStyle: library.LineStyle.Dashed };
    forecasts = ["--text", "--muted", "--muted"].map((name) => chart.addSeries(library.LineSeries, { ...dashed, color: colour(name) }));
    marks = library.createSeriesMarkers(candles, []);
    chart.timeScale().subscribeVisibleLogicalRangeChange(() => {
      if (chart.timeScale().options().barSpacing !== shownSpacing) showMarks();
    });
  }
  const rows = [...document.querySelectorAll("tr[data-time]")].reverse();
  newest = Math.max(newest, rows.length ? seconds(rows.at(-1).dataset.time) : 0);
  candles.setData(rows.map((row) => ({
    time: seconds(row.dataset.time),
    open: Number(row.dataset.o), high: Number(row.dataset.h), low: Number(row.dataset.l), close: Number(row.dataset.c),
  })));
  ["a", "b"].forEach((key, place) => averages[place].setData(
    rows.filter((row) => row.dataset[key]).map((row) => ({ time: seconds(row.dataset.time), value: Number(row.dataset[key]) })),
  ));
  const about = [...document.querySelectorAll("tr[data-about]")].reverse();
  ["v", "l", "h"].forEach((key, place) => forecasts[place].setData(
    about.map((row) => ({ time: seconds(row.dataset.about), value: Number(row.dataset[key]) })),
  ));
  box.dataset.forecasts = about.length;
  const values = rows.map((row) => (row.dataset.i === undefined ? [] : row.dataset.i.split("|")));
  const count = Math.max(0, ...values.map((row) => row.length));
  const tones = ["--good", "--bad", "--accent", "--warn", "--muted", "--text"];
  while (lines.length < count) {
    const line = { lineWidth: 1, priceLineVisible: false, lastValueVisible: false, color: colour(tones[lines.length % tones.length]) };
    lines.push(chart.addSeries(library.LineSeries, line, Number(box.dataset.pane)));
  }
  lines.forEach((line, place) => line.setData(
    rows.flatMap((row, at) => (values[at][place] ? [{ time: seconds(row.dataset.time), value: Number(values[at][place]) }] : [])),
  ));
  const times = rows.map((row) => seconds(row.dataset.time));
  events = [...document.querySelectorAll("tr[data-mark]")].map((row) => mark(row, times)).filter((one) => one.bar >= 0);
  events.sort((one, other) => one.time - other.time);
  const marked = document.querySelector("tr.marked");
  here = marked ? [{ time: seconds(marked.dataset.time), position: "aboveBar", shape: "arrowDown", color: colour("--text"), text: "here" }] : [];
  showMarks();
  if (!isFitted) {
    isFitted = true;
    const place = rows.indexOf(marked);
    if (place >= 0) chart.timeScale().setVisibleLogicalRange({ from: place - 40, to: place + 40 });
    else chart.timeScale().setVisibleLogicalRange({ from: Math.max(0, rows.length - 120), to: rows.length + 2 });
  }
}

// A bar of this series is drawn as it comes; the tables follow with the next update of the region.
document.addEventListener("fks:message", (event) => {
  const bar = event.detail;
  if (chart === null || bar.type !== "bar" || bar.revision) return;
  const { symbol, exchange, timeframe } = box.dataset;
  if (bar.symbol !== symbol || bar.timeframe !== timeframe || (exchange && bar.exchange !== exchange)) return;
  const time = seconds(bar.time);
  if (time < newest) return;
  newest = time;
  candles.update({ time, open: Number(bar.open), high: Number(bar.high), low: Number(bar.low), close: Number(bar.close) });
});

document.addEventListener("fks:theme", () => {
  if (chart === null) return;
  chart.applyOptions(options());
  candles.applyOptions(colours());
  draw();
});
document.body.addEventListener("htmx:afterSwap", (event) => { if (event.detail.target?.id === "region") draw(); });
draw();
