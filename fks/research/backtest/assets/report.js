const MARKS = 400, PAGE = 50;
let d, charts, columns, fills, logarithmic = false, trades = [], shown = [], sorting = { key: "entry", down: false }, count = PAGE, excursion = "mae_pct";

const param = v => v && v.until ? `fitted until ${v.until}` : v;
const money = value => missing(value) ? "–" : digits(value, 2);

function start(data) {
  d = data;
  const c = d.columns;
  columns = Object.fromEntries(Object.entries(c).filter(([, v]) => v && v.deltas).map(([name, packed]) => [name, column(packed)]));
  const cash = Number(d.cash);
  fills = { time: column(d.fills.time), price: column(d.fills.price), kind: d.fills.kind };
  columns.benchmark = columns.close.map(v => cash * v / c.first_open);
  trades = d.trades.entry.map((_, i) => Object.fromEntries(["side", "entry", "exit", "bars", "quantity", "entry_price", "exit_price", "pnl", "pnl_pct", "mae_pct", "mfe_pct", "reason"].map(k => [k, d.trades[k][i]]).concat([["number", i + 1]])));
  document.querySelector("main").hidden = false;
  head(); tiles(); months(); metrics(); costs(); setup(); gaps(); tradeList(); timeCharts(); scatter(); drawdowns(); spread();
  themes(() => { charts.build(); scatter(); costs(); months(); spread(); });
  $("foot").textContent = `FKS ${d.version} · times are UTC · money in ${d.quote} · this page loads nothing: it can be kept and sent as one file`;
}

// ── what it is ──
function head() {
  const params = Object.entries(d.params).filter(([, v]) => v !== null && v !== false).map(([k, v]) => `${k}=${param(v)}`).join(" ");
  $("title").textContent = `${d.strategy} ${params}`;
  $("what").textContent = `${d.symbol}${d.exchange ? " on " + d.exchange : ""} · ${d.timeframe} bars · ${d.from.slice(0, 16).replace("T", " ")} to ${d.end.slice(0, 16).replace("T", " ")} · ${digits(d.statistics.bars, 0)} bars${d.source ? " · " + d.source : ""}`;
  const m = d.metrics, s = d.statistics, notes = d.no_trades ? [d.no_trades] : [], missed = d.gaps.bars_expected - d.gaps.bars_present;
  if (m.trades < 30) notes.push(`${m.trades} closed trade${m.trades === 1 ? "" : "s"}: too few to distinguish skill from chance.`);
  if (m.periods < 60) notes.push(`${m.periods} ${m.period}s of returns: the yearly ratios are uncertain.`);
  if (missed && d.allow_gaps) notes.push(`${digits(missed, 0)} bars are missing (${digits(d.gaps.gap_pct, 2)} %), and gaps were allowed.`);
  const denied = Object.entries(d.denied);
  if (denied.length) notes.push("Denied: " + denied.map(([code, n]) => `${digits(n, 0)} × ${code}`).join(", ") + ". Live would have denied them too.");
  if (d.liquidations) notes.push(`${digits(d.liquidations, 0)} positions were closed by force: the equity no longer covered the margin (${d.margin}).`);
  if (d.expired) notes.push(`${digits(d.expired, 0)} entries expired: their price was further than ${d.collar_pct} % from the close, where the venue holds the exits.`);
  if (d.final_position !== "0" && Math.abs(Number(d.final_position)) >= Number(d.lot_step)) notes.push(`A position of ${d.final_position} ${d.base} is open at the end, valued at the last close; it is in the equity, not among the trades.`);
  if (s.fees > 0 && s.net_profit <= 0 && s.net_profit + s.fees > 0) notes.push("Without fees this run would have made a profit: the fees took it.");
  notes.push(...(d.findings || []).filter(text => text !== d.no_trades));
  $("notes").hidden = !notes.length;
  $("notes").replaceChildren(el("ul", "", ...notes.map(n => el("li", "", n))));
}
function tiles() {
  const m = d.metrics, s = d.statistics;
  const tile = (name, value, more, cls) => el("div", "tile", el("div", "name", name), el("div", "value " + (cls || ""), value), el("div", "more", more || ""));
  $("tiles").replaceChildren(
    tile("Return", signed(m.total_return_pct), `buy and hold ${signed(m.benchmark_return_pct)}`, tone(m.total_return_pct)),
    tile("Net profit", money(s.net_profit), `${money(d.cash)} → ${money(s.final_equity)} ${d.quote}`, tone(s.net_profit)),
    tile("Max drawdown", percent(m.max_drawdown_pct), `longest ${duration(m.max_drawdown_s)}`, m.max_drawdown_pct ? "bad" : ""),
    tile("Sharpe", digits(m.sharpe, 2), `Sortino ${digits(m.sortino, 2)} · Calmar ${digits(m.calmar, 2)}`, tone(m.sharpe)),
    tile("Trades", digits(m.trades, 0), `${duration(m.average_holding_s)} on average`),
    tile("Win rate", percent(m.win_rate_pct, 1), `payoff ratio ${digits(m.payoff_ratio, 2)}`),
    tile("Profit factor", digits(m.profit_factor, 2), `expectancy ${money(m.expectancy)} a trade`, missing(m.profit_factor) ? "" : m.profit_factor >= 1 ? "ok" : "bad"),
    tile("Fees", money(m.fees), `turnover ${digits(m.turnover, 1)} × · in the market ${percent(m.exposure_pct, 0)}`));
}

