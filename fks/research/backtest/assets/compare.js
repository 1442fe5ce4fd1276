const COLORS = ["info", "ok", "warn", "bad", "text", "dim"];
const DASHES = [[], [6, 4], [2, 3]];

function start(data) {
  const { runs, compared } = data, step = 60;
  document.querySelector("main").hidden = false;
  $("title").textContent = runs.map(r => r.name).join(" · ");
  $("what").textContent = `${runs.length} runs · equity in percent of each run's starting cash`;
  const notes = compared.same_fills.map(names => `${names.join(" and ")} have the same fills.`), ends = runs.flatMap(r => [Date.parse(r.from), Date.parse(r.to)]);
  const apart = key => { const all = runs.map(r => Date.parse(r[key])); return Math.max(...all) - Math.min(...all); };
  if (Math.max(apart("from"), apart("to")) > 0.01 * (Math.max(...ends) - Math.min(...ends))) notes.push("The runs do not cover the same time: returns and drawdowns are not of the same market.");
  $("notes").hidden = !notes.length;
  $("notes").replaceChildren(el("ul", "", ...notes.map(n => el("li", "", n))));

  const lines = runs.map(run => {
    const cash = Number(run.cash), times = run.equity.map(([t]) => Date.parse(t) / 1000), values = run.equity.map(([, v]) => 100 * (v / cash - 1));
    let peak = 0;
    const falls = values.map(v => { peak = Math.max(peak, v); return 100 * ((1 + v / 100) / (1 + peak / 100) - 1); });
    return { times, values, falls };
  });
  const times = [...new Set(lines.flatMap(l => l.times))].sort((a, b) => a - b);
  const on = (line, column) => { let at = -1; return times.map(t => { while (at + 1 < line.times.length && line.times[at + 1] <= t) at++; return at < 0 || t > line.times[line.times.length - 1] ? null : column[at]; }); };
  const equity = lines.map(l => on(l, l.values)), falls = lines.map(l => on(l, l.falls));
  const charts = new Charts(times, step, null);
  const color = i => token(COLORS[i % COLORS.length]), dash = i => DASHES[Math.floor(i / COLORS.length) % DASHES.length];
  const read = (data, i) => {
    const at = i === null || !data || data[0][i] === undefined ? charts.lastIn(times) : Math.min(firstAt(times, data[0][i]), times.length - 1);
    readout("read", [["", stamp(times[at], 60)], ...runs.map((run, k) => [run.name, equity[k][at] === null ? "–" : signed(equity[k][at]), color(k)])]);
  };
  const series = () => runs.map((_, i) => ({ stroke: color(i), dash: dash(i), width: 1.5, spanGaps: true }));
  charts.add({ id: "chart-equity", height: 320, label: "return, %", axis: false, read, columns: equity.map(values => ({ values })), series });
  charts.add({ id: "chart-drawdown", height: 160, label: "drawdown, %", read, columns: falls.map(values => ({ values })), series, range: (u, low) => [Math.min(low * 1.08, -0.01), 0] });
  $("drawn").textContent = `${matchMedia("(pointer: coarse)").matches ? "pinch to zoom" : "drag to zoom, double-click for all"} · at most 500 points a run; the table has every bar`;
  charts.build();
  tables(runs, compared);
  themes(() => charts.build());
  $("foot").textContent = `FKS ${data.version} · times are UTC · this page loads nothing: it can be kept and sent as one file`;
}
function tables(runs, compared) {
  const show = { pct: v => percent(v), money: v => digits(v, 2), ratio: v => digits(v, 2), count: v => digits(v, 0), time: duration };
  const heads = runs.map(run => el("th", "num", run.name));
  $("metrics").replaceChildren(el("thead", "", el("tr", "", el("th", "", ""), ...heads)), el("tbody", "", ...compared.rows.map(row => el("tr", "", td("dim", row.label), ...row.values.map((v, i) => td("num" + (row.best.includes(i) ? " best ok" : ""), show[row.unit](v)))))));
  const text = v => v === null || v === undefined ? "–" : String(v);
  const rows = [...compared.differences.map(d => [d.input.replace("params.", ""), d.values]), ["fingerprint", runs.map(r => r.inputs_hash.slice(0, 12))]];
  $("inputs").replaceChildren(el("thead", "", el("tr", "", el("th", "", ""), ...runs.map(run => el("th", "num", run.name)))), el("tbody", "", ...rows.map(([name, values]) => el("tr", "", td("dim", name), ...values.map(v => td("num", text(v)))))));
}

unpack().then(start).catch(error => { document.body.prepend(el("div", "empty bad", `This page could not be drawn: ${error.message}. It needs a browser of 2023 or later.`)); });
