// Keys of the approval queue: j and k move, a approves, r rejects the signal that has the focus.
const rows = () => [...document.querySelectorAll("[data-signal]")];
let chosen = null; // id of the signal that had the focus last: the region may be loaded again under it
let place = 0;

function choose(row) {
  if (!row) return;
  for (const other of rows()) other.tabIndex = other === row ? 0 : -1;
  chosen = row.id;
  place = rows().indexOf(row);
  row.focus();
}

document.addEventListener("focusin", (event) => {
  const row = event.target.closest?.("[data-signal]");
  if (row) {
    chosen = row.id;
    place = rows().indexOf(row);
  }
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const found = rows();
  const current = found.find((row) => row.id === chosen);
  if (event.key === "j") choose(current ? found[found.indexOf(current) + 1] ?? current : found[0]);
  else if (event.key === "k") choose(current ? found[found.indexOf(current) - 1] ?? current : found.at(-1));
  else if ((event.key === "a" || event.key === "r") && current && !event.repeat) {
    current.querySelector(`[data-key="${event.key}"]`)?.click();
  } else return;
  event.preventDefault();
});

// After an update the focus goes back to the same signal, or to the one in its place when it is decided.
document.body.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.target?.id !== "region" || chosen === null || document.activeElement !== document.body) return;
  const found = rows();
  choose(found.find((row) => row.id === chosen) ?? found[Math.min(place, found.length - 1)]);
});