// ── charts over time ──
function timeCharts() {
  const step = columns.time.length > 1 ? columns.time[1] - columns.time[0] : 60, c = d.columns;
  charts = new Charts(columns.time, step, viewChanged);
  const place = (times, data, i) => i === null || !data || data[0][i] === undefined ? charts.lastIn(times) : Math.min(firstAt(times, data[0][i]), times.length - 1);
  const readEquity = (data, i) => {
    const at = place(columns.time, data, i), get = name => columns[name][at];
    readout("read-equity", [["", stamp(get("time"), step)], ["equity", money(get("equity")), token("info")], ["buy and hold", money(get("benchmark")), token("dim")], ["drawdown", percent(-get("drawdown")), token("bad")], ["exposure", percent(get("exposure"), 1), token("ok")]]);
  };
  charts.add({ id: "chart-equity", height: 300, label: `equity, ${d.quote}`, axis: false, read: readEquity, log: () => logarithmic,
    columns: [{ values: columns.benchmark }, { values: columns.equity_high, keep: "high" }, { values: columns.equity_low, keep: "low" }, { values: columns.equity }],
    series: () => [{ stroke: token("dim"), width: 1.1 }, { stroke: "transparent" }, { stroke: "transparent" }, { stroke: token("info"), width: 1.7 }],
    bands: () => [{ series: [2, 3], fill: faded(token("info"), .18) }] });
  charts.add({ id: "chart-drawdown", height: 130, label: "drawdown, %", axis: false, read: readEquity, range: (u, low) => [Math.min(low * 1.08, -0.01), 0],
    columns: [{ values: columns.drawdown, keep: "low" }], series: () => [{ stroke: token("bad"), fill: faded(token("bad"), .2), width: 1 }] });
  charts.add({ id: "chart-exposure", height: 120, label: "exposure, % of equity (mean)", read: readEquity, range: (u, low, high) => [Math.min(0, low * 1.1), Math.max(1, high * 1.1)],
    columns: [{ values: columns.exposure }], series: () => [{ stroke: token("ok"), fill: faded(token("ok"), .18), width: 1, paths: uPlot.paths.stepped({ align: 1 }) }] });
  const readPrice = (data, i) => {
    const at = place(columns.time, data, i), now = columns.time[at], trade = trades.find(t => t.entry <= now && now <= t.exit);
    const parts = [["", stamp(now, step)], ["close", price(columns.close[at])], ["low to high", data && i !== null ? `${price(data[2][i])} – ${price(data[1][i])}` : `${price(columns.low[at])} – ${price(columns.high[at])}`]];
    if (trade) parts.push([`trade ${trade.number}, ${trade.side}`, `${signed(trade.pnl_pct)}`, null, tone(trade.pnl_pct)]);
    readout("read-price", parts);
  };
  charts.add({ id: "chart-price", height: 340, label: `${d.symbol}, close within high and low`, read: readPrice, draw: marks, log: () => logarithmic, tick: v => v === null ? "" : digits(v, priceDigits(Math.abs(v)) > 4 ? 6 : Math.abs(v) < 1000 ? 2 : 0),
    columns: [{ values: columns.high, keep: "high" }, { values: columns.low, keep: "low" }, { values: columns.close }],
    series: () => [{ stroke: "transparent" }, { stroke: "transparent" }, { stroke: token("text"), width: 1.1 }],
    bands: () => [{ series: [1, 2], fill: faded(token("dim"), .22) }] });
  const r = d.rolling;
  $("rolling-section").hidden = !r;
  if (r) {
    $("rolling-note").textContent = `${r.window} ${r.period}s each, a year has ${digits(d.metrics.periods_per_year, 0)}`;
    const least = 10 * (r.time.length > 1 ? r.time[1] - r.time[0] : 86400);
    const readRolling = (data, i) => {
      const at = place(r.time, data, i);
      readout("read-rolling", [["", stamp(r.time[at], 86400)], ["Sharpe", digits(r.sharpe[at], 2), token("info")], ["volatility", percent(r.volatility[at], 1), token("warn")], ["of buy and hold", percent(r.benchmark_volatility[at], 1), token("dim")]]);
    };
    charts.add({ id: "chart-sharpe", height: 150, label: "Sharpe ratio", axis: false, times: r.time, least, read: readRolling, columns: [{ values: r.sharpe }], series: () => [{ stroke: token("info") }], draw: zeroLine });
    charts.add({ id: "chart-volatility", height: 150, label: "volatility, % a year", times: r.time, least, read: readRolling, columns: [{ values: r.benchmark_volatility }, { values: r.volatility }], series: () => [{ stroke: token("dim") }, { stroke: token("warn") }] });
  }
  const span = charts.full[1] - charts.full[0], ranges = [["all", Infinity], ["1 y", 31536000], ["3 m", 7776000], ["1 m", 2592000], ["1 w", 604800], ["1 d", 86400]].filter(([, s]) => s === Infinity || (s < span * .9 && s >= step * 20));
  $("ranges").replaceChildren(...(ranges.length > 1 ? ranges : []).map(([name, s]) => {
    const button = el("button", "", name);
    button.onclick = () => { const end = charts.view[1] >= charts.full[1] ? charts.full[1] : (charts.view[0] + charts.view[1]) / 2 + s / 2; charts.show(s === Infinity ? charts.full : [end - s, end]); };
    button.dataset.span = s;
    return button;
  }));
  const log = el("button", "", "log axis");
  log.disabled = columns.equity_low.some(v => v <= 0) || columns.low.some(v => v <= 0);
  log.title = log.disabled ? "the equity or a price is not above 0" : "equity and price on a logarithmic axis";
  log.setAttribute("aria-pressed", "false");
  log.onclick = () => { logarithmic = !logarithmic; log.setAttribute("aria-pressed", String(logarithmic)); charts.build(); };
  $("ranges").append(log);
  const drawn = c.step > 1 ? `each point stands for at least ${c.step} bars` : "every bar is there when zoomed in";
  const how = matchMedia("(pointer: coarse)").matches ? "pinch to zoom" : "drag to zoom, double-click for all";
  $("drawn").textContent = `${how} · ${drawn}; lows and highs stay visible`;
  charts.build();
}
function zeroLine(u) {
  const y = u.valToPos(0, "y", true);
  if (y < u.bbox.top || y > u.bbox.top + u.bbox.height) return;
  u.ctx.save(); u.ctx.strokeStyle = token("faint"); u.ctx.lineWidth = devicePixelRatio; u.ctx.beginPath(); u.ctx.moveTo(u.bbox.left, y); u.ctx.lineTo(u.bbox.left + u.bbox.width, y); u.ctx.stroke(); u.ctx.restore();
}
function viewChanged([from, to]) {
  const inside = firstAt(fills.time, to + 1) - firstAt(fills.time, from), span = to - from;
  $("marks").textContent = !fills.time.length ? "no fill" : `${digits(inside, 0)} fills in view · ${inside > MARKS ? `a dot each; zoom in to ${MARKS} to see which are exits` : "▲ buy ▼ sell, hollow = exit"}`;
  for (const button of $("ranges").children) if (button.dataset.span) button.setAttribute("aria-pressed", String(button.dataset.span === "Infinity" ? span >= charts.full[1] - charts.full[0] - 1 : Math.abs(span - button.dataset.span) < 1));
}
function marks(u) {
  const [from, to] = charts.view, f = fills, first = firstAt(f.time, from), end = firstAt(f.time, to + 1);
  const ctx = u.ctx, size = 5 * devicePixelRatio;
  ctx.save(); ctx.beginPath(); ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height); ctx.clip();
  if (end - first > MARKS) { // a dot for each place on the canvas, however many fills it stands for
    const dot = 2 * devicePixelRatio, seen = new Set(), colors = [faded(token("bad"), .7), faded(token("ok"), .7)];
    for (let i = first; i < end; i++) {
      const isBuy = f.kind.charCodeAt(i) & 1, x = Math.round(u.valToPos(f.time[i], "x", true) / dot), y = Math.round(u.valToPos(f.price[i], "y", true) / dot), place = (x * 20000 + y) * 2 + isBuy;
      if (seen.has(place)) continue;
      seen.add(place); ctx.fillStyle = colors[isBuy]; ctx.fillRect(x * dot, y * dot, dot, dot);
    }
    ctx.restore();
    return;
  }
  if (end - first <= 120) { // lines from entry to exit
    ctx.lineWidth = 1.2 * devicePixelRatio; ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const t of trades) {
      if (t.exit < from || t.entry > to) continue;
      ctx.strokeStyle = token(t.pnl > 0 ? "ok" : "bad"); ctx.beginPath();
      ctx.moveTo(u.valToPos(t.entry, "x", true), u.valToPos(Number(t.entry_price), "y", true)); ctx.lineTo(u.valToPos(t.exit, "x", true), u.valToPos(Number(t.exit_price), "y", true)); ctx.stroke();
    }
    ctx.setLineDash([]);
  }
  for (let i = first; i < end; i++) {
    const x = u.valToPos(f.time[i], "x", true), y = u.valToPos(f.price[i], "y", true), kind = f.kind.charCodeAt(i), up = kind & 1 ? 1 : -1, color = token(kind & 1 ? "ok" : "bad");
    ctx.beginPath(); ctx.moveTo(x, y); ctx.lineTo(x - size, y + up * size * 1.7); ctx.lineTo(x + size, y + up * size * 1.7); ctx.closePath();
    ctx.lineWidth = 1.4 * devicePixelRatio; ctx.strokeStyle = color; ctx.fillStyle = kind & 2 ? color : token("panel"); ctx.fill(); ctx.stroke();
  }
  ctx.restore();
}

