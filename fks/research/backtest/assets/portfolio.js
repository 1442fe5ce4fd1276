const LISTED = 500;

function start(data) {
  const { statistics: s, equity, currency, instruments } = data, cash = Number(data.cash), step = 60;
  document.querySelector("main").hidden = false;
  $("title").textContent = instruments.map(one => one.symbol).slice(0, 8).join(" · ") + (instruments.length > 8 ? ` and ${instruments.length - 8} more` : "");
  $("what").textContent = `${instruments.length} instruments, rebalanced by ${data.trigger.trigger} · ${day(data.from)} to ${day(data.to)}, ${data.timeframe} bars · ${digits(cash, 2)} ${currency} at the start`;
  const tile = (name, value, cls) => el("div", "tile", el("div", "name", name), el("div", "value " + (cls || ""), value));
  $("tiles").replaceChildren(
    tile("return", signed(s.return_pct), tone(s.return_pct)), tile("net profit", digits(s.net_profit, 2), tone(s.net_profit)), tile("max drawdown", percent(s.max_drawdown_pct)),
    tile("Sharpe", digits(s.sharpe, 2)), tile("runs", digits(s.runs, 0)), tile("partial", digits(s.runs_partial, 0)), tile("fills", digits(s.fills, 0)), tile("turnover", `${digits(s.turnover, 2)} ×`), tile("fees", digits(s.fees, 2)), tile("mean drift", percent(s.drift_mean_pct)));

  const times = equity.map(row => Date.parse(row[0]) / 1000), values = equity.map(row => row[1]), drift = equity.map(row => 100 * row[3]);
  let peak = cash;
  const falls = values.map(v => { peak = Math.max(peak, v); return 100 * (v / peak - 1); });
  const charts = new Charts(times, step, null);
  const read = (plotted, i) => {
    const k = i === null || !plotted || plotted[0][i] === undefined ? charts.lastIn(times) : Math.min(firstAt(times, plotted[0][i]), times.length - 1);
    readout("read", [["", stamp(times[k], step)], ["equity", digits(values[k], 2)], ["drawdown", signed(falls[k])], ["invested", percent(100 * equity[k][2] / values[k])], ["largest drift", percent(drift[k])]]);
  };
  const line = name => () => [{ stroke: token(name), width: 1.5 }];
  charts.add({ id: "chart-equity", height: 280, label: `equity, ${currency}`, axis: false, read, columns: [{ values }], series: line("info") });
  charts.add({ id: "chart-drawdown", height: 120, label: "drawdown, %", axis: false, read, columns: [{ values: falls, keep: "low" }], series: line("bad"), range: (u, low) => [Math.min(low * 1.08, -0.01), 0] });
  charts.add({ id: "chart-drift", height: 120, label: "largest distance of a weight from its target, %", read, columns: [{ values: drift, keep: "high" }], series: line("dim") });
  $("drawn").textContent = `${matchMedia("(pointer: coarse)").matches ? "pinch to zoom" : "drag to zoom, double-click for all"} · at most 500 points; the figures are of every bar`;
  charts.build();
  tables(data);
  themes(() => charts.build());
  $("foot").textContent = `FKS ${data.version} · times are UTC · this page loads nothing: it can be kept and sent as one file`;
}
const head = (first, names) => el("thead", "", el("tr", "", el("th", "", first), ...names.map(name => el("th", "num", name))));
const row = (name, cells) => el("tr", "", td("", name), ...cells.map(cell => td("num", cell)));
const at = text => text ? text.slice(0, 19).replace("T", " ") : "–";
function tables(data) {
  const shown = data.runs.slice(0, LISTED), share = text => missing(text) ? "–" : percent(100 * Number(text));
  $("runs-note").textContent = shown.length < data.runs.length ? `the first ${shown.length} of ${data.runs.length}` : `${data.runs.length}`;
  $("runs").replaceChildren(head("run", ["start", "end", "state", "capital", "traded", "orders", "largest drift left", "outside their bands"]), el("tbody", "", ...shown.map(one =>
    row(String(one.run), [at(one.started_at), at(one.ended_at), one.reason ? `${one.state}: ${one.reason}` : one.state, digits(Number(one.capital), 2), digits(Number(one.turnover), 2), digits(one.orders, 0), share(one.drift_left), one.outside.join(" ") || "–"]))));
  $("instruments").replaceChildren(head("", ["target", "quantity at the end", "missing bars", "source"]), el("tbody", "", ...data.instruments.map(one => row(one.symbol, [share(one.target), one.quantity, percent(one.gaps.gap_pct), one.source || "–"]))));
  const rules = Object.entries(data.rules).filter(([, value]) => value !== null).map(([name, value]) => [name, String(value)]);
  const trigger = Object.entries(data.trigger).filter(([, value]) => value !== null).map(([name, value]) => [name === "trigger" ? name : `trigger ${name}`, String(value)]);
  const decisions = Object.entries(data.decisions).map(([name, count]) => [name, digits(count, 0)]);
  $("setup").replaceChildren(facts("", [["cash", `${data.cash} ${data.currency}`], ["cash at the end", `${data.final_cash} ${data.currency}`], ["fee rate", data.fee_rate], ["slippage", data.slippage], ...rules, ...trigger, ...decisions, ["inputs", data.inputs_hash.slice(0, 16)], ["fills", data.fills_hash.slice(0, 16)]]));
  $("allocations-section").hidden = !data.allocations.length;
  const symbols = data.instruments.map(one => one.symbol);
  $("allocations").replaceChildren(head("as of", ["became targets", "largest change", ...symbols]), el("tbody", "", ...data.allocations.slice(0, LISTED).map(one => row(at(one.as_of), [one.applied_at ? at(one.applied_at) : "refused", share(one.change), ...symbols.map(symbol => share(one.weights[symbol]))]))));
  const steps = data.runs.flatMap(run => run.steps.map(one => [run.run, one])), listed = steps.slice(0, LISTED);
  $("steps-note").textContent = listed.length < steps.length ? `the first ${listed.length} of ${steps.length}` : `${steps.length}`;
  $("steps").replaceChildren(head("run", ["symbol", "side", "planned", "at", "filled", "price", "fee", "time", "code"]), el("tbody", "", ...listed.map(([run, f]) => row(String(run), [f.symbol, f.side, f.planned, f.planned_price, f.quantity || "–", f.price || "–", f.fee ? `${f.fee} ${f.fee_currency}` : "–", at(f.time), f.code || ""]))));
}

unpack().then(start).catch(error => { document.body.prepend(el("div", "empty bad", `This page could not be drawn: ${error.message}. It needs a browser of 2023 or later.`)); });
