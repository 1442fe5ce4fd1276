function start(data) {
  const { overfitting: luck, out_of_sample: outside, best, objectives, ledger } = data, objective = objectives[0];
  document.querySelector("main").hidden = false;
  $("title").textContent = `${data.strategy} on ${data.symbol} ${data.timeframe}`;
  $("what").textContent = `${data.plan.method}, ${digits(data.trials.total, 0)} trials of ${Object.keys(data.space).join(", ")} · ${day(data.from)} to ${day(data.to)}, ${digits(data.bars, 0)} bars`;
  $("findings").hidden = !data.findings.length;
  $("findings").firstElementChild.replaceChildren(...data.findings.map(text => el("li", "", text)));

  const good = (value, least) => missing(value) ? "dim" : value >= least ? "ok" : "bad";
  const tile = (name, value, cls, more) => el("div", "tile", el("div", "name", name), el("div", "value " + (cls || ""), value), el("div", "more", more || ""));
  $("tiles").replaceChildren(
    tile(`${objective} where chosen`, digits(best.values[0], 2), "", params(best.params)),
    tile(`${objective} held back`, digits(outside && outside.value_test_mean, 2), tone(outside && outside.value_test_mean), outside ? `${outside.tests_above_zero} of ${outside.tests} tests above 0` : "nothing was held back"),
    tile("deflated Sharpe", digits(luck.deflated_sharpe, 2), good(luck.deflated_sharpe, 0.95), `best of ${digits(luck.trials, 0)}; passes from 0.95 on`),
    tile("deflated by all so far", digits(ledger && ledger.deflated_sharpe, 2), ledger ? good(ledger.deflated_sharpe, 0.95) : "dim", ledger ? `${digits(ledger.trials, 0)} trials, ${ledger.earlier_runs} earlier runs` : "not on stored bars"));
  held(data);
  tests(data, objective);
  surface(data, objective);
  tables(data, objective);
  $("foot").textContent = `FKS ${data.version} · times are UTC · this page loads nothing: it can be kept and sent as one file`;
}
const params = found => Object.entries(found).filter(([, value]) => value !== null).map(([name, value]) => `${name}=${typeof value === "number" ? +value.toPrecision(4) : value}`).join(" ");

// ── curves of the bars that did not choose ──
function held(data) {
  const curves = data.out_of_sample && data.out_of_sample.curves;
  $("held").hidden = !curves;
  if (!curves) { themes(() => {}); return; }
  const times = curves.time.map(text => Date.parse(text) / 1000), step = times.length > 1 ? Math.max(60, times[1] - times[0]) : 86400;
  const charts = new Charts(times, step, null);
  const read = (plotted, i) => {
    const k = i === null || !plotted || plotted[0][i] === undefined ? times.length - 1 : Math.min(firstAt(times, plotted[0][i]), times.length - 1);
    readout("read", [["", stamp(times[k], step)], ["winners", signed(curves.return_pct[k]), token("info")], ["buy and hold", signed(curves.hold_pct[k]), token("warn")], ...(curves.others.length ? [["other paths", `${curves.others.length}`, token("faint")]] : [])]);
  };
  const columns = [...curves.others, curves.hold_pct, curves.return_pct].map(values => ({ values }));
  charts.add({ id: "chart-held", height: 280, label: "return since the first held-back bar, %", read, columns, series: () => [...curves.others.map(() => ({ stroke: token("faint"), width: 1 })), { stroke: token("warn"), width: 1.4, dash: [6, 4] }, { stroke: token("info"), width: 2 }] });
  const paths = data.out_of_sample.paths.length;
  $("held-note").textContent = `winners of ${data.folds.length} ${data.folds.length === 1 ? "search" : "searches"}, each on its own test${paths > 1 ? `; the median of ${paths} paths` : ""}`;
  charts.build();
  themes(() => charts.build());
}
const head = (first, names) => el("thead", "", el("tr", "", el("th", "", first), ...names.map(name => el("th", "num", name))));
const row = (name, cells) => el("tr", "", td("", name), ...cells.map(cell => cell instanceof Node ? cell : td("num", cell)));
function tests(data, objective) {
  $("tests-section").hidden = !data.folds.length;
  $("tests").replaceChildren(head("held back", ["winner", `${objective} where chosen`, "held back", "return", "drawdown", "trades"]), el("tbody", "", ...data.folds.map(fold => {
    const found = fold.test_metrics || {};
    return row(`${day(fold.test[0].from)} to ${day(fold.test[fold.test.length - 1].to)}`, [fold.winner ? params(fold.winner.params) : fold.error || "–", digits(fold.value_train, 2), td("num " + tone(fold.value_test), digits(fold.value_test, 2)), signed(found.return_pct), percent(found.max_drawdown_pct), digits(found.trades, 0)]);
  })));
}