// ── tables of numbers ──
function months() {
  const names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"], years = [...new Set(d.months.map(m => m.year))];
  const most = Math.max(1e-9, ...d.months.map(m => Math.abs(m.return_pct || 0)));
  const small = innerWidth < 620, nodes = [el("span", "head", ""), ...names.map(n => el("span", "head", n)), el("span", "head", "year")];
  for (const year of years) {
    const total = d.years.find(y => y.year === year), sum = el("span", "total " + tone(total.return_pct), signed(total.return_pct, 1));
    nodes.push(el("span", "year", String(year)));
    if (small) nodes.push(sum);
    names.forEach((name, i) => {
      const found = d.months.find(m => m.year === year && m.month === i + 1);
      const cell = el("span", found ? "" : "none faint", found ? (small ? name + " " : "") + digits(found.return_pct, Math.abs(found.return_pct) < 100 ? 1 : 0) : "·");
      if (found) {
        const flat = Math.abs(found.return_pct) < .05;
        cell.style.background = flat ? token("soft") : faded(token(found.return_pct > 0 ? "ok" : "bad"), .08 + .5 * Math.abs(found.return_pct) / most);
        cell.title = `${name} ${year}: ${signed(found.return_pct)}, buy and hold ${signed(found.benchmark_pct)}`;
      }
      nodes.push(cell);
    });
    if (!small) nodes.push(sum);
  }
  $("months").replaceChildren(...nodes);
}
function metrics() {
  const m = d.metrics, per = digits(m.periods_per_year, m.periods_per_year % 1 ? 1 : 0);
  $("basis").textContent = `ratios from ${m.periods} returns by ${m.period}, ${per} a year, risk-free rate 0; formulas in docs/backtest-report.md`;
  $("facts").replaceChildren(
    facts("Return", [["Total return", signed(m.total_return_pct), null, tone(m.total_return_pct)], ["Growth a year (CAGR)", signed(m.cagr_pct), "compound, from 30 days on"], ["Mean return a year", signed(m.annual_return_pct), "mean of the returns times their number in a year"], [`Best ${m.period}`, signed(m.best_period_pct)], [`Worst ${m.period}`, signed(m.worst_period_pct)], [`Positive ${m.period}s`, percent(m.positive_periods_pct, 1)]]),
    facts("Risk", [["Volatility a year", percent(m.volatility_pct)], ["Downside deviation", percent(m.downside_deviation_pct), "of losses only, a year"], ["Max drawdown", percent(m.max_drawdown_pct)], ["Longest drawdown", duration(m.max_drawdown_s), "from a peak until it is regained, or the end"], ["Average drawdown", percent(m.average_drawdown_pct)], ["Time under water", percent(m.under_water_pct, 1), "share of bars below the peak"], ["Ulcer index", percent(m.ulcer_index_pct), "root of the mean squared drawdown"], ["VaR 95 %", signed(m.var_95_pct), `5 % of the ${m.period}s were worse`], ["CVaR 95 %", signed(m.cvar_95_pct), "mean of these"], ["Skew", digits(m.skew, 2)], ["Excess kurtosis", digits(m.kurtosis, 2)]]),
    facts("Return for risk", [["Sharpe", digits(m.sharpe, 2)], ["Sortino", digits(m.sortino, 2)], ["Calmar", digits(m.calmar, 2), "CAGR over max drawdown"], ["Recovery factor", digits(m.recovery_factor, 2), "net profit over the largest loss since a peak"], ["SQN", digits(m.sqn, 2), "system quality number, Tharp"], ["Kelly", percent(m.kelly_pct, 1), "win rate less loss rate over payoff ratio"]]),
    facts("Against buy and hold", [["Its return", signed(m.benchmark_return_pct)], ["Its max drawdown", percent(m.benchmark_max_drawdown_pct)], ["Its Sharpe", digits(m.benchmark_sharpe, 2)], ["Alpha a year", signed(m.alpha_pct), "Jensen, compounded"], ["Beta", digits(m.beta, 3)], ["Correlation", digits(m.correlation, 2)], ["Information ratio", digits(m.information_ratio, 2)]]),
    facts("Trades", [["Closed", `${digits(m.trades, 0)} (${digits(m.long_trades, 0)} long, ${digits(m.short_trades, 0)} short)`], ["Win rate", percent(m.win_rate_pct, 1)], ["Profit factor", digits(m.profit_factor, 2)], ["Payoff ratio", digits(m.payoff_ratio, 2), "average win over average loss"], ["Expectancy", `${money(m.expectancy)} · ${signed(m.expectancy_pct, 3)}`, "mean profit of a trade"], ["Average win, loss", `${money(m.average_win)} · ${money(m.average_loss)}`], ["Best, worst", `${signed(m.best_trade_pct)} · ${signed(m.worst_trade_pct)}`], ["In a row won, lost", `${m.wins_in_a_row} · ${m.losses_in_a_row}`]]),
    facts("Holding, exposure and costs", [["Average holding", duration(m.average_holding_s)], ["Median, longest", `${duration(m.median_holding_s)} · ${duration(m.longest_holding_s)}`], ["Average MAE, MFE", `${signed(m.average_mae_pct)} · ${signed(m.average_mfe_pct)}`], ["Time in the market", percent(m.exposure_pct, 1)], ["Exposure mean, most", `${percent(m.average_exposure_pct, 1)} · ${percent(m.max_exposure_pct, 1)}`], ["Turnover", `${digits(m.turnover, 1)} ×`, "traded value over mean equity"], ["Turnover a year", missing(m.turnover_per_year) ? "–" : digits(m.turnover_per_year, 1) + " ×"], ["Traded value", money(m.traded_value)], ["Fees", money(m.fees)], ...(missing(d.funding) ? [] : [["Dividends", money(Number(d.dividends))], ["Funding", money(Number(d.funding))]])]));
}
function costs() {
  const m = d.metrics, s = d.statistics, slipped = Number(d.slippage_cost || 0), rebates = Number(d.rebates || 0), forced = Number(d.liquidation_fees || 0), paid = Number(d.dividends || 0), funded = Number(d.funding || 0), borrow = Number(d.borrow_cost || 0), interest = Number(d.interest_cost || 0), gross = s.net_profit + m.fees + slipped + borrow + interest - paid - funded;
  const rows = [["Before costs", gross, gross >= 0 ? "ok" : "bad"], ...(rebates ? [["Fees", forced - m.fees - rebates, "warn"], ["Rebates of makers", rebates, "ok"]] : [["Fees of entries", -m.entry_fees, "warn"], ["Fees of exits", forced - m.exit_fees, "warn"]]), ...(forced ? [["Liquidation fees", -forced, "warn"]] : []), ...(slipped ? [["Slippage", -slipped, "warn"]] : []), ...(paid ? [["Dividends", paid, paid > 0 ? "ok" : "warn"]] : []), ...(funded ? [["Funding", funded, funded > 0 ? "ok" : "warn"]] : []), ...(borrow ? [["Borrow", -borrow, "warn"]] : []), ...(interest ? [["Interest", -interest, "warn"]] : []), ["Net profit", s.net_profit, s.net_profit >= 0 ? "ok" : "bad"]];
  const most = Math.max(1e-9, ...rows.map(([, v]) => Math.abs(v)));
  $("costs").replaceChildren(...rows.map(([name, value, color]) => {
    const bar = el("i", "");
    bar.style.width = 100 * Math.abs(value) / most + "%"; bar.style.background = token(color);
    return el("div", "cost", el("span", "dim", name), el("span", "", bar), el("span", "num " + (color === "warn" ? "" : tone(value)), money(value)));
  }));
  const maker = d.fee_rate_maker === d.fee_rate ? "" : ` (${digits(100 * Number(d.fee_rate_maker), 4)} % of those of limit orders that rested)`;
  const slip = d.slippage === "none" ? "No slippage is modelled in this run." : `Market and stop orders fill ${d.slippage} worse than the price they meet; that is part of the prices${slipped ? `, ${money(slipped)} in all` : ""}.`;
  $("costs-note").textContent = `Rate ${digits(100 * Number(d.fee_rate), 4)} % of each fill${maker}${d.commission ? " and " + d.commission : ""}, taken ${d.fee_in === "quote" ? "in " + d.quote : "from what is received"}${missing(m.fees_of_gross_profit_pct) ? "" : ` · fees are ${digits(m.fees_of_gross_profit_pct, 0)} % of the winners' profit`}. ${slip}`;
}
function setup() {
  const options = Object.entries(d.params).filter(([, v]) => v !== null && !v.until).map(([k, v]) => ` --set ${k}=${v}`).join("");
  const command = `fks backtest run ${d.strategy} --symbol ${d.symbol}${d.exchange ? " --exchange " + d.exchange : ""} --timeframe ${d.timeframe} --from ${d.from.slice(0, 19)} --to ${d.end.slice(0, 19)}${options} --sizing ${d.sizing} --size ${d.size} --cash ${d.cash} --fee-rate ${d.fee_rate}${d.fee_rate_maker === d.fee_rate ? "" : " --fee-rate-maker " + d.fee_rate_maker} --slippage ${d.slippage.includes(" ") ? `'${d.slippage}'` : d.slippage}${d.margin && d.margin !== "1" ? ` --margin '${d.margin}'` : ""}${d.commission ? ` --commission '${d.commission}'` : ""}${d.borrow ? " --borrow " + d.borrow : ""}${d.can_short ? " --allow-short" : ""}${d.collar_pct ? " --collar " + d.collar_pct : ""}${d.allow_gaps ? " --allow-gaps" : ""}${d.limits ? " --limits" : ""}${d.source === "the shipped sample" ? " --tape sample" : ""} --expect ${d.fills_hash.slice(0, 16)}`;
  const box = facts("", [["Strategy", d.strategy], ...Object.entries(d.params).map(([k, v]) => ["  " + k, v === null ? "none" : String(param(v))]), ["Sizing", d.sizing === "notional" ? `${d.size} ${d.quote} per entry` : `${d.size} ${d.base} per entry`], ["Cash at the start", `${d.cash} ${d.quote}`], ["Fill", d.fill_rule], ["Tick, lot", `${d.tick} ${d.quote}, ${d.lot_step} ${d.base}`], ["Short", d.can_short ? "allowed" : "not allowed"], ["Margin", d.margin || "paid in full"], ["Risk limits", d.limits ? "as live" : "off"], ["Code version", d.version]]);
  const hashes = el("div", "", el("h3", "", "Fingerprint of all inputs"), el("div", "mono", d.inputs_hash), el("h3", "", "Fingerprint of the fills"), el("div", "mono", d.fills_hash), el("h3", "", "Run it again"), el("div", "mono", command));
  $("setup").replaceChildren(box, hashes);
}
function gaps() {
  const g = d.gaps, missed = g.bars_expected - g.bars_present;
  $("gaps").replaceChildren(facts("", [["Source", d.source || "given by the caller"], ["Warm-up from", d.anchor.replace("T", " ").slice(0, 16)], ["First decision", d.from.replace("T", " ").slice(0, 16)], ["Bars with the warm-up", `${digits(g.bars_present, 0)} of ${digits(g.bars_expected, 0)}`], ["Missing", `${digits(missed, 0)} (${digits(g.gap_pct, 3)} %)`, null, missed ? "warn" : ""], ["Calendar", g.calendar], ["Longest gap", missed ? `${g.longest_gap_bars} bars after ${g.longest_gap_after.replace("T", " ").slice(0, 16)}` : "none"], ["Denied", digits(Object.values(d.denied).reduce((a, b) => a + b, 0), 0)]]));
  const rows = d.denied_entries;
  if (rows.length) $("denied").replaceChildren(el("thead", "", el("tr", "", el("th", "", "Time"), el("th", "", "Side"), el("th", "", "Code"), el("th", "", "Why"))), el("tbody", "", ...rows.slice(0, 12).map(r => el("tr", "", td("", r.time.slice(0, 16).replace("T", " ")), td("", r.side), td("", r.code), td("dim", r.detail))), rows.length > 12 ? el("tr", "", td("dim", `and more: ${Object.entries(d.denied).map(([k, n]) => n + " × " + k).join(", ")}`)) : null));
}

