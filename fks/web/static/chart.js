// Draws the charts of a page from the gateway's own answers. Without the library the table below each stays.
const source = document.body.dataset.charts;
const charts = new Map();

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

async function draw(box, library) {
  const answer = await fetch(box.dataset.source, { headers: { Accept: "application/json" } });
  if (!answer.ok) return;
  const { items } = await answer.json();
  if (!box.isConnected || charts.has(box)) return; // replaced, or drawn by another call, while the answer was awaited
  const byTime = new Map(items.map((point) => [Math.floor(Date.parse(point.time) / 1000), Number(point.equity)]));
  const chart = library.createChart(box, options());
  const series = chart.addSeries(library.AreaSeries, line());
  series.setData([...byTime].map(([time, value]) => ({ time, value })));
  chart.timeScale().fitContent();
  charts.set(box, { chart, series });
}

async function drawAll() {
  for (const [box, { chart }] of charts) {
    if (!box.isConnected) { chart.remove(); charts.delete(box); }
  }
  if (!source) return;
  const library = await import(source);
  for (const box of document.querySelectorAll(".chart[data-source]")) {
    if (!charts.has(box)) await draw(box, library);
  }
}

document.addEventListener("fks:theme", () => {
  for (const { chart, series } of charts.values()) {
    chart.applyOptions(options());
    series.applyOptions(line());
  }
});
document.body.addEventListener("htmx:afterSwap", (event) => { if (event.detail.target?.id === "region") drawAll(); });
drawAll();