// ── heat map ──
function surface(data, objective) {
  const map = data.stability && data.stability.map;
  $("map-section").hidden = !map;
  if (!map) return;
  const names = Object.keys(map).filter(name => !["mean", "best", "count"].includes(name)), [x, y] = [names[names.length - 1], names.length > 1 ? names[0] : null];
  const axis = name => [...new Set(map[name])], columns = axis(x), rows = y ? axis(y) : [null];
  const place = new Map(map[x].map((value, i) => [JSON.stringify([value, y ? map[y][i] : null]), i]));
  const others = Object.keys(data.space).filter(name => !names.includes(name));
  $("map-title").textContent = `${objective} by ${y ? y + " and " : ""}${x}`;
  $("map-note").textContent = `${others.length ? `best, or mean, over ${others.join(", ")} · ` : ""}the frame is the winner · neighbours reach ${data.stability.ratio === null ? "–" : digits(100 * data.stability.ratio, 0) + " %"} of the best`;
  const draw = kind => {
    const most = Math.max(...map[kind].map(Math.abs)) || 1, wins = data.best.params;
    for (const name of ["best", "mean"]) $("map-" + name).setAttribute("aria-pressed", String(name === kind));
    const many = columns.length > 24;
    $("map").style.gridTemplateColumns = `auto repeat(${columns.length}, minmax(${many ? 6 : 34}px, 1fr))`;
    const text = value => typeof value === "number" ? +value.toPrecision(4) : value === null ? "–" : value;
    $("map").replaceChildren(
      el("div", "head", y ? `${y} ╲ ${x}` : x), ...columns.map((value, i) => el("div", "head", many && i % Math.ceil(columns.length / 12) ? "" : `${text(value)}`)),
      ...rows.flatMap(r => [el("div", "head", r === null ? "" : `${text(r)}`), ...columns.map(c => {
        const i = place.get(JSON.stringify([c, r]));
        const cell = el("div", i === undefined ? "cell none" : "cell", i === undefined || many ? "" : digits(map[kind][i], 2));
        if (i === undefined) return cell;
        cell.title = `${x} ${text(c)}${y ? `, ${y} ${text(r)}` : ""}: ${digits(map[kind][i], 3)}, ${map.count[i]} trials`;
        cell.style.background = `color-mix(in srgb, var(--${map[kind][i] < 0 ? "bad" : "ok"}) ${Math.round(8 + 62 * Math.abs(map[kind][i]) / most)}%, var(--panel))`;
        if (wins[x] === c && (!y || wins[y] === r)) cell.classList.add("wins");
        return cell;
      })]));
  };
  for (const kind of ["best", "mean"]) $("map-" + kind).onclick = () => draw(kind);
  draw("best");
}
function tables(data, objective) {
  const { overfitting: luck, stability: near, ledger, monte_carlo: runs } = data, crossed = luck.cross_validation;
  $("leaders").replaceChildren(head("", [objective, "return", "drawdown", "trades"]), el("tbody", "", ...data.leaders.map(one => row(params(one.params), [digits(one.values[0], 2), signed(one.metrics.return_pct), percent(one.metrics.max_drawdown_pct), digits(one.metrics.trades, 0)]))));
  $("chance").replaceChildren(facts("", [
    ["Sharpe ratio of the best, yearly", digits(luck.sharpe, 2)],
    [`expected of the best of ${digits(luck.trials, 0)} without skill`, digits(luck.sharpe_without_skill, 2), "Bailey & López de Prado 2014"],
    ["deflated Sharpe ratio", digits(luck.deflated_sharpe, 2), "probability that its true ratio is above that; 0.95 passes"],
    luck.hold_sharpe === undefined ? null : ["Sharpe ratio of buying and holding", digits(luck.hold_sharpe, 2)],
    luck.hold_sharpe === undefined ? null : ["deflated, above buying and holding", digits(luck.deflated_sharpe_above_hold, 2)],
    ledger ? [`deflated by all ${digits(ledger.trials, 0)} trials on ${data.symbol} so far`, digits(ledger.deflated_sharpe, 2), "searches and backtests on stored bars of this time"] : null,
    ledger && ledger.held_back_runs !== null ? ["earlier runs that used the bars held back here", digits(ledger.held_back_runs, 0)] : null,
    crossed ? ["probability of overfitting", digits(crossed.pbo, 2), "how often the best of one half of the time is below the median in the other"] : null,
    near && near.mean !== null ? [`${objective} of its ${near.neighbours} neighbours, mean`, digits(near.mean, 2)] : null]));
  $("histories-section").hidden = !runs;
  if (runs) {
    $("histories-note").textContent = runs.of === "out_of_sample" ? "those of the held-back bars" : "its own";
    const kinds = [["bootstrap", "drawn again"], ["blocks", "in blocks"], ["shuffle", "another order"]].filter(([name]) => runs[name]);
    $("histories").replaceChildren(head("", ["profit 5 %", "median", "95 %", "drawdown median", "95 %", "end below the start"]), el("tbody", "", ...kinds.map(([name, text]) => row(text, [digits(runs[name].profit[0], 2), digits(runs[name].profit[2], 2), digits(runs[name].profit[4], 2), percent(runs[name].drawdown_pct[2]), percent(runs[name].drawdown_pct[4]), percent(100 * runs[name].loss_share, 0)]))));
  }
  const range = one => one.choices ? one.choices.join(", ") : `${one.low} to ${one.high}${one.step ? ` by ${one.step}` : ""}`;
  $("params").replaceChildren(facts("the winner's", Object.entries(data.best.all_params).filter(([, value]) => value !== null).map(([name, value]) => [name, value.until ? `fitted until ${value.until}` : String(value), data.space[name] ? `searched: ${range(data.space[name])}` : ""])), facts("search", [["seed", String(data.plan.seed)], ["source", data.source || "–"], ["fingerprint", (data.inputs_hash || "–").slice(0, 16)]]));
}

unpack().then(start).catch(error => { document.body.prepend(el("div", "empty bad", `This page could not be drawn: ${error.message}. It needs a browser of 2023 or later.`)); });