// ── drawdowns and the spread of results ──
function drawdowns() {
  const rows = d.drawdowns.map(row => {
    const line = el("tr", "", td("num bad", percent(row.depth_pct)), td("", stamp(row.peak, 86400)), td("wide-only", stamp(row.trough, 86400)), td(row.end ? "" : "warn", row.end ? stamp(row.end, 86400) : "not regained"), td("num", duration(row.length_s)));
    const end = row.end || columns.time[columns.time.length - 1], margin = Math.max(0.1 * (end - row.peak), charts.step * 5);
    line.onclick = () => { charts.show([row.peak - margin, end + margin]); $("chart-equity").scrollIntoView({ block: "center" }); };
    return line;
  });
  if (!rows.length) { $("drawdowns").replaceChildren(el("tbody", "", el("tr", "", td("empty", "none: the equity never fell below a peak")))); return; }
  $("drawdowns").replaceChildren(el("thead", "", el("tr", "", el("th", "num", "Depth"), el("th", "", "Peak"), el("th", "wide-only", "Lowest"), el("th", "", "Regained"), el("th", "num", "Length"))), el("tbody", "", ...rows));
}
function spread() {
  const place = $("spread");
  if (trades.length < 5) { place.replaceChildren(el("div", "empty", trades.length ? "fewer than 5 closed trades" : "no closed trade")); return; }
  const all = trades.map(t => t.pnl_pct).sort((a, b) => a - b), at = share => all[Math.min(all.length - 1, Math.floor(share * all.length))];
  const low = Math.min(at(0.01), 0), high = Math.max(at(0.99), 0), count = Math.max(10, Math.min(40, Math.round(Math.sqrt(all.length) * 1.5)));
  const size = (high - low) / count || 1, left = Math.ceil(-low / size), bins = Array(left + Math.ceil(high / size) || 1).fill(0);
  for (const value of all) bins[Math.max(0, Math.min(bins.length - 1, Math.floor(value / size + 1e-9) + left))]++;
  const most = Math.max(...bins), box = el("div", "bins");
  bins.forEach((n, i) => {
    const bar = el("i", ""), from = (i - left) * size;
    bar.style.height = 100 * n / most + "%"; bar.style.background = token(from + size / 2 > 0 ? "ok" : "bad");
    bar.title = `${i === 0 ? "below" : signed(from) + " to"} ${i === bins.length - 1 ? "and above" : signed(from + size)}: ${digits(n, 0)} trades`;
    box.append(bar);
  });
  $("spread-note").textContent = `percent of the entry; the outer bars hold the worst and the best 1 %`;
  place.replaceChildren(box, el("div", "scale", el("span", "", signed(-left * size)), el("span", "", `median ${signed(at(0.5))}`), el("span", "", signed((bins.length - left) * size))));
}

