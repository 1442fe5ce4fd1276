const COLORS = ["info", "ok", "warn", "bad", "text", "dim"];
const DASHES = [[], [6, 4], [2, 3]];
const LISTED = 500;

function start(data) {
  const { members, statistics: s, equity, currency } = data, cash = Number(data.cash), step = 60;
  document.querySelector("main").hidden = false;
  $("title").textContent = members.map(m => m.name).join(" · ");
  $("what").textContent = `${members.length} members on one account · ${day(data.from)} to ${day(data.to)} · ${digits(cash, 2)} ${currency} at the start`;
  const tile = (name, value, cls) => el("div", "tile", el("div", "name", name), el("div", "value " + (cls || ""), value));
  $("tiles").replaceChildren(
    tile("return", signed(s.return_pct), tone(s.return_pct)), tile("net profit", digits(s.net_profit, 2), tone(s.net_profit)), tile("max drawdown", percent(s.max_drawdown_pct)),
    tile("Sharpe", digits(s.sharpe, 2)), tile("trades", digits(s.trades, 0)), tile("won", percent(s.win_rate_pct)), tile("most exposure", percent(s.max_exposure_pct)), tile("fees", digits(s.fees, 2)), ...(missing(data.funding) ? [] : [tile("dividends", digits(Number(data.dividends), 2)), tile("funding", digits(Number(data.funding), 2))]));

  const times = equity.map(row => Date.parse(row[0]) / 1000), values = equity.map(row => row[1]);
  const share = equity.map(row => row[1] > 0 ? 100 * row[2] / row[1] : 0), profits = members.map((_, i) => equity.map(row => row[3 + i]));
  let peak = cash;
  const falls = values.map(v => { peak = Math.max(peak, v); return 100 * (v / peak - 1); });
  const charts = new Charts(times, step, null);
  const color = i => token(COLORS[i % COLORS.length]), dash = i => DASHES[Math.floor(i / COLORS.length) % DASHES.length];
  const at = (plotted, i) => i === null || !plotted || plotted[0][i] === undefined ? charts.lastIn(times) : Math.min(firstAt(times, plotted[0][i]), times.length - 1);
  const read = (plotted, i) => {
    const k = at(plotted, i);
    readout("read", [["", stamp(times[k], step)], ["equity", digits(values[k], 2)], ["drawdown", signed(falls[k])], ["exposure", percent(share[k])]]);
  };
  const readMembers = (plotted, i) => {
    const k = at(plotted, i);
    readout("read-members", [["", stamp(times[k], step)], ...members.map((m, n) => [m.name, digits(profits[n][k], 2), color(n)])]);
  };
  const line = name => () => [{ stroke: token(name), width: 1.5 }];
  charts.add({ id: "chart-equity", height: 280, label: `equity, ${currency}`, axis: false, read, columns: [{ values }], series: line("info") });
  charts.add({ id: "chart-drawdown", height: 120, label: "drawdown, %", axis: false, read, columns: [{ values: falls, keep: "low" }], series: line("bad"), range: (u, low) => [Math.min(low * 1.08, -0.01), 0] });
  charts.add({ id: "chart-exposure", height: 120, label: "exposure, % of the equity", read, columns: [{ values: share, keep: "high" }], series: line("dim") });
  charts.add({ id: "chart-members", height: 260, label: `profit, ${currency}`, read: readMembers, columns: profits.map(column => ({ values: column })), series: () => members.map((_, i) => ({ stroke: color(i), dash: dash(i), width: 1.5 })) });
  $("drawn").textContent = `${matchMedia("(pointer: coarse)").matches ? "pinch to zoom" : "drag to zoom, double-click for all"} · at most 500 points; the figures are of every bar`;
  charts.build();
  tables(data);
  themes(() => charts.build());
  $("foot").textContent = `FKS ${data.version} · times are UTC · this page loads nothing: it can be kept and sent as one file`;
}
function tables(data) {
  const { members, statistics: s, correlations, denied } = data;
  const head = (first, names) => el("thead", "", el("tr", "", el("th", "", first), ...names.map(name => el("th", "num", name))));
  const row = (name, cells) => el("tr", "", td("", name), ...cells);
  const num = (value, cls) => td("num" + (cls ? " " + cls : ""), value);
  const kinds = m => Object.entries(m.denied).map(([code, count]) => `${count} × ${code}`).join(", ") || "–";
  $("members").replaceChildren(
    head("", ["strategy", "symbol", "timeframe", "size", "trades", "won", "net profit", "fees", "drawdown", "missing bars", "denied"]),
    el("tbody", "", ...members.map(m => row(m.name, [num(m.strategy), num(m.symbol), num(m.timeframe), num(`${m.size} (${m.sizing})`), num(digits(m.statistics.trades, 0)), num(percent(m.statistics.win_rate_pct)), num(digits(m.statistics.net_profit, 2), tone(m.statistics.net_profit)), num(digits(m.statistics.fees, 2)), num(percent(m.statistics.max_drawdown_pct)), num(percent(m.gaps.gap_pct)), num(kinds(m))])),
      row("account", [num(""), num(""), num(""), num(""), num(digits(s.trades, 0)), num(percent(s.win_rate_pct)), num(digits(s.net_profit, 2), tone(s.net_profit)), num(digits(s.fees, 2)), num(percent(s.max_drawdown_pct)), num(""), num("")])));
  const cell = value => num(value === null ? "–" : digits(value, 2), value === null ? "dim" : "");
  const names = Object.keys(correlations.symbols);
  $("interval").textContent = `returns of ${correlations.interval}`;
  $("symbols").replaceChildren(head("", names), el("tbody", "", ...names.map(a => row(a, names.map(b => cell(correlations.symbols[a][b]))))));
  $("profits").replaceChildren(head("", members.map(m => m.name)), el("tbody", "", ...members.map((m, i) => row(m.name, correlations.members[i].map(cell)))));
  const limits = Object.entries(data.risk).map(([name, value]) => [name, value]);
  $("setup").replaceChildren(facts("", [["cash", `${data.cash} ${data.currency}`], ["cash at the end", `${data.final_cash} ${data.currency}`], ["limits", data.limits ? "[risk]" : "none"], ...limits, ["inputs", data.inputs_hash.slice(0, 16)], ["fills", data.fills_hash.slice(0, 16)]]));
  const codes = Object.entries(denied);
  $("denied").replaceChildren(el("tbody", "", ...(codes.length ? codes.map(([code, count]) => row(code, [num(digits(count, 0))])) : [row("none", [])])));
  const shown = data.fills.slice(0, LISTED);
  $("fills-note").textContent = shown.length < data.fills_count ? `the first ${shown.length} of ${data.fills_count}` : `${data.fills_count}, in the order of the account`;
  $("fills").replaceChildren(head("time", ["member", "symbol", "side", "quantity", "price", "fee", "role"]), el("tbody", "", ...shown.map(f => row(f.time.slice(0, 19).replace("T", " "), [num(f.member), num(f.symbol), num(f.side), num(f.quantity), num(f.price), num(`${f.fee} ${f.fee_currency}`), num(f.role)]))));
}

unpack().then(start).catch(error => { document.body.prepend(el("div", "empty bad", `This page could not be drawn: ${error.message}. It needs a browser of 2023 or later.`)); });
