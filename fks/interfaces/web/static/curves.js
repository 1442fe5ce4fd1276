// Draws equity curves from the table below each, so that chart and table cannot differ. Needs the library of charts.
const source = document.body.dataset.charts;
const drawn = new Map();
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function options() {
  return {
    autoSize: true,
    layout: { background: { color: "transparent" }, textColor: colour("--muted"), attributionLogo: false },
    grid: { vertLines: { color: colour("--line") }, horzLines: { color: colour("--line") } },
    rightPriceScale: { borderColor: colour("--line") },
    timeScale: { borderColor: colour("--line"), timeVisible: true },
  };
}

async function draw() {
  for (const [box, chart] of drawn) {
    if (!box.isConnected) { chart.remove(); drawn.delete(box); }
  }
  if (!source) return;
  const library = await import(source);
  for (const box of document.querySelectorAll(".chart[data-points]")) {
    if (drawn.has(box)) continue;
    const rows = box.parentElement.querySelectorAll("tr[data-time]");
    const points = new Map([...rows].map((row) => [Math.floor(Date.parse(row.dataset.time) / 1000), Number(row.dataset.value)]));
    const chart = library.createChart(box, options());
    const series = chart.addSeries(library.AreaSeries, {
      lineColor: colour("--accent"), topColor: `${colour("--accent")}44`, bottomColor: `${colour("--accent")}08`, lineWidth: 2,
    });
    series.setData([...points].map(([time, value]) => ({ time, value })));
    chart.timeScale().fitContent();
    drawn.set(box, chart);
  }
}

document.addEventListener("fks:theme", () => { for (const chart of drawn.values()) chart.applyOptions(options()); });
document.body.addEventListener("htmx:afterSwap", (event) => { if (event.detail.target?.id === "region") draw(); });
draw();