// ── trades ──
const HEADS = [["number", "#", "num wide-only"], ["side", "Side", ""], ["entry", "Entry (UTC)", ""], ["exit", "Exit", "wide-only"], ["held", "Held", "num"], ["quantity", "Quantity", "num wide-only"], ["entry_price", "Entry price", "num wide-only"], ["exit_price", "Exit price", "num wide-only"], ["pnl", "Profit", "num"], ["pnl_pct", "%", "num"], ["mae_pct", "MAE %", "num wide-only"], ["mfe_pct", "MFE %", "num wide-only"], ["reason", "Exit by", "wide-only"]];
const FILTERS = [["all", "all trades", () => true], ["won", "won", t => Number(t.pnl) > 0], ["lost", "lost", t => Number(t.pnl) <= 0], ["long", "long", t => t.side === "long"], ["short", "short", t => t.side === "short"], ...["stop loss", "take profit", "signal"].map(r => [r, "exit by " + r, t => t.reason === r])];
function tradeList() {
  const t = d.trades;
  $("trades-note").textContent = !t.count ? "" : t.count > t.listed ? `the first ${digits(t.listed, 0)} of ${digits(t.count, 0)}; --trades FILE writes all` : "click one to see it on the charts";
  document.querySelector(".bar").hidden = !trades.length;
  $("filter").replaceChildren(...FILTERS.filter(([, , test]) => trades.some(test)).map(([value, name]) => { const option = el("option", "", name); option.value = value; return option; }));
  $("filter").onchange = $("search").oninput = () => { count = PAGE; listTrades(); };
  $("more").onclick = () => { count += PAGE * 4; listTrades(); };
  $("csv").onclick = download;
  listTrades();
}
function listTrades() {
  const test = (FILTERS.find(([v]) => v === $("filter").value) || FILTERS[0])[2], prefix = $("search").value.trim().replace("T", " ");
  const worth = t => sorting.key === "held" ? t.exit - t.entry : ["side", "reason"].includes(sorting.key) ? t[sorting.key] : Number(t[sorting.key]);
  shown = trades.filter(t => test(t) && stamp(t.entry, 1).startsWith(prefix)).sort((a, b) => { const x = worth(a), y = worth(b); return (x < y ? -1 : x > y ? 1 : a.number - b.number) * (sorting.down ? -1 : 1); });
  const sum = shown.reduce((total, t) => total + Number(t.pnl), 0), won = shown.filter(t => Number(t.pnl) > 0).length;
  $("sum").textContent = shown.length ? `${digits(shown.length, 0)} trades, ${money(sum)} ${d.quote}, ${digits(100 * won / shown.length, 1)} % won` : "";
  const heads = HEADS.map(([key, name, cls]) => {
    const button = el("button", "", name + (sorting.key === key ? (sorting.down ? " ↓" : " ↑") : "")), cell = el("th", cls, button);
    button.onclick = () => { sorting = { key, down: sorting.key === key ? !sorting.down : ["pnl", "pnl_pct", "mfe_pct", "held"].includes(key) }; listTrades(); };
    cell.setAttribute("aria-sort", sorting.key === key ? (sorting.down ? "descending" : "ascending") : "none");
    return cell;
  });
  const rows = shown.slice(0, count).map(t => {
    const line = el("tr", "", td("num dim wide-only", String(t.number)), td("", t.side), td("", stamp(t.entry, 60)), td("dim wide-only", stamp(t.exit, 60)), td("num", duration(t.exit - t.entry)), td("num wide-only", t.quantity), td("num wide-only", price(t.entry_price)), td("num wide-only", price(t.exit_price)), td("num " + tone(t.pnl), money(t.pnl)), td("num " + tone(t.pnl), signed(t.pnl_pct).replace(" %", "")), td("num dim wide-only", digits(t.mae_pct, 2)), td("num dim wide-only", digits(t.mfe_pct, 2)), td("dim wide-only", t.reason));
    line.onclick = () => focusTrade(t);
    return line;
  });
  $("trades").replaceChildren(el("thead", "", el("tr", "", ...heads)), el("tbody", "", ...(rows.length ? rows : [el("tr", "", td("empty", trades.length ? "no trade matches" : "no closed trade"))])));
  $("more-note").hidden = shown.length <= count;
}
function focusTrade(t) {
  const span = Math.max(t.exit - t.entry, charts.step * 10);
  charts.show([t.entry - 1.5 * span, t.exit + 1.5 * span]);
  $("price-section").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "center" });
}
function download() {
  const iso = s => new Date(s * 1000).toISOString().replace(".000", ""), names = ["number", "side", "entry_time", "exit_time", "bars", "quantity", "entry_price", "exit_price", "pnl", "return_pct", "mae_pct", "mfe_pct", "reason"];
  const lines = shown.map(t => [t.number, t.side, iso(t.entry), iso(t.exit), t.bars, t.quantity, t.entry_price, t.exit_price, t.pnl, t.pnl_pct, t.mae_pct, t.mfe_pct, t.reason].join(","));
  const link = el("a", "");
  link.href = URL.createObjectURL(new Blob([[names.join(","), ...lines].join("\n") + "\n"], { type: "text/csv" }));
  link.download = `${d.strategy}-${d.symbol}-${d.timeframe}-trades.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ── excursions ──
function scatter() {
  const place = $("scatter");
  if (!trades.length) { place.replaceChildren(el("div", "empty", "no closed trade")); return; }
  const canvas = el("canvas", "scatter"), tip = el("div", "tip"), box = { left: 52, top: 10, right: 12, bottom: 34 };
  tip.hidden = true; place.replaceChildren(canvas, tip);
  for (const button of $("excursion").children) { button.setAttribute("aria-pressed", String(button.dataset.key === excursion)); button.onclick = () => { excursion = button.dataset.key; scatter(); }; }
  const across = excursion, sign = across === "mae_pct" ? -1 : 1;
  const width = place.clientWidth - 12, height = 280, ratio = devicePixelRatio || 1, ctx = canvas.getContext("2d");
  canvas.width = width * ratio; canvas.height = height * ratio; ctx.scale(ratio, ratio);
  const far = key => { const all = trades.map(t => Math.abs(t[key])).sort((a, b) => a - b); return Math.max(all[all.length - 1], 0.01) * 1.05; };
  const mostX = far(across), mostY = Math.max(0.01, ...trades.map(t => t.pnl_pct)) * 1.1;
  const low = Math.min(0, ...trades.map(t => t.pnl_pct)) * 1.05;
  const x = v => box.left + (width - box.left - box.right) * Math.abs(v) / mostX, y = v => height - box.bottom - (height - box.top - box.bottom) * (v - low) / (mostY - low);
  ctx.font = "11px system-ui, sans-serif"; ctx.fillStyle = token("dim"); ctx.strokeStyle = token("line"); ctx.lineWidth = 1;
  const steps = (least, most, aim) => { const raw = (most - least) / aim, ten = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].map(k => k * ten).find(k => k >= raw), found = []; for (let v = Math.ceil(least / step) * step; v <= most; v += step) found.push([v, step]); return found; };
  ctx.textAlign = "center";
  for (const [v, step] of steps(0, mostX, width < 420 ? 4 : 7)) { ctx.beginPath(); ctx.moveTo(x(v), box.top); ctx.lineTo(x(v), height - box.bottom); ctx.stroke(); ctx.fillText(digits(sign * v, step < 1 ? 2 : 0), x(v), height - box.bottom + 14); }
  ctx.fillText(sign < 0 ? "MAE: worst price while held, %" : "MFE: best price while held, %", (box.left + width) / 2, height - 6);
  ctx.textAlign = "right";
  for (const [v, step] of steps(low, mostY, 6)) { ctx.beginPath(); ctx.moveTo(box.left, y(v)); ctx.lineTo(width - box.right, y(v)); ctx.stroke(); ctx.fillText(digits(v, step < 1 ? 2 : 0), box.left - 6, y(v) + 4); }
  ctx.strokeStyle = token("faint"); ctx.beginPath(); ctx.moveTo(box.left, y(0)); ctx.lineTo(width - box.right, y(0)); ctx.stroke();
  const radius = trades.length > 2000 ? 1.6 : trades.length > 300 ? 2.4 : 3.5, share = trades.length > 2000 ? .35 : .6;
  for (const t of trades) { ctx.fillStyle = faded(token(Number(t.pnl) > 0 ? "ok" : "bad"), share); ctx.beginPath(); ctx.arc(x(t[across]), y(t.pnl_pct), radius, 0, 7); ctx.fill(); }
  ctx.fillStyle = token("dim"); ctx.textAlign = "left"; ctx.fillText("result, %", box.left + 6, box.top + 10);
  const nearest = event => {
    const r = canvas.getBoundingClientRect(), px = event.clientX - r.left, py = event.clientY - r.top;
    let best = null, least = 400;
    for (const t of trades) { const far2 = (x(t[across]) - px) ** 2 + (y(t.pnl_pct) - py) ** 2; if (far2 < least) { least = far2; best = t; } }
    return best;
  };
  canvas.onpointermove = event => {
    const t = nearest(event);
    tip.hidden = !t; canvas.style.cursor = t ? "pointer" : "";
    if (!t) return;
    tip.replaceChildren(el("b", "", `trade ${t.number} ${t.side} `), el("span", tone(t.pnl), signed(t.pnl_pct)), el("div", "dim", `MAE ${digits(t.mae_pct, 2)} % · MFE ${digits(t.mfe_pct, 2)} % · ${t.reason}`), el("div", "dim", `${stamp(t.entry, 60)} · ${duration(t.exit - t.entry)}`));
    tip.style.left = Math.max(0, Math.min(x(t[across]) + 12, width - tip.offsetWidth)) + "px"; tip.style.top = Math.max(0, y(t.pnl_pct) - tip.offsetHeight - 8) + "px";
  };
  canvas.onpointerleave = () => { tip.hidden = true; };
  canvas.onclick = event => { const t = nearest(event); if (t) focusTrade(t); };
}

unpack().then(start).catch(error => { document.body.prepend(el("div", "empty bad", `This report could not be drawn: ${error.message}. It needs a browser of 2023 or later.`)); });
