// Draws the charts of a page from the gateway's own answers. Without the library the table below each stays.
const source = document.body.dataset.charts;
const charts = new Map(); // box -> when it was read, and its chart
const FRESH_MS = 60000;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options() {
  return {
    autoSize: true,
    layout: { background: { color: "transparent" }, textColor: colour("--muted"), attributionLogo: false },
    grid: { vertLines: { color: colour("--line") }, horzLines: { color: colour("--line") } },
    rightPriceScale: { borderColor: colour("--line") },
    timeScale: { borderColor: colour("--line"), timeVisible: true },
  };
}

function line() {
  const accent = colour("--accent");
  return { lineColor: accent, topColor: `${accent}44`, bottomColor: `${accent}08`, lineWidth: 2 };
}

// Draws a chart, or reads one again that stayed in its place while the rest of the region was replaced (hx-preserve).
async function draw(box, library) {
  const known = charts.get(box) ?? { readAt: -FRESH_MS };
  if (Date.now() - known.readAt < FRESH_MS) return;
  known.readAt = Date.now();
  charts.set(box, known);
  const answer = await fetch(box.dataset.source, { headers: { Accept: "application/json" } }).catch(() => null); // live.js shows outages
  if (!answer?.ok || !box.isConnected) return; // replaced while the answer was awaited
  const { items } = await answer.json();
  const byTime = new Map(items.map((point) => [Math.floor(Date.parse(point.time) / 1000), Number(point.equity)]));
  box.hidden = byTime.size === 0;
  known.chart ??= library.createChart(box, options());
  known.series ??= known.chart.addSeries(library.AreaSeries, line());
  known.series.setData([...byTime].map(([time, value]) => ({ time, value })));
  known.chart.timeScale().fitContent();
}

async function drawAll() {
  for (const [box, { chart }] of charts) {
    if (!box.isConnected) { chart?.remove(); charts.delete(box); }
  }
  if (!source) return;
  const library = await import(source);
  for (const box of document.querySelectorAll(".chart[data-source]")) await draw(box, library);
}

document.addEventListener("fks:theme", () => {
  for (const { chart, series } of charts.values()) {
    chart?.applyOptions(options());
    series?.applyOptions(line());
  }
});
document.body.addEventListener("htmx:afterSwap", (event) => { if (event.detail.target?.id === "region") drawAll(); });
drawAll();
