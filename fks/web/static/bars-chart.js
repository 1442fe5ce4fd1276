// Draws the bars, their averages and the marks of the page's own tables, again after each update of the region.
const source = document.body.dataset.charts;
const box = document.getElementById("bars-chart");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const digits = Number(box?.dataset.digits ?? 2); // of the tick: labels of prices
const priceFormat = { type: "price", precision: digits, minMove: 10 ** -digits };
const seconds = (text) => Math.floor(Date.parse(text) / 1000);
let chart = null, candles = null, averages = [], lines = [], marks = null, library = null, isFitted = false, newest = 0;

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

function mark(row) {
  const isBuy = row.dataset.side === "buy", kind = row.dataset.mark;
  return {
    time: seconds(row.dataset.bar),
    position: isBuy ? "belowBar" : "aboveBar",
    shape: kind === "fill" ? (isBuy ? "arrowUp" : "arrowDown") : kind === "signal" ? "circle" : "square",
    color: colour(kind === "fill" ? (isBuy ? "--good" : "--bad") : kind === "signal" ? "--accent" : "--warn"),
    text: kind === "fill" ? row.dataset.text : "",
  };
}

async function draw() {
  if (!box || !source) return;
  library ??= await import(source);
  if (chart === null) {
    chart = library.createChart(box, options());
    candles = chart.addSeries(library.CandlestickSeries, colours());
    const line = { priceFormat, lineWidth: 1, priceLineVisible: false, lastValueVisible: false, crosshairMarkerVisible: false };
    averages = ["--accent", "--warn"].map((name) => chart.addSeries(library.LineSeries, { ...line, color: colour(name) }));
    marks = library.createSeriesMarkers(candles, []);
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
  const found = [...document.querySelectorAll("tr[data-mark]")].map(mark).sort((one, other) => one.time - other.time);
  const marked = document.querySelector("tr.marked");
  if (marked) {
    found.push({ time: seconds(marked.dataset.time), position: "aboveBar", shape: "arrowDown", color: colour("--text"), text: "here" });
    found.sort((one, other) => one.time - other.time);
  }
  marks.setMarkers(found);
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
